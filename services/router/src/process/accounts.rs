//! Credentials for edges: keys from storage, kept while they are used, made up for unknown users.
//!
//! Neither an answer nor its time tells a stranger which users exist or have a session: keys that
//! are at hand are given out after as long as storage took for another question, and all times are
//! whole steps. While storage is unavailable this does not hold: only keys at hand are given out then, so
//! that clients can resume.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::link::LinkError;
use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_xmpp::sasl::Hash;
use sestina_xmpp::sasl::keys::{ScramKeys, fake_keys};
use tokio::time::Instant;

use super::Shared;
use super::worker_task::now_ms;
use crate::config::KEYS_EVERY_MS;

/// Users whose keys are kept.
const CAPACITY: usize = 100_000;
/// How long keys are kept without a question to storage, in milliseconds. A changed password
/// drops them at once; this bounds what a lost message could cost.
const KEEP_MS: u64 = 2 * KEYS_EVERY_MS;
/// How long storage may be unavailable before keys for which no login waits are given up.
const AWAY: Duration = Duration::from_secs(60);

/// Answers take a multiple of this: longer than the differences between finding a row and not.
const STEP: Duration = Duration::from_millis(5);
/// Questions to storage whose times are remembered.
const TIMES: usize = 64;

/// Keys of users that logged in lately or have a session: a reconnect storm costs no SQL.
#[derive(Default)]
pub(super) struct Cache {
    inner: Mutex<Inner>,
    times: Times,
}

/// How long storage took for the last questions.
#[derive(Default)]
struct Times {
    all: Mutex<Vec<Duration>>,
    next: AtomicUsize,
}

impl Times {
    fn add(&self, time: Duration) {
        let mut all = self.all.lock();
        if all.len() < TIMES {
            all.push(time);
        } else {
            all[self.next.fetch_add(1, Relaxed) % TIMES] = time;
        }
    }

    /// One of them.
    fn any(&self) -> Duration {
        let all = self.all.lock();
        let index = rand::random_range(0..all.len().max(1));
        all.get(index).copied().unwrap_or_default()
    }
}

/// The next whole number of steps.
fn whole_steps(time: Duration) -> Duration {
    let steps = time.as_nanos() / STEP.as_nanos() + 1;
    STEP * u32::try_from(steps).unwrap_or(u32::MAX)
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

    /// An account, from here or from storage; which of them it is cannot be told from the time.
    async fn find<E>(
        &self,
        bare: &str,
        ask: impl Future<Output = Result<Option<proto::Account>, E>>,
    ) -> Result<Option<proto::Account>, E> {
        let began = Instant::now();
        let (account, took) = match self.get(bare, KEEP_MS) {
            Some(account) => (Some(account), self.times.any()),
            None => {
                let asked = self.ask();
                let account = ask.await?;
                let took = began.elapsed();
                self.times.add(took);
                if let Some(account) = &account {
                    self.put(asked, account);
                }
                (account, took)
            }
        };
        tokio::time::sleep_until(began + whole_steps(took)).await;
        Ok(account)
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
                let began = Instant::now();
                let question = proto::AccountRef { bare: bare.clone() };
                match self.ports.stores.account_get(question).await {
                    Ok(reply) => {
                        self.credentials.times.add(began.elapsed());
                        if let Some(account) = &reply.account {
                            self.credentials.put(asked, account);
                        }
                        break;
                    }
                    Err(StoreError::Unavailable(_)) if tokio::time::Instant::now() < end => {
                        backoff.wait().await;
                    }
                    // A client that resumes causes the next request.
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
        let bare = request.bare.clone();
        let ask = async {
            match self
                .ports
                .stores
                .account_get(proto::AccountRef { bare })
                .await
            {
                Ok(reply) => Ok(reply.account),
                Err(StoreError::NotFound(_)) => Ok(None),
                Err(error) => Err(LinkError::Unavailable {
                    peer: "storage".to_owned(),
                    reason: error.to_string(),
                }),
            }
        };
        let known = self.credentials.find(&request.bare, ask).await?;
        // Made for every question, so that they are no sign either.
        let made_up = [Hash::Sha1, Hash::Sha256].map(|hash| {
            let rounds = self.config.scram_iterations;
            wire_keys(&fake_keys(&self.config.secret, &request.bare, hash, rounds))
        });
        Ok(match known {
            Some(account) => proto::CredentialsReply {
                owner: true,
                disabled: account.disabled,
                keys: account.keys,
                exists: true,
            },
            None => proto::CredentialsReply {
                owner: true,
                disabled: false,
                keys: made_up.to_vec(),
                exists: false,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// How long an answer takes if storage takes `storage` for one.
    async fn time(cache: &Cache, bare: &str, exists: bool, storage: Duration) -> Duration {
        let began = Instant::now();
        let ask = async {
            tokio::time::sleep(storage).await;
            let account = proto::Account {
                bare: bare.to_owned(),
                ..proto::Account::default()
            };
            Ok::<_, ()>(exists.then_some(account))
        };
        let found = cache.find(bare, ask).await.unwrap();
        assert_eq!(found.is_some(), exists, "{bare}");
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_answer_does_not_tell_whether_keys_were_at_hand() {
        let cache = Cache::default();
        for storage in [12, 13, 11, 14].map(Duration::from_millis) {
            let online = format!("online-{storage:?}@a.example");
            let mut times = vec![time(&cache, &online, true, storage).await];
            for _ in 0..20 {
                times.push(time(&cache, &online, true, storage).await);
                times.push(time(&cache, "nobody@a.example", false, storage).await);
                let offline = format!("{:?}@a.example", Instant::now());
                times.push(time(&cache, &offline, true, storage).await);
            }
            times.dedup();
            assert_eq!(
                times,
                [Duration::from_millis(15)],
                "storage took {storage:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_at_hand_follow_a_storage_that_gets_slower() {
        let cache = Cache::default();
        time(&cache, "online@a.example", true, Duration::from_millis(1)).await;
        for n in 0..TIMES * 2 {
            let bare = format!("{n}@a.example");
            time(&cache, &bare, false, Duration::from_millis(31)).await;
        }
        let took = time(&cache, "online@a.example", true, Duration::ZERO).await;
        assert_eq!(took, Duration::from_millis(35));
    }

    #[tokio::test]
    async fn keys_at_hand_need_no_storage() {
        let cache = Cache::default();
        time(&cache, "online@a.example", true, Duration::ZERO).await;
        let away = async { Err(()) };
        let found = cache.find("online@a.example", away).await;
        assert!(found.unwrap().is_some());
        assert_eq!(
            cache.find("other@a.example", async { Err(()) }).await,
            Err(())
        );
    }
}
