//! The Redis of a cluster: one server, a master that sentinels replace, or three masters.

use anyhow::{Context, Result};
use sestina_testkit::{Redis, RedisCluster, RedisSentinel};

use crate::link::Link;

/// The kind of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    #[default]
    Single,
    /// A master and a replica, watched by three sentinels.
    Sentinel,
    /// Three masters that share the keys.
    Cluster,
}

/// See the module.
pub enum Stores {
    /// One server.
    Single(Redis),
    /// A master and a replica, watched by three sentinels.
    Sentinel(RedisSentinel),
    /// Three masters that share the keys.
    Cluster(RedisCluster),
}

impl Stores {
    /// Starts the servers; blocks.
    pub(crate) fn start(mode: Mode) -> Result<Stores> {
        Ok(match mode {
            Mode::Single => Stores::Single(Redis::start_own()?),
            Mode::Sentinel => Stores::Sentinel(RedisSentinel::start()?),
            Mode::Cluster => Stores::Cluster(RedisCluster::start()?),
        })
    }

    /// The section of the configuration file; with a link, it names the link's port.
    pub(crate) fn section(&self, link: Option<&Link>) -> String {
        if let Some(link) = link {
            let port = link.port();
            return format!("[redis]\nmode = \"single\"\nurls = [\"redis://127.0.0.1:{port}\"]\n");
        }
        let (mode, urls, more) = match self {
            Stores::Single(redis) => ("single", redis.urls(), String::new()),
            Stores::Sentinel(redis) => {
                let name = RedisSentinel::MASTER;
                let more = format!("master_name = \"{name}\"\n");
                ("sentinel", redis.urls(), more)
            }
            Stores::Cluster(redis) => ("cluster", redis.urls(), String::new()),
        };
        format!("[redis]\nmode = \"{mode}\"\nurls = {urls:?}\n{more}")
    }

    /// The port of the only server.
    pub fn port(&self) -> Result<u16> {
        match self {
            Stores::Single(redis) => Some(redis.port()),
            Stores::Sentinel(_) | Stores::Cluster(_) => None,
        }
        .context("this Redis has more than one server")
    }

    /// Kills one server (the master; one of three masters) with SIGKILL; data that it had not
    /// replicated is lost.
    pub fn kill9(&mut self) -> Result<()> {
        match self {
            Stores::Single(redis) => redis.kill9(),
            Stores::Sentinel(redis) => redis.kill9()?,
            Stores::Cluster(redis) => redis.kill9(0),
        }
        Ok(())
    }

    /// Suspends one server (the master; one of three masters).
    pub fn suspend(&self) -> Result<()> {
        match self {
            Stores::Single(redis) => redis.suspend(),
            Stores::Sentinel(redis) => redis.suspend()?,
            Stores::Cluster(redis) => redis.suspend(0),
        }
        Ok(())
    }

    /// Resumes the suspended server.
    pub fn resume(&self) {
        match self {
            Stores::Single(redis) => redis.resume(),
            Stores::Sentinel(redis) => redis.resume(),
            Stores::Cluster(redis) => redis.resume(0),
        }
    }

    /// Restarts the killed server; blocks.
    pub fn restart(&mut self) -> Result<()> {
        match self {
            Stores::Single(redis) => redis.restart(),
            Stores::Sentinel(redis) => redis.restart(),
            Stores::Cluster(redis) => redis.restart(0),
        }
    }
}
