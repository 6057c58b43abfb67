//! Everything before a session exists. All of it lives in one boxed future that is dropped at
//! bind, so that an idle session does not pay for its login.
//!
//! - [`connection`]: reading events, writing answers, ending with a stream error
//! - [`stream`]: stream headers, features, STARTTLS
//! - [`sasl`]: the mechanisms
//! - [`credentials`]: keys from the owner of the user, and passwords checked on a bounded pool
//! - [`turn`]: what an overloaded process does with logins
//! - [`failed`]: the log of failed logins
//! - [`bind`]: resource binding and XEP-0198 resumption

pub(crate) mod bind;
pub(crate) mod connection;
pub(crate) mod credentials;
pub(crate) mod failed;
pub(crate) mod sasl;
pub(crate) mod stream;
mod turn;

use std::sync::Arc;
use std::time::Instant;

use self::connection::{Connection, End};
use super::Session;
use crate::metrics::{Count, Timing};
use crate::shared::Shared;

/// Takes a new connection to a session.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    connection: &mut Connection,
) -> Result<Arc<Session>, End> {
    let began = Instant::now();
    let host = stream::negotiate(shared, connection).await?;
    let user = sasl::authenticate(shared, connection, &host).await?;
    shared.metrics.count(Count::LoginOk, 1);
    connection.authenticated(shared);
    stream::reopen(shared, connection, &host).await?;
    let session = bind::run(shared, connection, &host, &user).await?;
    shared.metrics.timing(Timing::Login, began.elapsed());
    Ok(session)
}
