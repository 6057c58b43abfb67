//! Redis as a lease authority, on a connection of its own.
//!
//! All keys begin with the cluster's prefix.
//!
//! `{lease}:h:<name>` holds the incarnation that has the lease, and expires with the lease;
//! `{lease}:m:<name>:<incarnation>` is the mark that prevents the renewal of an ended lease;
//! `{lease}:p:<name>:<incarnation>` is the hash of the incarnation's secret;
//! `{lease}:n` maps names to their nodes, for the list, and `{lease}:t` to the terms of their
//! leases.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use redis::{FromRedisValue, Value};
use sestina_api::identity::{Holder, Proved};
use sestina_api::lease::{AuthorityUnavailable, LeaseAuthority, Renewal};
use sestina_proto as proto;
use sestina_runtime::guard;

use crate::config::{RedisConfig, RedisConfigError};
use crate::connection::{Link, Lua};
use crate::scripts;

const NODES: &str = "{lease}:n";
const TERMS: &str = "{lease}:t";
/// How long a mark and a proof are kept. Incarnations are never used again, so this only bounds the
/// memory.
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
    ) -> Result<T, AuthorityUnavailable> {
        parse(self.link.script(self.limit, lua, keys, arguments).await)
    }
}

fn parse<T: FromRedisValue>(reply: Result<Value, String>) -> Result<T, AuthorityUnavailable> {
    let value = reply.map_err(AuthorityUnavailable)?;
    T::from_redis_value(value).map_err(|error| AuthorityUnavailable(error.to_string()))
}

fn holder_key(name: &str) -> String {
    format!("{{lease}}:h:{name}")
}

fn mark_key(node: &proto::Node) -> String {
    format!("{{lease}}:m:{}:{}", node.name, node.incarnation)
}

fn proof_key(node: &proto::Node) -> String {
    format!("{{lease}}:p:{}:{}", node.name, node.incarnation)
}

/// The keys of a script that changes a lease.
fn keys(node: &proto::Node) -> [String; 5] {
    let mark = mark_key(node);
    [
        holder_key(&node.name),
        mark,
        NODES.to_owned(),
        proof_key(node),
        TERMS.to_owned(),
    ]
}

/// The stored hash of the secret. A missing secret is an error, never a hash that another one could
/// equal.
fn proof_of(holder: &Holder) -> Result<Vec<u8>, AuthorityUnavailable> {
    let proof = holder.secret.proof().map(Vec::from);
    proof.ok_or_else(|| AuthorityUnavailable("the incarnation's secret is missing".to_owned()))
}

fn decimal(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[async_trait]
impl LeaseAuthority for RedisLeases {
    async fn renew(&self, holder: &Holder, ttl: Duration) -> Result<Renewal, AuthorityUnavailable> {
        let node = &holder.node;
        let mut arguments = arguments(holder)?.to_vec();
        arguments.extend([decimal(ttl.as_millis().max(1)), node.encode_to_vec()]);
        match self.script(&self.renew, &keys(node), &arguments).await? {
            1_i64 => Ok(Renewal::Renewed),
            scripts::WRONG_SECRET => Ok(Renewal::WrongSecret),
            _ => Ok(Renewal::Lost),
        }
    }

    async fn release(&self, holder: &Holder) -> Result<(), AuthorityUnavailable> {
        let (keys, arguments) = (keys(&holder.node), arguments(holder)?);
        match self.script(&self.release, &keys, &arguments).await? {
            scripts::WRONG_SECRET => Err(AuthorityUnavailable(
                "the secret is not that of this incarnation".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    async fn prove(&self, holder: &Holder) -> Result<Proved, AuthorityUnavailable> {
        let mut command = redis::cmd("GET");
        command.arg(self.link.key(&proof_key(&holder.node)));
        let kept: Option<Vec<u8>> = parse(self.link.command(self.limit, &command).await)?;
        let proof = proof_of(holder)?;
        Ok(match kept {
            None => Proved::Unknown,
            Some(kept) if kept == proof => Proved::Yes,
            Some(_) => Proved::No,
        })
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable> {
        let mut list = redis::cmd("HGETALL");
        list.arg(self.link.key(NODES));
        let words: Vec<Vec<u8>> = flat(self.link.command(self.limit, &list).await)?;
        let mut keys = vec![NODES.to_owned(), TERMS.to_owned()];
        let (mut names, mut nodes) = (Vec::new(), Vec::new());
        for pair in words.chunks_exact(2) {
            let node = proto::Node::decode(pair[1].as_slice()).map_err(|error| {
                AuthorityUnavailable(format!("a lease's node cannot be read: {error}"))
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
            // A lease in its last millisecond counts too: only -1 means that no process holds it.
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

    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityUnavailable> {
        let keys = [holder_key(&node.name), mark_key(node)];
        let arguments = [decimal(node.incarnation), decimal(MARK_KEPT.as_millis())];
        self.script(&self.mark, &keys, &arguments).await
    }

    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityUnavailable> {
        let mut command = redis::cmd("DEL");
        command.arg(self.link.key(&mark_key(node)));
        parse::<i64>(self.link.command(self.limit, &command).await).map(drop)
    }
}

/// The first arguments of each change of a lease: incarnation, name, proof, whether the proof is
/// checked, and how long marks and proofs are kept.
fn arguments(holder: &Holder) -> Result<[Vec<u8>; 5], AuthorityUnavailable> {
    let check = if guard!("incarnation-secret") {
        "1"
    } else {
        "0"
    };
    Ok([
        decimal(holder.node.incarnation),
        holder.node.name.clone().into_bytes(),
        proof_of(holder)?,
        check.into(),
        decimal(MARK_KEPT.as_millis()),
    ])
}

/// A hash as alternating names and values, from either version of the Redis protocol.
fn flat(reply: Result<Value, String>) -> Result<Vec<Vec<u8>>, AuthorityUnavailable> {
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = parse(reply)?;
    Ok(pairs
        .into_iter()
        .flat_map(|(name, value)| [name, value])
        .collect())
}
