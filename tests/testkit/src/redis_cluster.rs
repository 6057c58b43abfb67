//! Three masters of a Redis Cluster.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::redis::{RedisCertificates, RedisNode};
use crate::{dir, port, wait};

const READY: Duration = Duration::from_secs(40);
const HASH_SLOTS: usize = 16_384;

/// A Redis Cluster of three masters without replicas, each with one range of the hash slots.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisNode>,
    _folder: TempDir,
}

impl RedisCluster {
    /// Starts the three masters, introduces them and waits until all report a healthy cluster.
    pub fn start() -> Result<RedisCluster> {
        RedisCluster::start_here(None)
    }

    /// The same with TLS, to clients and between the masters.
    pub fn start_tls(certificates: &RedisCertificates) -> Result<RedisCluster> {
        RedisCluster::start_here(Some(certificates))
    }

    fn start_here(certificates: Option<&RedisCertificates>) -> Result<RedisCluster> {
        let folder = dir::make("cluster")?;
        let mut nodes = Vec::new();
        for number in 0..3 {
            let path = folder.path().join(format!("node-{number}"));
            fs::create_dir(&path)?;
            nodes.push(RedisNode::start_with(&path, certificates, || {
                let bus = port::free_port()?.to_string();
                Ok([
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    "2000",
                    "--cluster-require-full-coverage",
                    "no",
                ]
                .map(str::to_owned)
                .to_vec())
            })?);
        }
        let cluster = RedisCluster {
            nodes,
            _folder: folder,
        };
        cluster.form()?;
        Ok(cluster)
    }

    /// URLs of all three.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisNode::url).collect()
    }

    /// The ports of all three, in the order of their hash slots.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// The process id of one master.
    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].process.pid()
    }

    /// Kills one master with SIGKILL.
    pub fn kill9(&mut self, node: usize) {
        self.nodes[node].process.kill9();
    }

    /// Suspends one master.
    pub fn suspend(&self, node: usize) {
        self.nodes[node].process.suspend();
    }

    /// Resumes a suspended master.
    pub fn resume(&self, node: usize) {
        self.nodes[node].process.resume();
    }

    /// Restarts one master on its port (empty, with its place in the cluster) and waits for the
    /// others.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node].restart()?;
        self.wait_ok()
    }

    /// Moves the hash slot of `key` to another node (without its keys), so that clients get a
    /// redirection. Returns the new node's number.
    pub fn move_slot_of(&self, key: &str) -> Result<usize> {
        let slot = match self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])? {
            crate::Reply::Int(slot) => usize::try_from(slot)?,
            other => bail!("redis answered {other:?}"),
        };
        let from = range_of(slot);
        let to = (from + 1) % self.nodes.len();
        let id = self.nodes[to].command(&["CLUSTER", "MYID"])?;
        let slot = slot.to_string();
        // A node does not release a hash slot that has keys.
        let held = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"])?;
        if let crate::Reply::Array(keys) = held {
            for key in &keys {
                self.nodes[from].command(&["DEL", key.text()])?;
            }
        }
        // The new owner first: it announces the slot with a higher epoch.
        for number in [to, from, (to + 1) % self.nodes.len()] {
            self.nodes[number].command(&["CLUSTER", "SETSLOT", &slot, "NODE", id.text()])?;
        }
        self.nodes[to].command(&["CLUSTER", "BUMPEPOCH"])?;
        Ok(to)
    }

    fn form(&self) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            let epoch = (number + 1).to_string();
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
            let (first, last) = range(number);
            let (first, last) = (first.to_string(), last.to_string());
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
        }
        let bus_of = |node: &RedisNode| -> Result<String> {
            let reply = node.command(&["CONFIG", "GET", "cluster-port"])?;
            Ok(reply.field("cluster-port").unwrap_or_default().to_owned())
        };
        for other in &self.nodes[1..] {
            let (port, bus) = (other.port.to_string(), bus_of(other)?);
            self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        self.wait_ok()
    }

    fn wait_ok(&self) -> Result<()> {
        wait::wait_for("the Redis Cluster to be well", READY, || {
            for node in &self.nodes {
                let info = node.command(&["CLUSTER", "INFO"])?;
                let text = info.text();
                let well = [
                    "cluster_state:ok",
                    "cluster_known_nodes:3",
                    "cluster_size:3",
                ];
                let whole = format!("cluster_slots_ok:{HASH_SLOTS}");
                if !well.iter().all(|line| text.contains(line)) || !text.contains(&whole) {
                    bail!("{text}");
                }
            }
            Ok(())
        })
    }
}

fn range(node: usize) -> (usize, usize) {
    (node * HASH_SLOTS / 3, (node + 1) * HASH_SLOTS / 3 - 1)
}

fn range_of(slot: usize) -> usize {
    (0..3).find(|node| slot <= range(*node).1).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_cover_all_hash_slots() {
        assert_eq!(range(0).0, 0);
        assert_eq!(range(2).1, HASH_SLOTS - 1);
        assert!(
            (0..HASH_SLOTS).all(|s| (range(range_of(s)).0..=range(range_of(s)).1).contains(&s))
        );
    }

    #[test]
    fn forms_redirects_and_survives_a_restart() {
        let mut cluster = RedisCluster::start().unwrap();
        let holders = |key: &str| -> Vec<bool> {
            let ask = |port: &u16| crate::command(*port, &["GET", key]).is_ok();
            cluster.ports().iter().map(ask).collect()
        };
        // The hash slot of foo is 12182: the last third.
        assert_eq!(holders("foo"), [false, false, true]);
        assert_eq!(cluster.move_slot_of("foo").unwrap(), 0);
        assert_eq!(holders("foo"), [true, false, false]);
        cluster.kill9(1);
        cluster.restart(1).unwrap();
    }
}
