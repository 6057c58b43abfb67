//! The system that faults affect: the cluster, Redis and PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use sestina_testkit::{Postgres, PostgresOptions, Redis};
use tempfile::TempDir;

use crate::fleet::{Fleet, FleetSpec, Links, Node, Role};
use crate::repo;

/// How long a drained process may take to end: longer than `node.drain_timeout`.
const DRAINED: Duration = Duration::from_secs(75);
/// How long a process may take from its start to its readiness.
const READY: Duration = Duration::from_secs(60);

/// The running system, and the guests of the present fault.
pub(super) struct Scene {
    pub(super) fleet: Fleet,
    pub(super) redis: Redis,
    pub(super) postgres: Postgres,
    programs: PathBuf,
    guests: Vec<Child>,
    _folder: TempDir,
}

/// How long guests may take to end, beyond their own time.
const FLOODED: Duration = Duration::from_secs(200);
/// Accounts of the guests that abuse the server.
const ABUSERS: [&str; 4] = ["hoarder", "reader", "joiner", "shouter"];
/// Accounts of floods.
const GUESTS: [&str; 7] = [
    "flood1", "flood2", "flood3", "flood4", "flood5", "flood6", "drought",
];

/// The number of processes of each tier.
pub(super) const EDGES: usize = 3;
pub(super) const ROUTERS: usize = 3;
pub(super) const STORAGES: usize = 2;

/// The domain of all accounts.
pub(super) const DOMAIN: &str = "localhost";
/// The password of all accounts.
pub(super) const PASSWORD: &str = "numbered messages";

impl Scene {
    /// Starts all processes and adds the accounts.
    pub(super) fn start(programs: &Path, logs: &Path, users: usize, links: Links) -> Result<Scene> {
        let binary = programs.join("sestina");
        Scene::start_with(programs, &binary, &repo::settings(), logs, users, links)
    }

    /// The same with another revision's server and settings.
    pub(super) fn start_with(
        programs: &Path,
        binary: &Path,
        settings: &Path,
        logs: &Path,
        users: usize,
        links: Links,
    ) -> Result<Scene> {
        let folder = tempfile::Builder::new().prefix("sestina-").tempdir()?;
        let redis = Redis::start_own()?;
        let postgres = Postgres::start_own(&PostgresOptions::default())?;
        let fleet = Fleet::start(FleetSpec {
            binary: binary.to_owned(),
            settings: settings.to_owned(),
            edges: EDGES,
            routers: ROUTERS,
            storages: STORAGES,
            links,
            front: false,
            domain: DOMAIN.to_owned(),
            redis: redis.url().to_owned(),
            postgres: postgres.create_database("sestina")?,
            // All clients come from one address.
            environment: ["CONNECTIONS_PER_ADDRESS", "CONNECTION_RATE"]
                .map(|limit| {
                    let prefix = sestina_config::load::ENV_PREFIX;
                    (format!("{prefix}EDGE__LIMITS__{limit}"), "0".to_owned())
                })
                .to_vec(),
            folder: folder.path().to_owned(),
            logs: logs.to_owned(),
        })?;
        fleet.wait_redundant(Duration::from_secs(60))?;
        let names = (0..users).map(|n| format!("user{n:04}"));
        let accounts: Vec<(String, String)> = names
            .chain(GUESTS.map(str::to_owned))
            .chain(ABUSERS.map(str::to_owned))
            .map(|name| (format!("{name}@{DOMAIN}"), PASSWORD.to_owned()))
            .collect();
        println!("making {users} accounts");
        fleet.add_users(&accounts)?;
        Ok(Scene {
            fleet,
            redis,
            postgres,
            programs: programs.to_owned(),
            guests: Vec::new(),
            _folder: folder,
        })
    }

    /// Guests on one edge write to a guest on another, which does not read.
    pub(super) fn begin_flood(&mut self, from: usize, to: usize, seconds: u64) -> Result<()> {
        let mut arguments = Vec::new();
        for edge in [from, to] {
            let address = self.edge_address(edge).context("no such edge")?;
            arguments.extend(["--address".to_owned(), address]);
        }
        self.begin_guests("flood", &arguments, &GUESTS, seconds)
    }

    /// Guests on one edge abuse the server.
    pub(super) fn begin_abuse(&mut self, edge: usize, seconds: u64) -> Result<()> {
        let address = self.edge_address(edge).context("no such edge")?;
        let muc = format!("conference.{DOMAIN}");
        let arguments = ["--address", &address, "--muc", &muc].map(str::to_owned);
        self.begin_guests("abuse", &arguments, &ABUSERS, seconds)
    }

    fn begin_guests(
        &mut self,
        what: &str,
        arguments: &[String],
        users: &[&str],
        seconds: u64,
    ) -> Result<()> {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.programs.join("sestina-load"))
            .args([what, "--domain", DOMAIN, "--ca"])
            .arg(self.fleet.certs.join("ca.pem"))
            .args(["--seconds", &seconds.to_string()])
            .args(arguments);
        for user in users {
            command.args(["--user", &format!("{user}:{PASSWORD}")]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        self.guests
            .push(child.context("cannot start sestina-load")?);
        Ok(())
    }

    /// Waits for the end of floods and abuse; returns the broken promises.
    pub(super) fn end_guests(&mut self) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for mut child in std::mem::take(&mut self.guests) {
            let end = Instant::now() + FLOODED;
            while child.try_wait()?.is_none() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
            // No error if the process has ended.
            child.kill().ok();
            let output = child.wait_with_output()?;
            let Ok(outcome) = serde_json::from_slice::<Value>(&output.stdout) else {
                broken.push(format!("guests ended with {}", output.status));
                continue;
            };
            println!("  guests: {outcome}");
            // Lost messages of abusers are no violation, and their result has no such numbers.
            for key in ["lost", "doubled"] {
                if outcome[key].as_u64().is_some_and(|count| count > 0) {
                    broken.push(format!("{} messages of a flood {key}", outcome[key]));
                }
            }
        }
        Ok(broken)
    }

    /// How often accounts were looked up in the database so far; a storage process that died loses
    /// its count.
    pub(super) fn account_queries(&self) -> u64 {
        let count = "sestina_store_seconds_count{op=\"account\"}";
        let storages = self.fleet.of(Role::Storage);
        storages
            .filter_map(|node| node.metric(count).ok())
            .sum::<f64>() as u64
    }

    /// The most memory that a process of the server has used so far, MiB, and its name.
    pub(super) fn peak_memory(&self) -> (u64, String) {
        let all = self.fleet.nodes.iter().map(|node| {
            let path = format!("/proc/{}/status", node.process.pid());
            let status = std::fs::read_to_string(path).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            (kib.unwrap_or(0) / 1024, node.process.name().to_owned())
        });
        all.max().unwrap_or_default()
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

    /// The address of the n-th edge for clients.
    pub(super) fn edge_address(&self, number: usize) -> Option<String> {
        self.fleet.edges(5223).into_iter().nth(number)
    }

    /// Restarts a killed process, and waits for its readiness.
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

    /// Restarts processes that ended unexpectedly; returns their names.
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

    /// Ends all processes.
    pub(super) fn stop(mut self) {
        self.fleet.stop(Duration::from_secs(10));
    }
}
