//! What faults hit: the cluster, Redis and PostgreSQL.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sestina_testkit::{Postgres, PostgresOptions, Redis};
use tempfile::TempDir;

use crate::fleet::{Fleet, FleetSpec, Node, Role};

/// How long a drained process may take to end: longer than `node.drain_timeout`.
const DRAINED: Duration = Duration::from_secs(75);
/// How long a process may take from its start to its readiness.
const READY: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Scene {
    pub(super) fleet: Fleet,
    pub(super) redis: Redis,
    pub(super) postgres: Postgres,
    _folder: TempDir,
}

/// How many processes of each tier there are.
pub(super) const EDGES: usize = 3;
pub(super) const ROUTERS: usize = 3;
pub(super) const STORAGES: usize = 2;

/// The domain of all accounts.
pub(super) const DOMAIN: &str = "localhost";
/// The password of all accounts.
pub(super) const PASSWORD: &str = "numbered messages";

impl Scene {
    /// Starts everything and makes the accounts.
    pub(super) fn start(programs: &Path, logs: &Path, users: usize) -> Result<Scene> {
        let folder = tempfile::Builder::new().prefix("sestina-").tempdir()?;
        let redis = Redis::start_own()?;
        let postgres = Postgres::start_own(&PostgresOptions::default())?;
        let fleet = Fleet::start(FleetSpec {
            binary: programs.join("sestina"),
            edges: EDGES,
            routers: ROUTERS,
            storages: STORAGES,
            proxies: true,
            front: false,
            domain: DOMAIN.to_owned(),
            redis: redis.url().to_owned(),
            postgres: postgres.create_database("sestina")?,
            environment: Vec::new(),
            folder: folder.path().to_owned(),
            logs: logs.to_owned(),
        })?;
        fleet.wait_whole(Duration::from_secs(60))?;
        let accounts: Vec<(String, String)> = (0..users)
            .map(|n| (format!("user{n:04}@{DOMAIN}"), PASSWORD.to_owned()))
            .collect();
        println!("making {users} accounts");
        fleet.add_users(&accounts)?;
        Ok(Scene {
            fleet,
            redis,
            postgres,
            _folder: folder,
        })
    }

    /// The n-th process of a tier, from 0.
    pub(super) fn node(&mut self, role: Role, number: usize) -> Result<&mut Node> {
        self.fleet
            .nodes
            .iter_mut()
            .filter(|node| node.role == role)
            .nth(number)
            .with_context(|| format!("there is no {}", role.name(number + 1)))
    }

    /// Where clients reach the n-th edge.
    pub(super) fn edge_address(&self, number: usize) -> Option<String> {
        self.fleet.edges(5223).into_iter().nth(number)
    }

    /// Starts a process again that was killed, and waits for its readiness.
    pub(super) fn restart(&mut self, role: Role, number: usize) -> Result<()> {
        let node = self.node(role, number)?;
        node.process.restart()?;
        node.wait_ready(READY)
    }

    /// Waits for the end of a process that was asked to end.
    pub(super) fn wait_drained(&mut self, role: Role, number: usize) -> Result<()> {
        let node = self.node(role, number)?;
        let name = node.process.name().to_owned();
        let status = node
            .process
            .wait(DRAINED)
            .with_context(|| format!("{name} did not end within {DRAINED:?} of SIGTERM"))?;
        anyhow::ensure!(status.success(), "{name} ended with {status} after SIGTERM");
        Ok(())
    }

    /// Starts processes again that ended though nobody had asked for it; returns their names.
    pub(super) fn restart_what_ended(&mut self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for node in &mut self.fleet.nodes {
            if let Err(error) = node.process.check() {
                println!("{error:#}");
                found.push(node.process.name().to_owned());
                node.process.restart()?;
                node.wait_ready(READY)?;
            }
        }
        Ok(found)
    }

    /// Ends everything.
    pub(super) fn stop(mut self) {
        self.fleet.stop(Duration::from_secs(10));
    }
}
