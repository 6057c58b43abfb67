//! Credentials for edges: keys from storage, kept while they are used, made up for unknown users.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::link::LinkError;
use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_xmpp::sasl::Hash;
use sestina_xmpp::sasl::keys::{ScramKeys, fake_keys};

use super::Shared;
use super::worker_task::now_ms;
use crate::config::KEYS_EVERY_MS;

/// Users whose keys are kept.
const CAPACITY: usize = 100_000;
/// How long keys are kept without a question to storage, in milliseconds. A changed password
/// drops them at once; this bounds what a lost message could cost.
const KEEP_MS: u64 = 2 * KEYS_EVERY_MS;
/// How long storage may be away before keys that nobody waits for are given up.
const AWAY: Duration = Duration::from_secs(60);

/// Keys of users that logged in lately or have a session: a reconnect storm costs no SQL.
#[derive(Default)]
pub(super) struct Cache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// When they were asked for, and what came.
    users: HashMap<String, (u64, proto::Account)>,
    /// How often keys were dropped: what was asked for before that may be out of date.
    dropped: u64,
}

/// A question that was begun.
#[derive(Clone, Copy)]
struct Asked {
    at_ms: u64,
    dropped: u64,
}

impl Cache {
    /// An account whose keys are at most so old.
    fn get(&self, bare: &str, age_ms: u64) -> Option<proto::Account> {
        let inner = self.inner.lock();
        let (at, account) = inner.users.get(bare)?;
        (at + age_ms > now_ms()).then(|| account.clone())
    }

    fn ask(&self) -> Asked {
        Asked {
            at_ms: now_ms(),
            dropped: self.inner.lock().dropped,
        }
    }

    fn put(&self, asked: Asked, account: &proto::Account) {
        let mut inner = self.inner.lock();
        if inner.dropped != asked.dropped {
            return;
        }
        if inner.users.len() >= CAPACITY {
            // Half of them go; those in use come back by themselves.
            let mut keep = false;
            inner.users.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let row = (asked.at_ms, account.clone());
        inner.users.insert(account.bare.clone(), row);
    }

    pub(super) fn forget(&self, bare: &str) {
        let mut inner = self.inner.lock();
        inner.users.remove(bare);
        inner.dropped += 1;
    }
}

impl Shared {
    /// Has the keys of these users ready for when they come back, one question after the other:
    /// their sessions came from another owner, or the keys are growing old.
    pub(super) async fn keep_keys(&self, users: Vec<String>) {
        let end = tokio::time::Instant::now() + AWAY;
        let mut backoff = super::jobs::retry();
        for bare in users {
            while self.credentials.get(&bare, KEYS_EVERY_MS).is_none() {
                let asked = self.credentials.ask();
                let question = proto::AccountRef { bare: bare.clone() };
                match self.ports.stores.account_get(question).await {
                    Ok(reply) => {
                        if let Some(account) = &reply.account {
                            self.credentials.put(asked, account);
                        }
                        break;
                    }
                    Err(StoreError::Away(_)) if tokio::time::Instant::now() < end => {
                        backoff.wait().await;
                    }
                    // Whoever resumes asks himself.
                    Err(_) => break,
                }
            }
        }
    }

    pub(super) async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        let slot = u16::try_from(request.slot).unwrap_or(u16::MAX);
        if !self.lease.serving() || !self.ports.table.load().owned_by(slot, &self.node) {
            return Ok(proto::CredentialsReply::default());
        }
        let known = match self.credentials.get(&request.bare, KEEP_MS) {
            Some(account) => Some(account),
            None => {
                let asked = self.credentials.ask();
                let bare = request.bare.clone();
                match self
                    .ports
                    .stores
                    .account_get(proto::AccountRef { bare })
                    .await
                {
                    Ok(reply) => {
                        if let Some(account) = &reply.account {
                            self.credentials.put(asked, account);
                        }
                        reply.account
                    }
                    Err(StoreError::NotFound(_)) => None,
                    Err(error) => {
                        let reason = error.to_string();
                        return Err(LinkError::Away {
                            peer: "storage".to_owned(),
                            reason,
                        });
                    }
                }
            }
        };
        Ok(match known {
            Some(account) => proto::CredentialsReply {
                owner: true,
                disabled: account.disabled,
                keys: account.keys,
            },
            None => proto::CredentialsReply {
                owner: true,
                disabled: false,
                keys: [Hash::Sha1, Hash::Sha256]
                    .into_iter()
                    .map(|hash| {
                        let rounds = self.config.scram_iterations;
                        wire_keys(&fake_keys(&self.config.secret, &request.bare, hash, rounds))
                    })
                    .collect(),
            },
        })
    }
}

/// Keys as they travel.
pub(crate) fn wire_keys(keys: &ScramKeys) -> proto::ScramKeys {
    proto::ScramKeys {
        mechanism: keys.hash.mechanism().name().to_owned(),
        salt: keys.salt.clone().into(),
        iterations: keys.iterations,
        stored_key: keys.stored_key.to_vec().into(),
        server_key: keys.server_key.to_vec().into(),
    }
}
