//! Sessions in a running edge: attachments with their sockets. What is negotiated before is in
//! [`crate::stream`]; what is numbered, held and sent again is in [`crate::attachment`].
//!
//! - [`driver`]: the task of a socket, which reads
//! - [`hands`]: what sessions act through: lanes, sockets, the clock
//! - [`ticker`]: the task that looks at what waits for time to pass

pub(crate) mod driver;
pub(crate) mod hands;
pub(crate) mod ticker;

use std::sync::Arc;

use sestina_proto as proto;

use crate::attachment;
use crate::shared::Shared;

/// One attachment of a session to a socket of this edge.
pub(crate) type Session = attachment::state::Session<Shared>;

/// A bind or resumption that waits.
pub(crate) type Pending = attachment::pending::Pending<Shared>;

/// What came of a bind or a resumption.
pub(crate) enum Answer {
    /// There is a session, and the client has been told.
    Session(Arc<Session>),
    /// The owner refused; the client has not been told.
    Refused(proto::Refused),
}
