//! Redis as a lease authority, on a connection of its own.
//!
//! `{lease}:h:<name>` holds the incarnation that has the lease and lives as long as it;
//! `{lease}:m:<name>:<incarnation>` is the mark that keeps an ended lease from being renewed;
//! `{lease}:n` maps names to their nodes, for the list.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use redis::{FromRedisValue, Value};
use sestina_api::lease::{AuthorityAway, LeaseAuthority, Renewal};
use sestina_proto as proto;

use crate::config::{RedisConfig, RedisConfigError};
use crate::connection::{Link, Lua};
use crate::scripts;

const NODES: &str = "{lease}:n";
/// How long a mark is kept: incarnations are never used again, so this only bounds the memory.
const MARK_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Leases in Redis: one server, Sentinel or Redis Cluster.
pub struct RedisLeases {
    link: Link,
    limit: Duration,
    renew: Lua,
    release: Lua,
    mark: Lua,
    fresh: Lua,
}

impl RedisLeases {
    /// Starts connecting in the background; Redis need not be there yet. Needs a tokio runtime.
    pub fn connect(config: &RedisConfig) -> Result<RedisLeases, RedisConfigError> {
        Ok(RedisLeases {
            link: Link::start("leases", config)?,
            limit: config.lease_timeout,
            renew: Lua::new(scripts::RENEW),
            release: Lua::new(scripts::RELEASE),
            mark: Lua::new(scripts::MARK),
            fresh: Lua::new(scripts::FRESH),
        })
    }

    async fn script<T: FromRedisValue>(
        &self,
        lua: &Lua,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<T, AuthorityAway> {
        parse(self.link.script(self.limit, lua, keys, arguments).await)
    }
}

fn parse<T: FromRedisValue>(reply: Result<Value, String>) -> Result<T, AuthorityAway> {
    let value = reply.map_err(AuthorityAway)?;
    T::from_redis_value(value).map_err(|error| AuthorityAway(error.to_string()))
}

fn holder_key(name: &str) -> String {
    format!("{{lease}}:h:{name}")
}

fn mark_key(node: &proto::Node) -> String {
    format!("{{lease}}:m:{}:{}", node.name, node.incarnation)
}

fn decimal(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[async_trait]
impl LeaseAuthority for RedisLeases {
    async fn renew(&self, node: &proto::Node, ttl: Duration) -> Result<Renewal, AuthorityAway> {
        let keys = [holder_key(&node.name), mark_key(node), NODES.to_owned()];
        let arguments = [
            decimal(node.incarnation),
            decimal(ttl.as_millis().max(1)),
            node.name.clone().into_bytes(),
            node.encode_to_vec(),
        ];
        let renewed: bool = self.script(&self.renew, &keys, &arguments).await?;
        Ok(if renewed {
            Renewal::Renewed
        } else {
            Renewal::Lost
        })
    }

    async fn release(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        let keys = [holder_key(&node.name), mark_key(node), NODES.to_owned()];
        let name = node.name.clone().into_bytes();
        let arguments = [
            decimal(node.incarnation),
            decimal(MARK_KEPT.as_millis()),
            name,
        ];
        self.script::<i64>(&self.release, &keys, &arguments)
            .await
            .map(drop)
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityAway> {
        let mut list = redis::cmd("HGETALL");
        list.arg(NODES);
        let words: Vec<Vec<u8>> = flat(self.link.command(self.limit, &list).await)?;
        let mut keys = vec![NODES.to_owned()];
        let (mut names, mut nodes) = (Vec::new(), Vec::new());
        for pair in words.chunks_exact(2) {
            let node = proto::Node::decode(pair[1].as_slice()).map_err(|error| {
                AuthorityAway(format!("a lease's node cannot be read: {error}"))
            })?;
            keys.push(holder_key(&node.name));
            names.push(pair[0].clone());
            nodes.push(node);
        }
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let states: Vec<(u64, i64)> = {
            let raw: Vec<(Vec<u8>, i64)> = self.script(&self.fresh, &keys, &names).await?;
            // The last millisecond counts too: -1 is what tells that nobody holds it.
            let holder = |text: Vec<u8>| String::from_utf8(text).ok()?.parse().ok();
            raw.into_iter()
                .map(|(text, left)| (holder(text).unwrap_or(0), left))
                .collect()
        };
        let both = nodes.into_iter().zip(states);
        Ok(both
            .filter(|(node, (holder, left))| node.incarnation == *holder && *left >= 0)
            .map(|(node, (_, left))| (node, Duration::from_millis(left.unsigned_abs())))
            .collect())
    }

    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityAway> {
        let keys = [holder_key(&node.name), mark_key(node)];
        let arguments = [decimal(node.incarnation), decimal(MARK_KEPT.as_millis())];
        self.script(&self.mark, &keys, &arguments).await
    }

    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        let mut command = redis::cmd("DEL");
        command.arg(mark_key(node));
        parse::<i64>(self.link.command(self.limit, &command).await).map(drop)
    }
}

/// A hash as names and values in turn, whichever protocol version told it.
fn flat(reply: Result<Value, String>) -> Result<Vec<Vec<u8>>, AuthorityAway> {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = parse(reply)?;
    Ok(pairs
        .into_iter()
        .flat_map(|(name, value)| [name, value])
        .collect())
}
