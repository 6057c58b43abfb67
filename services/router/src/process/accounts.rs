//! Credentials for edges: keys from storage, kept while they are used, made up for unknown users.

use std::collections::HashMap;

use parking_lot::Mutex;
use sestina_api::link::LinkError;
use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_xmpp::sasl::Hash;
use sestina_xmpp::sasl::keys::{ScramKeys, fake_keys};

use super::Shared;
use super::worker_task::now_ms;

/// Users whose keys are kept.
const CAPACITY: usize = 100_000;
/// How long keys are kept without a question to storage, in milliseconds. A changed password
/// drops them at once; this bounds what a lost message could cost.
const KEEP_MS: u64 = 600_000;

/// Keys of users that logged in lately: a reconnect storm costs no SQL.
#[derive(Default)]
pub(super) struct Cache {
    users: Mutex<HashMap<String, (u64, proto::Account)>>,
}

impl Cache {
    fn get(&self, bare: &str) -> Option<proto::Account> {
        let users = self.users.lock();
        let (at, account) = users.get(bare)?;
        (at + KEEP_MS > now_ms()).then(|| account.clone())
    }

    fn put(&self, account: &proto::Account) {
        let mut users = self.users.lock();
        if users.len() >= CAPACITY {
            // Half of them go; those in use come back by themselves.
            let mut keep = false;
            users.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        users.insert(account.bare.clone(), (now_ms(), account.clone()));
    }

    pub(super) fn forget(&self, bare: &str) {
        self.users.lock().remove(bare);
    }
}

impl Shared {
    pub(super) async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        let slot = u16::try_from(request.slot).unwrap_or(u16::MAX);
        if !self.lease.serving() || !self.ports.table.load().owned_by(slot, &self.node) {
            return Ok(proto::CredentialsReply::default());
        }
        let known = match self.credentials.get(&request.bare) {
            Some(account) => Some(account),
            None => {
                let bare = request.bare.clone();
                match self
                    .ports
                    .stores
                    .account_get(proto::AccountRef { bare })
                    .await
                {
                    Ok(reply) => {
                        if let Some(account) = &reply.account {
                            self.credentials.put(account);
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
