//! A master, a replica and three sentinels that watch them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::redis::{RedisCertificates, RedisNode};
use crate::{dir, wait};

const READY: Duration = Duration::from_secs(40);

/// Redis with automatic failover: a quorum of two of three sentinels promotes the replica about
/// one second after the master stopped answering.
#[derive(Debug)]
pub struct RedisSentinel {
    /// Both data servers; either may be the master.
    nodes: Vec<RedisNode>,
    sentinels: Vec<RedisNode>,
    _folder: TempDir,
}

impl RedisSentinel {
    /// The name under which the sentinels know the master.
    pub const MASTER: &'static str = "sestina";

    /// Starts all five and waits until they know one another.
    pub fn start() -> Result<RedisSentinel> {
        RedisSentinel::start_here(None)
    }

    /// The same with TLS, to clients and between the servers.
    pub fn start_tls(certificates: &RedisCertificates) -> Result<RedisSentinel> {
        RedisSentinel::start_here(Some(certificates))
    }

    fn start_here(certificates: Option<&RedisCertificates>) -> Result<RedisSentinel> {
        let folder = dir::make("sentinel")?;
        let sub = |name: &str| -> Result<_> {
            let path = folder.path().join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let delay = ["--repl-diskless-sync-delay", "0"];
        let master = RedisNode::start(&sub("node-0")?, certificates, &delay)?;
        let master_port = master.port.to_string();
        let of = [
            "--replicaof",
            "127.0.0.1",
            &master_port,
            "--repl-diskless-sync-delay",
            "0",
        ];
        let replica = RedisNode::start(&sub("node-1")?, certificates, &of)?;
        wait::wait_for("the replica to follow its master", READY, || {
            let info = replica.command(&["INFO", "replication"])?;
            if !info.text().contains("master_link_status:up") {
                bail!("{}", info.text());
            }
            Ok(())
        })?;
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let path = sub(&format!("sentinel-{number}"))?;
            let file = path.join("sentinel.conf");
            let name = Self::MASTER;
            let text = format!(
                "sentinel monitor {name} 127.0.0.1 {master_port} 2\n\
                 sentinel down-after-milliseconds {name} 1000\n\
                 sentinel failover-timeout {name} 4000\n\
                 sentinel parallel-syncs {name} 1\n"
            );
            let node = RedisNode::start_with(&path, certificates, || {
                fs::write(&file, &text)?;
                let file = file
                    .to_str()
                    .context("the temporary folder's name is not UTF-8")?;
                Ok(vec![file.to_owned(), "--sentinel".to_owned()])
            })?;
            sentinels.push(node);
        }
        let started = RedisSentinel {
            nodes: vec![master, replica],
            sentinels,
            _folder: folder,
        };
        started.wait_agreed(READY)?;
        Ok(started)
    }

    /// URLs of the sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisNode::url).collect()
    }

    /// The port of the master, by the present answer of the sentinels.
    pub fn master_port(&self) -> Result<u16> {
        let sentinel = self.sentinels.first().context("there is no sentinel")?;
        let reply = sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER])?;
        match &reply {
            crate::Reply::Array(items) if items.len() == 2 => Ok(items[1].text().parse()?),
            other => bail!("the sentinel knows no master: {other:?}"),
        }
    }

    /// The port of the data server that is not the master.
    pub fn replica_port(&self) -> Result<u16> {
        let master = self.master_port()?;
        let other = self.nodes.iter().find(|node| node.port != master);
        Ok(other.context("there is no replica")?.port)
    }

    /// The process id of the present master.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.nodes[self.master()?].process.pid())
    }

    /// Kills the present master with SIGKILL. Data that was not replicated is lost.
    pub fn kill9(&mut self) -> Result<()> {
        let master = self.master()?;
        self.nodes[master].process.kill9();
        Ok(())
    }

    /// Suspends the present master; [`Self::resume`] resumes it.
    pub fn suspend(&self) -> Result<()> {
        self.nodes[self.master()?].process.suspend();
        Ok(())
    }

    /// Resumes both data servers.
    pub fn resume(&self) {
        self.nodes.iter().for_each(|node| node.process.resume());
    }

    /// Restarts the data servers that do not run, on their ports.
    pub fn restart(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.process.check_alive().is_err() {
                node.restart()?;
            }
        }
        Ok(())
    }

    /// Waits until the sentinels name another master than `before` and it takes writes.
    pub fn wait_failover(&self, before: u16) -> Result<u16> {
        wait::wait_for("the sentinels to promote the replica", READY, || {
            let port = self.master_port()?;
            if port == before {
                bail!("the master is still {before}");
            }
            let node = self.nodes.iter().find(|node| node.port == port);
            let role = node
                .context("the master is a stranger")?
                .command(&["ROLE"])?;
            match &role {
                crate::Reply::Array(items)
                    if items.first().is_some_and(|r| r.text() == "master") =>
                {
                    Ok(port)
                }
                other => bail!("it is not master yet: {other:?}"),
            }
        })
    }

    fn master(&self) -> Result<usize> {
        let port = self.master_port()?;
        self.nodes
            .iter()
            .position(|node| node.port == port)
            .context("the master is a stranger")
    }

    /// Waits until each sentinel knows the replica and both others.
    fn wait_agreed(&self, limit: Duration) -> Result<()> {
        wait::wait_for("the sentinels to know one another", limit, || {
            for sentinel in &self.sentinels {
                let state = sentinel.command(&["SENTINEL", "MASTER", Self::MASTER])?;
                let known = |name| state.field(name).unwrap_or_default().to_owned();
                let seen = [
                    known("num-slaves"),
                    known("num-other-sentinels"),
                    known("flags"),
                ];
                if seen != ["1", "2", "master"] {
                    bail!("one sentinel sees (replicas, sentinels, flags) {seen:?}");
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn promotes_the_replica() {
        let mut sentinel = RedisSentinel::start().unwrap();
        let before = sentinel.master_port().unwrap();
        crate::command(before, &["SET", "a", "1"]).unwrap();
        crate::command(before, &["WAIT", "1", "1000"]).unwrap();
        let pid = sentinel.pid().unwrap();
        sentinel.kill9().unwrap();
        let after = sentinel.wait_failover(before).unwrap();
        assert_ne!(after, before);
        assert_ne!(sentinel.pid().unwrap(), pid);
        assert_eq!(crate::command(after, &["GET", "a"]).unwrap().text(), "1");
        sentinel.restart().unwrap();
        crate::command(before, &["PING"]).unwrap();
    }
}
