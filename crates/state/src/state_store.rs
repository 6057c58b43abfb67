//! The state store in Redis.
//!
//! All keys begin with the cluster's prefix. Keys of slot 12: `{s12}:e` its last write (see
//! `scripts`), which is never removed; `{s12}:i` the set of its objects' names; `{s12}:o:<name>` a
//! hash for each object, with its version (so an object that Redis evicted is stale, not
//! incomplete); `{s12}:p` the parts of a change that is too large for one script, and `{s12}:p:<n>` those of
//! the n-th further object of the same script. Commits and loads have a connection each, so a large
//! answer to a load does not delay commits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{FromRedisValue, Value};
use sestina_api::state_store::{
    Found, Listing, LoadPart, ReplicaObject, ReplicaOp, Stamp, StateStore, StateStoreError,
};
use sestina_runtime::{failpoint, guard};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::{RedisConfig, RedisConfigError};
use crate::connection::{Link, Lua};
use crate::scripts;

/// How many objects are requested by one part of a load.
const FETCH_AT_ONCE: usize = 32;
/// How many bytes one answer to a load should hold.
const FETCH_BYTES: usize = 256 << 10;
/// KiB of commits under way at one time: few enough for Redis to finish well within a time limit,
/// since after an outage all slots have changes to write.
const COMMITS_KIB: u32 = 8 << 10;
/// How many epochs are requested at one time.
const EPOCHS_AT_ONCE: usize = 128;

/// The state store in Redis: one server, Sentinel or Redis Cluster.
pub struct RedisStateStore {
    commits: Link,
    under_way: Semaphore,
    loads: Arc<Link>,
    limit: Duration,
    apply: Lua,
    list: Lua,
    fetch: Lua,
}

impl RedisStateStore {
    /// Starts connecting in the background; Redis need not be there yet. Needs a tokio runtime.
    pub fn connect(config: &RedisConfig) -> Result<RedisStateStore, RedisConfigError> {
        Ok(RedisStateStore {
            commits: Link::start("commits", config)?,
            under_way: Semaphore::new(COMMITS_KIB as usize),
            loads: Arc::new(Link::start("loads", config)?),
            limit: config.state_store_timeout,
            apply: Lua::new(scripts::APPLY),
            list: Lua::new(scripts::LIST),
            fetch: Lua::new(scripts::FETCH),
        })
    }
}

#[async_trait]
impl StateStore for RedisStateStore {
    async fn apply(
        &self,
        slot: u16,
        at: Stamp,
        ops: Vec<ReplicaOp>,
    ) -> Result<Found, StateStoreError> {
        if failpoint::hit_async("state_store.apply").await {
            return Err(StateStoreError::Unavailable("a fail point".into()));
        }
        let (keys, arguments) = encode(slot, at, ops);
        let bytes: usize = arguments.iter().map(Vec::len).sum();
        let share = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let turn = self.under_way.acquire_many(share.min(COMMITS_KIB));
        let Ok(Ok(_turn)) = timeout(self.limit, turn).await else {
            return Err(StateStoreError::Unavailable("too much is under way".into()));
        };
        let reply = self
            .commits
            .script(self.limit, &self.apply, &keys, &arguments)
            .await;
        let (found, _) = accepted(words(reply.map_err(StateStoreError::Unavailable)?)?)?;
        failpoint::hit_async("state_store.applied").await;
        Ok(found)
    }

    async fn list(&self, slot: u16, at: Stamp) -> Result<Listing, StateStoreError> {
        if failpoint::hit_async("state_store.load").await {
            return Err(StateStoreError::Unavailable("a fail point".into()));
        }
        let keys = [last_key(slot), index_key(slot), staging_key(slot, 0)];
        let link = if at.n == 0 {
            &self.loads
        } else {
            &self.commits
        };
        let reply = link.script(self.limit, &self.list, &keys, &fence(at)).await;
        let (found, rest) = accepted(words(reply.map_err(StateStoreError::Unavailable)?)?)?;
        let mut rest = rest.into_iter();
        Ok(Listing {
            found,
            at: stamp(&mut rest)?,
            before: stamp(&mut rest)?,
            names: rest.map(text).collect::<Result<_, _>>()?,
        })
    }

    async fn load_part(
        &self,
        slot: u16,
        names: &[String],
        after: Option<&str>,
    ) -> Result<LoadPart, StateStoreError> {
        let names = names.get(..FETCH_AT_ONCE).unwrap_or(names);
        let mut keys = vec![last_key(slot)];
        keys.extend(names.iter().map(|name| object_key(slot, name)));
        let arguments = [
            after.unwrap_or_default().as_bytes().to_vec(),
            FETCH_BYTES.to_string().into_bytes(),
        ];
        let reply = self
            .loads
            .script(self.limit, &self.fetch, &keys, &arguments)
            .await;
        let reply: Vec<Value> = parse(reply.map_err(StateStoreError::Unavailable)?)?;
        let mut reply = reply.into_iter();
        let mut head = || parse::<Vec<u8>>(reply.next().unwrap_or(Value::Nil));
        let at = Stamp::new(number(head()?)?, number(head()?)?);
        let rest = text(head()?)?;
        let objects = names.iter().zip(reply);
        let objects = objects.map(|(name, words)| stored(name, parse(words)?));
        Ok(LoadPart {
            at,
            objects: objects.collect::<Result<_, _>>()?,
            rest: (!rest.is_empty()).then_some(rest),
        })
    }

    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, StateStoreError> {
        // Each slot has a hash slot of its own in a Redis Cluster, so there is no MGET; the
        // commands share a connection and are sent together.
        let mut epochs = vec![0; slots.len()];
        let mut asked = JoinSet::new();
        let mut waiting = slots.iter().copied().enumerate();
        loop {
            while asked.len() < EPOCHS_AT_ONCE
                && let Some((at, slot)) = waiting.next()
            {
                let (link, limit) = (self.loads.clone(), self.limit);
                asked.spawn(async move {
                    let mut command = redis::cmd("GET");
                    command.arg(link.key(&last_key(slot)));
                    (at, link.command(limit, &command).await)
                });
            }
            let Some(answer) = asked.join_next().await else {
                break;
            };
            let (at, reply) =
                answer.map_err(|error| StateStoreError::Unavailable(error.to_string()))?;
            let last: Option<Vec<u8>> = parse(reply.map_err(StateStoreError::Unavailable)?)?;
            let Some(mut last) = last else { continue };
            let epoch = last.iter().position(|byte| *byte == b' ');
            last.truncate(epoch.unwrap_or(last.len()));
            epochs[at] = number(last)?;
        }
        Ok(epochs)
    }
}

fn last_key(slot: u16) -> String {
    format!("{{s{slot}}}:e")
}

fn index_key(slot: u16) -> String {
    format!("{{s{slot}}}:i")
}

fn staging_key(slot: u16, place: usize) -> String {
    match place {
        0 => format!("{{s{slot}}}:p"),
        _ => format!("{{s{slot}}}:p:{place}"),
    }
}

fn object_key(slot: u16, object: &str) -> String {
    format!("{{s{slot}}}:o:{object}")
}

fn fence(at: Stamp) -> [Vec<u8>; 5] {
    let flag = |on: bool| if on { b"1".to_vec() } else { b"0".to_vec() };
    [
        at.epoch.to_string().into_bytes(),
        at.n.to_string().into_bytes(),
        flag(guard!("epoch")),
        flag(guard!("write-order")),
        flag(guard!("base-version")),
    ]
}

/// The keys and arguments of a script call under construction.
struct Encoder {
    slot: u16,
    keys: Vec<String>,
    /// Numbers of the keys, from 1.
    numbers: HashMap<String, usize>,
    arguments: Vec<Vec<u8>>,
}

impl Encoder {
    fn word(&mut self, word: impl Into<Vec<u8>>) {
        self.arguments.push(word.into());
    }

    fn number(&mut self, number: impl ToString) {
        self.word(number.to_string());
    }

    fn head(&mut self, kind: &str, object: String) {
        self.word(kind);
        self.key(object_key(self.slot, &object));
        self.word(object);
    }

    fn key(&mut self, key: String) {
        let number = *self.numbers.entry(key).or_insert_with_key(|key| {
            self.keys.push(key.clone());
            self.keys.len()
        });
        self.number(number);
    }

    fn set(&mut self, fields: Vec<(String, Bytes)>) {
        self.number(fields.len());
        for (field, value) in fields {
            self.word(field);
            self.word(value);
        }
    }

    fn remove(&mut self, fields: Vec<String>) {
        self.number(fields.len());
        fields.into_iter().for_each(|field| self.word(field));
    }
}

fn encode(slot: u16, at: Stamp, ops: Vec<ReplicaOp>) -> (Vec<String>, Vec<Vec<u8>>) {
    let mut script = Encoder {
        slot,
        keys: vec![last_key(slot), index_key(slot), staging_key(slot, 0)],
        numbers: HashMap::from([(staging_key(slot, 0), 3)]),
        arguments: fence(at).into(),
    };
    for op in ops {
        match op {
            ReplicaOp::Replace { object, fields } => {
                script.head("R", object);
                script.set(fields);
            }
            ReplicaOp::Update {
                object,
                base,
                set,
                remove,
            } => {
                script.head("U", object);
                script.number(base);
                script.set(set);
                script.remove(remove);
            }
            ReplicaOp::Delete { object } => script.head("D", object),
            ReplicaOp::Stage { place, base, parts } => {
                script.word("P");
                script.key(staging_key(slot, place));
                script.word("");
                script.word(base.map(|base| base.to_string()).unwrap_or_default());
                script.number(parts.len());
                for part in parts {
                    script.word(part.field);
                    script.number(u8::from(part.append));
                    script.word(part.value);
                }
            }
            ReplicaOp::ReplaceStaged {
                object,
                place,
                staged,
            } => {
                script.head("T", object);
                script.key(staging_key(slot, place));
                script.number(staged);
            }
            ReplicaOp::UpdateStaged {
                object,
                base,
                remove,
                place,
                staged,
            } => {
                script.head("V", object);
                script.key(staging_key(slot, place));
                script.number(staged);
                script.number(base);
                script.remove(remove);
            }
        }
    }
    (script.keys, script.arguments)
}

/// The write that the store knew before, and the rest of the answer; a refusal becomes an error.
fn accepted(words: Vec<Vec<u8>>) -> Result<(Found, Vec<Vec<u8>>), StateStoreError> {
    let mut words = words.into_iter();
    let answer = words.next().unwrap_or_default();
    let found = Found {
        last: stamp(&mut words)?,
        refused: number(words.next().unwrap_or_default())?,
    };
    match answer.as_slice() {
        b"O" => Ok((found, words.collect())),
        b"F" => Err(StateStoreError::Fenced { found }),
        b"S" => Err(StateStoreError::Stale {
            found,
            objects: words.map(text).collect::<Result<_, _>>()?,
        }),
        _ => Err(StateStoreError::Unavailable(
            "redis gave an unknown answer".into(),
        )),
    }
}

fn stamp(words: &mut impl Iterator<Item = Vec<u8>>) -> Result<Stamp, StateStoreError> {
    let mut next = || number(words.next().unwrap_or_default());
    Ok(Stamp::new(next()?, next()?))
}

/// An object as it is stored; none if it has no version: Redis evicted it, and the owner rewrites
/// it.
pub(crate) fn stored(
    name: &str,
    words: Vec<Vec<u8>>,
) -> Result<Option<ReplicaObject>, StateStoreError> {
    let mut version = None;
    let mut fields = Vec::with_capacity(words.len() / 2);
    let mut words = words.into_iter();
    while let (Some(field), Some(value)) = (words.next(), words.next()) {
        if field == scripts::VERSION.as_bytes() {
            let value = text(value)?;
            let (epoch, n) = value.split_once('.').unwrap_or((&value, ""));
            version = Some(Stamp::new(number(epoch.into())?, number(n.into())?));
        } else {
            fields.push((text(field)?, Bytes::from(value)));
        }
    }
    Ok(version.map(|version| ReplicaObject {
        object: name.to_owned(),
        version,
        fields,
    }))
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, StateStoreError> {
    T::from_redis_value(value).map_err(|error| StateStoreError::Unavailable(error.to_string()))
}

fn words(value: Value) -> Result<Vec<Vec<u8>>, StateStoreError> {
    parse(value)
}

fn text(word: Vec<u8>) -> Result<String, StateStoreError> {
    String::from_utf8(word)
        .map_err(|_| StateStoreError::Unavailable("redis holds a name that is not UTF-8".into()))
}

fn number(word: Vec<u8>) -> Result<u64, StateStoreError> {
    let number = text(word)?;
    number
        .parse()
        .map_err(|_| StateStoreError::Unavailable(format!("redis holds {number:?} for a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_one_key_and_all_share_the_tag() {
        let delete = |object: &str| ReplicaOp::Delete {
            object: object.into(),
        };
        let ops = vec![delete("a"), delete("b"), delete("a")];
        let (keys, arguments) = encode(12, Stamp::new(7, 3), ops);
        let expected = ["{s12}:e", "{s12}:i", "{s12}:p", "{s12}:o:a", "{s12}:o:b"];
        assert_eq!(keys, expected);
        let expected = [
            "7", "3", "1", "1", "1", "D", "4", "a", "D", "5", "b", "D", "4", "a",
        ];
        assert_eq!(arguments, expected.map(|word| word.as_bytes().to_vec()));
    }

    #[test]
    fn broken_answers_are_errors() {
        let answer = |words: &[&str]| {
            let words = words.iter().map(|word| word.as_bytes().to_vec());
            accepted(words.collect())
        };
        for broken in [
            &[][..],
            &["O"],
            &["X", "1", "1", "0"],
            &["F", "1", "x", "0"],
        ] {
            let error = answer(broken);
            assert!(
                matches!(error, Err(StateStoreError::Unavailable(_))),
                "{error:?}"
            );
        }
        let found = Found {
            last: Stamp::new(u64::MAX, 2),
            refused: 1,
        };
        let fenced = answer(&["F", "18446744073709551615", "2", "1"]);
        assert_eq!(fenced, Err(StateStoreError::Fenced { found }));
    }
}
