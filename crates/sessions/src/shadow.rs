//! The shadow store in Redis.
//!
//! Keys of slot 12: `{s12}:e` the highest epoch, `{s12}:i` the set of its objects' names, and
//! `{s12}:o:<name>` a hash for each object, which holds its version too (so that an object that
//! Redis evicted is stale, not half there).

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{FromRedisValue, Value};
use sestina_api::shadow::{Shadow, ShadowError, ShadowObject, ShadowOp};
use sestina_runtime::{failpoint, guard};
use tokio::task::JoinSet;

use crate::config::{RedisConfig, RedisConfigError};
use crate::connection::{Link, Lua};
use crate::scripts;

/// Objects fetched by one call of a load.
const FETCH_AT_ONCE: usize = 32;
/// Epochs asked for at one time.
const EPOCHS_AT_ONCE: usize = 128;

/// The shadow store in Redis: one server, Sentinel or Redis Cluster.
pub struct RedisShadow {
    link: std::sync::Arc<Link>,
    limit: Duration,
    apply: Lua,
    install: Lua,
    fetch: Lua,
}

impl RedisShadow {
    /// Starts connecting in the background; Redis need not be there yet. Needs a tokio runtime.
    pub fn connect(config: &RedisConfig) -> Result<RedisShadow, RedisConfigError> {
        Ok(RedisShadow {
            link: std::sync::Arc::new(Link::start("shadow", config)?),
            limit: config.shadow_timeout,
            apply: Lua::new(scripts::APPLY),
            install: Lua::new(scripts::INSTALL),
            fetch: Lua::new(scripts::FETCH),
        })
    }

    async fn names(&self, slot: u16, epoch: u64) -> Result<Vec<String>, ShadowError> {
        let keys = [epoch_key(slot), index_key(slot)];
        let reply = self
            .link
            .script(self.limit, &self.install, &keys, &fence(epoch))
            .await;
        let names = accepted(words(reply.map_err(ShadowError::Away)?)?)?;
        names.into_iter().map(text).collect()
    }

    async fn fetch(&self, slot: u16, names: &[String]) -> Result<Vec<ShadowObject>, ShadowError> {
        let keys: Vec<String> = names.iter().map(|name| object_key(slot, name)).collect();
        let reply = self.link.script(self.limit, &self.fetch, &keys, &[]).await;
        let all: Vec<Vec<Vec<u8>>> = parse(reply.map_err(ShadowError::Away)?)?;
        let mut objects = Vec::with_capacity(names.len());
        for (name, words) in names.iter().zip(all) {
            let mut object = ShadowObject {
                object: name.clone(),
                version: 0,
                fields: Vec::new(),
            };
            let mut version = None;
            let mut words = words.into_iter();
            while let (Some(field), Some(value)) = (words.next(), words.next()) {
                if field == scripts::VERSION.as_bytes() {
                    version = Some(number(value)?);
                } else {
                    object.fields.push((text(field)?, Bytes::from(value)));
                }
            }
            // Without a version it was evicted: the owner writes it anew.
            if let Some(version) = version {
                object.version = version;
                objects.push(object);
            }
        }
        Ok(objects)
    }
}

#[async_trait]
impl Shadow for RedisShadow {
    async fn apply(&self, slot: u16, epoch: u64, ops: Vec<ShadowOp>) -> Result<(), ShadowError> {
        if failpoint::hit_async("shadow.apply").await {
            return Err(ShadowError::Away("a fail point".into()));
        }
        let (keys, arguments) = encode(slot, epoch, ops);
        let reply = self
            .link
            .script(self.limit, &self.apply, &keys, &arguments)
            .await;
        accepted(words(reply.map_err(ShadowError::Away)?)?)?;
        failpoint::hit_async("shadow.applied").await;
        Ok(())
    }

    async fn load(&self, slot: u16, epoch: u64) -> Result<Vec<ShadowObject>, ShadowError> {
        if failpoint::hit_async("shadow.load").await {
            return Err(ShadowError::Away("a fail point".into()));
        }
        // Once the epoch is installed no earlier owner changes anything, so the objects can be
        // fetched in pieces.
        let names = self.names(slot, epoch).await?;
        let mut objects = Vec::with_capacity(names.len());
        for some in names.chunks(FETCH_AT_ONCE) {
            objects.extend(self.fetch(slot, some).await?);
        }
        Ok(objects)
    }

    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, ShadowError> {
        // Each slot is a hash slot of its own in a Redis Cluster, so there is no MGET; the
        // commands share a connection and leave together.
        let mut epochs = vec![0; slots.len()];
        let mut asked = JoinSet::new();
        let mut waiting = slots.iter().copied().enumerate();
        loop {
            while asked.len() < EPOCHS_AT_ONCE
                && let Some((at, slot)) = waiting.next()
            {
                let (link, limit) = (self.link.clone(), self.limit);
                asked.spawn(async move {
                    let mut command = redis::cmd("GET");
                    command.arg(epoch_key(slot));
                    (at, link.command(limit, &command).await)
                });
            }
            let Some(answer) = asked.join_next().await else {
                break;
            };
            let (at, reply) = answer.map_err(|error| ShadowError::Away(error.to_string()))?;
            let epoch: Option<Vec<u8>> = parse(reply.map_err(ShadowError::Away)?)?;
            epochs[at] = epoch.map_or(Ok(0), number)?;
        }
        Ok(epochs)
    }
}

fn epoch_key(slot: u16) -> String {
    format!("{{s{slot}}}:e")
}

fn index_key(slot: u16) -> String {
    format!("{{s{slot}}}:i")
}

fn object_key(slot: u16, object: &str) -> String {
    format!("{{s{slot}}}:o:{object}")
}

fn fence(epoch: u64) -> [Vec<u8>; 2] {
    let check = if guard!("epoch") { "1" } else { "0" };
    [epoch.to_string().into_bytes(), check.into()]
}

/// Keys and arguments of [`scripts::APPLY`].
fn encode(slot: u16, epoch: u64, ops: Vec<ShadowOp>) -> (Vec<String>, Vec<Vec<u8>>) {
    let mut keys = vec![epoch_key(slot), index_key(slot)];
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut arguments: Vec<Vec<u8>> = fence(epoch).into();
    let mut head = |arguments: &mut Vec<Vec<u8>>, kind: &str, object: String| {
        let number = *numbers.entry(object.clone()).or_insert_with(|| {
            keys.push(object_key(slot, &object));
            keys.len()
        });
        arguments.extend([
            kind.into(),
            number.to_string().into_bytes(),
            object.into_bytes(),
        ]);
    };
    let set = |arguments: &mut Vec<Vec<u8>>, version: u64, fields: Vec<(String, Bytes)>| {
        arguments.push(version.to_string().into_bytes());
        arguments.push(fields.len().to_string().into_bytes());
        for (field, value) in fields {
            arguments.push(field.into_bytes());
            arguments.push(value.into());
        }
    };
    for op in ops {
        match op {
            ShadowOp::Replace {
                object,
                version,
                fields,
            } => {
                head(&mut arguments, "R", object);
                set(&mut arguments, version, fields);
            }
            ShadowOp::Update {
                object,
                base,
                set: fields,
                remove,
            } => {
                head(&mut arguments, "U", object);
                arguments.push(base.to_string().into_bytes());
                set(&mut arguments, base.wrapping_add(1), fields);
                arguments.push(remove.len().to_string().into_bytes());
                arguments.extend(remove.into_iter().map(String::into_bytes));
            }
            ShadowOp::Delete { object } => head(&mut arguments, "D", object),
        }
    }
    (keys, arguments)
}

/// What follows `O`; the refusals become errors.
fn accepted(mut words: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, ShadowError> {
    if words.is_empty() {
        return Err(ShadowError::Away("redis gave an empty answer".into()));
    }
    let rest = words.split_off(1);
    match words[0].as_slice() {
        b"O" => Ok(rest),
        b"F" => {
            let known = rest.into_iter().next().unwrap_or_default();
            Err(ShadowError::Fenced {
                known: number(known)?,
            })
        }
        b"S" => Err(ShadowError::Stale(
            rest.into_iter().map(text).collect::<Result<_, _>>()?,
        )),
        _ => Err(ShadowError::Away("redis gave an unknown answer".into())),
    }
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, ShadowError> {
    T::from_redis_value(value).map_err(|error| ShadowError::Away(error.to_string()))
}

fn words(value: Value) -> Result<Vec<Vec<u8>>, ShadowError> {
    parse(value)
}

fn text(word: Vec<u8>) -> Result<String, ShadowError> {
    String::from_utf8(word)
        .map_err(|_| ShadowError::Away("redis holds a name that is not UTF-8".into()))
}

fn number(word: Vec<u8>) -> Result<u64, ShadowError> {
    let number = text(word)?;
    number
        .parse()
        .map_err(|_| ShadowError::Away(format!("redis holds {number:?} for a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_one_key_and_all_share_the_tag() {
        let delete = |object: &str| ShadowOp::Delete {
            object: object.into(),
        };
        let (keys, arguments) = encode(12, 7, vec![delete("a"), delete("b"), delete("a")]);
        assert_eq!(keys, ["{s12}:e", "{s12}:i", "{s12}:o:a", "{s12}:o:b"]);
        let expected = ["7", "1", "D", "3", "a", "D", "4", "b", "D", "3", "a"];
        assert_eq!(arguments, expected.map(|word| word.as_bytes().to_vec()));
    }

    #[test]
    fn broken_answers_are_errors() {
        assert!(matches!(accepted(Vec::new()), Err(ShadowError::Away(_))));
        assert!(matches!(
            accepted(vec![b"X".into()]),
            Err(ShadowError::Away(_))
        ));
        assert!(matches!(
            accepted(vec![b"F".into()]),
            Err(ShadowError::Away(_))
        ));
        let fenced = accepted(vec![b"F".into(), b"18446744073709551615".into()]);
        assert_eq!(fenced, Err(ShadowError::Fenced { known: u64::MAX }));
    }
}
