//! Keys come from the owner of the user's slot, so that the edge needs no store; unknown users
//! get keys that look the same. Passwords are checked on a bounded pool of threads.

use std::sync::Arc;
use std::time::Duration;

use sestina_proto as proto;
use sestina_runtime::backoff::Backoff;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::sasl::keys::{ScramKeys, verify_password};
use sestina_xmpp::sasl::{Hash, Mechanism, SaslFailure};
use zeroize::Zeroizing;

use crate::shared::Shared;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the owner, and asks again while there is none.
pub(crate) async fn ask(
    shared: &Arc<Shared>,
    bare: &Jid,
) -> Result<proto::CredentialsReply, SaslFailure> {
    let slot = shared.config.slots.slot_of_jid(bare);
    let request = proto::CredentialsRequest {
        slot: slot.into(),
        bare: bare.as_str().to_owned(),
    };
    let deadline = tokio::time::Instant::now() + shared.config.login.credentials_deadline;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        let port = {
            let slot = shared.attachments.slots[usize::from(slot)].lock();
            slot.route.as_ref().map(|set| Arc::clone(&set.port))
        };
        if let Some(port) = port {
            match tokio::time::timeout(PATIENCE, port.credentials(request.clone())).await {
                Ok(Ok(reply)) if reply.owner => return Ok(reply),
                Ok(Ok(_)) => tracing::debug!(slot, "asked a router that is not the owner"),
                Ok(Err(error)) => tracing::debug!(slot, %error, "no credentials"),
                Err(_) => tracing::debug!(slot, "the owner took too long for credentials"),
            }
        }
        let pause = backoff.next_delay();
        if tokio::time::Instant::now() + pause >= deadline {
            return Err(SaslFailure::TemporaryAuthFailure);
        }
        tokio::time::sleep(pause).await;
    }
}

/// The keys for one hash function.
pub(crate) fn keys_for(reply: &proto::CredentialsReply, hash: Hash) -> Option<ScramKeys> {
    let keys = reply
        .keys
        .iter()
        .find(|k| Mechanism::parse(&k.mechanism).is_some_and(|m| m.hash() == Some(hash)))?;
    Some(ScramKeys {
        hash,
        salt: keys.salt.to_vec(),
        iterations: keys.iterations,
        stored_key: keys.stored_key.to_vec(),
        server_key: keys.server_key.to_vec(),
    })
}

/// Whether that is the password. PBKDF2 takes milliseconds: a few threads do it, and a queue of
/// logins before them is not a burden on those who are logged in.
pub(crate) async fn check(
    shared: &Arc<Shared>,
    reply: &proto::CredentialsReply,
    password: Zeroizing<String>,
) -> Result<bool, SaslFailure> {
    let keys = keys_for(reply, Hash::Sha256)
        .or_else(|| keys_for(reply, Hash::Sha1))
        .ok_or(SaslFailure::TemporaryAuthFailure)?;
    let turn = Arc::clone(&shared.password_threads)
        .acquire_owned()
        .await
        .map_err(|_| SaslFailure::TemporaryAuthFailure)?;
    tokio::task::spawn_blocking(move || {
        let right = verify_password(&keys, &password);
        drop(turn);
        right
    })
    .await
    .map_err(|_| SaslFailure::TemporaryAuthFailure)
}
