//! What is negotiated on a stream before there is a session. All of it lives in one boxed future that
//! is dropped at bind, so that an idle session does not pay for its login.
//!
//! In either role ([`Role`]):
//!
//! - [`StreamEnd`]: reading events, writing answers, headers, ending with a stream error
//! - [`parser`]: the parser of either framing; [`mod@write`]: what is written beside stanzas
//! - [`starttls`]: asked for, or answered
//!
//! Initiating, which the server does not do yet:
//!
//! - [`initiate`]: to what a server offers under TLS; [`Offer`]: its features
//!
//! Receiving:
//!
//! - [`c2s`]: the stream of a client, from its first byte to its session; [`connection`]: what is known
//!   of the client meanwhile
//! - [`sasl`]: the mechanisms
//! - [`credentials`]: keys from the owner of the user, and passwords checked on a bounded pool
//! - [`turn`]: what an overloaded process does with logins
//! - [`failed_logins`]: the log of failed logins
//! - [`bind`]: resource binding and XEP-0198 resumption

mod bind;
pub(crate) mod c2s;
pub(crate) mod connection;
mod credentials;
pub(crate) mod failed_logins;
mod features;
pub(crate) mod initiating;
pub(crate) mod parser;
mod sasl;
pub(crate) mod starttls;
pub(crate) mod stream_end;
mod turn;
pub(crate) mod write;

pub use features::Offer;
pub use initiating::{InitiateError, Names, initiate};
pub use stream_end::{Role, StreamEnd};
