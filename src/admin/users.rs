//! Accounts.

use sestina_api::admin::AdminError;
use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::sasl::Hash;
use sestina_xmpp::sasl::keys::{DEFAULT_ITERATIONS, KeyError, ScramKeys};

use super::RouterAdmin;
use super::types::{Done, User, UserPassword, UserQuery, UserRef, Users};

/// The number of accounts per request.
const PAGE: u32 = 1000;

impl RouterAdmin {
    pub(super) async fn user_add(&self, user: UserPassword) -> Result<Done, AdminError> {
        self.put(user, true).await
    }

    /// A new password ends the user's sessions, because a client that knows only the old one must
    /// not stay.
    pub(super) async fn user_passwd(&self, user: UserPassword) -> Result<Done, AdminError> {
        self.put(user, false).await
    }

    async fn put(&self, user: UserPassword, create: bool) -> Result<Done, AdminError> {
        let jid = self.user(&user.jid)?;
        let bare = jid.as_str().to_owned();
        let mut account = proto::Account {
            bare: bare.clone(),
            ..proto::Account::default()
        };
        if !create {
            // All fields but the password stay as they are.
            let request = proto::AccountRef { bare: bare.clone() };
            let found = self
                .stores
                .account_get(request)
                .await
                .map_err(|e| failed(&bare, e))?;
            account = found.account.unwrap_or(account);
        }
        let password = user.password;
        let keys = tokio::task::spawn_blocking(move || keys(&password)).await;
        account.keys = keys
            .map_err(|error| AdminError::new("internal", error.to_string()))?
            .map_err(|error| AdminError::new("invalid-arguments", error.to_string()))?;
        let request = proto::AccountPutRequest {
            account: Some(account),
            create,
        };
        self.stores
            .account_put(request)
            .await
            .map_err(|e| failed(&bare, e))?;
        self.changed(&bare, !create);
        tracing::info!(user = bare, create, "keys of an account were set");
        Ok(Done { jid: bare })
    }

    pub(super) async fn user_list(&self, query: UserQuery) -> Result<Users, AdminError> {
        let hosts = match query.host {
            Some(host) => vec![self.host(&host)?],
            None => {
                let with_accounts = self.config.host.iter().filter(|host| !host.anonymous);
                with_accounts.map(|host| host.domain.clone()).collect()
            }
        };
        let mut users = Vec::new();
        for host in hosts {
            let mut after = String::new();
            loop {
                let request = proto::AccountListRequest {
                    host: host.clone(),
                    after,
                    limit: PAGE,
                };
                let page = self
                    .stores
                    .account_list(request)
                    .await
                    .map_err(|e| failed(&host, e))?;
                let Some(last) = page.accounts.last() else {
                    break;
                };
                after = last.bare.clone();
                users.extend(page.accounts.into_iter().map(told));
            }
        }
        users.sort_by(|a, b| a.jid.cmp(&b.jid));
        Ok(Users { users })
    }

    pub(super) async fn user_show(&self, user: UserRef) -> Result<User, AdminError> {
        let bare = self.user(&user.jid)?.as_str().to_owned();
        let request = proto::AccountRef { bare: bare.clone() };
        let found = self
            .stores
            .account_get(request)
            .await
            .map_err(|e| failed(&bare, e))?;
        let missing = || failed(&bare, StoreError::NotFound(bare.clone()));
        found.account.map(told).ok_or_else(missing)
    }

    pub(super) async fn user_disable(
        &self,
        user: UserRef,
        disabled: bool,
    ) -> Result<Done, AdminError> {
        let bare = self.user(&user.jid)?.as_str().to_owned();
        let request = proto::AccountDisable {
            bare: bare.clone(),
            disabled,
        };
        self.stores
            .account_set_disabled(request)
            .await
            .map_err(|e| failed(&bare, e))?;
        self.changed(&bare, disabled);
        tracing::info!(user = bare, disabled, "an account was changed");
        Ok(Done { jid: bare })
    }

    pub(super) async fn user_delete(&self, user: UserRef) -> Result<Done, AdminError> {
        let bare = self.user(&user.jid)?.as_str().to_owned();
        let request = proto::AccountRef { bare: bare.clone() };
        self.stores
            .account_delete(request)
            .await
            .map_err(|e| failed(&bare, e))?;
        self.changed(&bare, true);
        tracing::info!(user = bare, "an account was deleted");
        Ok(Done { jid: bare })
    }

    /// A bare JID of a host that has accounts.
    fn user(&self, text: &str) -> Result<Jid, AdminError> {
        let invalid = |why: String| AdminError::new("invalid-arguments", why);
        let jid = Jid::parse(text).map_err(|error| invalid(format!("{text:?}: {error}")))?;
        if jid.local().is_none() || !jid.is_bare() {
            return Err(invalid(format!(
                "{text:?} is no user; write it like alice@example.org"
            )));
        }
        self.host(jid.domain())?;
        Ok(jid)
    }

    fn host(&self, domain: &str) -> Result<String, AdminError> {
        let host = self.config.host.iter().find(|host| host.domain == domain);
        match host {
            Some(host) if host.anonymous => Err(AdminError::new(
                "invalid-arguments",
                format!("{domain} is for anonymous users, it has no accounts"),
            )),
            Some(host) => Ok(host.domain.clone()),
            None => {
                let all: Vec<_> = self.config.host.iter().map(|h| h.domain.as_str()).collect();
                let text = format!("{domain} is not served here; hosts: {}", all.join(", "));
                Err(AdminError::new("invalid-arguments", text))
            }
        }
    }

    fn changed(&self, bare: &str, close: bool) {
        if let Some(running) = self.cell.get() {
            running.router.user_changed(bare, close);
        }
    }
}

fn told(account: proto::Account) -> User {
    User {
        jid: account.bare,
        disabled: account.disabled,
        created_ms: account.created_ms,
        mechanisms: account
            .keys
            .into_iter()
            .map(|keys| keys.mechanism)
            .collect(),
    }
}

fn keys(password: &str) -> Result<Vec<proto::ScramKeys>, KeyError> {
    [Hash::Sha1, Hash::Sha256]
        .into_iter()
        .map(|hash| {
            let keys = ScramKeys::generate(password, hash, DEFAULT_ITERATIONS)?;
            Ok(proto::ScramKeys {
                mechanism: hash.mechanism().name().to_owned(),
                salt: keys.salt.into(),
                iterations: keys.iterations,
                stored_key: keys.stored_key.into(),
                server_key: keys.server_key.into(),
            })
        })
        .collect()
}

fn failed(name: &str, error: StoreError) -> AdminError {
    match error {
        StoreError::Exists(_) => AdminError::new(
            "exists",
            format!("{name} exists already; set its password with `user passwd {name}`"),
        ),
        StoreError::NotFound(_) => AdminError::new("not-found", format!("there is no user {name}")),
        StoreError::Unavailable(_) => AdminError::new("away", error.to_string()),
        StoreError::Invalid(_) | StoreError::Internal(_) => {
            AdminError::new("internal", error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sestina_xmpp::sasl::keys::verify_password;

    use super::*;

    #[test]
    fn keys_of_both_kinds_fit_the_password() {
        let keys = keys("pencil").unwrap();
        let mechanisms: Vec<_> = keys.iter().map(|k| k.mechanism.as_str()).collect();
        assert_eq!(mechanisms, ["SCRAM-SHA-1", "SCRAM-SHA-256"]);
        for (keys, hash) in keys.iter().zip([Hash::Sha1, Hash::Sha256]) {
            let keys = ScramKeys {
                hash,
                salt: keys.salt.to_vec(),
                iterations: keys.iterations,
                stored_key: keys.stored_key.to_vec(),
                server_key: keys.server_key.to_vec(),
            };
            assert!(verify_password(&keys, "pencil"));
            assert!(!verify_password(&keys, "pencils"));
        }
        assert_eq!(super::keys(""), Err(KeyError::EmptyPassword));
    }
}
