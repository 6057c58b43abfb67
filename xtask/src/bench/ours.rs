//! This server: one process, and three tiers (two of each, mutual TLS between them).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use sestina_testkit::{Postgres, PostgresOptions, Redis};
use tempfile::TempDir;

use super::Measured;
use super::plan::{ACCOUNTS, PASSWORD};
use crate::fleet::{Embedded, Fleet, FleetSpec, Links, Node};

/// The configuration as released, without the limits on connections and bytes per second that would
/// stop a generator with a single address. With the archive, users have accounts.
fn settings(archive: bool) -> Vec<(String, String)> {
    let prefix = sestina_config::load::ENV_PREFIX;
    [
        ("HOST__0__DOMAIN", "localhost".to_owned()),
        ("HOST__0__ANONYMOUS", (!archive).to_string()),
        ("ROUTER__ARCHIVE", archive.to_string()),
        ("EDGE__LIMITS__CONNECTIONS_PER_ADDRESS", "0".to_owned()),
        ("EDGE__LIMITS__RATE", "0".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("{prefix}{key}"), value))
    .collect()
}

fn spec(
    name: &str,
    archive: bool,
    addresses: &[String],
    pids: Value,
    metrics: &[SocketAddr],
) -> Value {
    let auth = if archive {
        json!({"mechanism": "SCRAM-SHA-256", "user": "bench%04d", "password": PASSWORD,
            "accounts": ACCOUNTS})
    } else {
        json!({"mechanism": "ANONYMOUS"})
    };
    json!({
        "name": if archive { format!("{name}, archive") } else { name.to_owned() },
        "addresses": addresses,
        "transport": "direct-tls",
        "domain": "localhost",
        "muc": "conference.localhost",
        "auth": auth,
        "pids": pids,
        "leases": {
            "addresses": metrics,
            "counter": "sestina_lease_events_total",
            "label": "event=\"lost\"",
        },
    })
}

fn accounts() -> impl Iterator<Item = (String, String)> {
    (0..ACCOUNTS).map(|n| (format!("bench{n:04}@localhost"), PASSWORD.to_owned()))
}

/// Fields are dropped in this order: the processes before the stores that they use.
struct Tiers {
    _fleet: Fleet,
    _redis: Redis,
    _postgres: Postgres,
    _folder: TempDir,
}

/// A version of this server.
pub(super) struct Version {
    name: &'static str,
    program: PathBuf,
}

impl Version {
    /// The version that was built from this tree.
    pub(super) fn this(programs: &Path) -> Version {
        Version {
            name: "sestina",
            program: programs.join("sestina"),
        }
    }

    /// Another version, for comparison.
    pub(super) fn before(program: &Path) -> Version {
        Version {
            name: "before",
            program: program.to_owned(),
        }
    }

    fn logs(&self, folder: &Path, shape: &str, archive: bool) -> PathBuf {
        let archive = if archive { "-archive" } else { "" };
        folder.join(format!("{}-{shape}{archive}", self.name))
    }

    /// One process with all tiers.
    pub(super) fn embedded(&self, logs: &Path, archive: bool) -> Result<Measured> {
        let folder = tempfile::Builder::new().prefix("sestina-").tempdir()?;
        let server = Embedded::start(
            &self.program,
            folder.path(),
            &self.logs(logs, "embedded", archive),
            &settings(archive),
        )?;
        if archive {
            for (bare, password) in accounts() {
                server.admin.add_user(&bare, &password)?;
            }
        }
        let pids = json!({"server": [server.process.pid()]});
        let addresses = [server.c2s_tls.to_string()];
        let name = format!("{}, one process", self.name);
        Ok(Measured {
            spec: spec(&name, archive, &addresses, pids, &[server.metrics]),
            _alive: Box::new((server, folder)),
        })
    }

    /// Two edges, two routers, two storage processes.
    pub(super) fn tiers(&self, logs: &Path, archive: bool) -> Result<Measured> {
        let folder = tempfile::Builder::new().prefix("sestina-").tempdir()?;
        let redis = Redis::start_own()?;
        let postgres = Postgres::start_own(&PostgresOptions::default())?;
        let fleet = Fleet::start(FleetSpec {
            settings: crate::repo::settings(),
            binary: self.program.clone(),
            edges: 2,
            routers: 2,
            storages: 2,
            links: Links::Loopback,
            front: false,
            domain: "localhost".to_owned(),
            redis: redis.url().to_owned(),
            postgres: postgres.create_database("sestina")?,
            environment: settings(archive),
            folder: folder.path().to_owned(),
            logs: self.logs(logs, "tiers", archive),
        })?;
        fleet.wait_redundant(Duration::from_secs(60))?;
        if archive {
            fleet.add_users(&accounts().collect::<Vec<_>>())?;
        }
        let own: Vec<u32> = fleet.nodes.iter().map(|node| node.process.pid()).collect();
        let pids = json!({"server": own, "redis": [redis.pid()], "postgres": [postgres.pid()]});
        let metrics: Vec<SocketAddr> = fleet.nodes.iter().map(Node::metrics).collect();
        let name = format!("{}, three tiers", self.name);
        Ok(Measured {
            spec: spec(&name, archive, &fleet.edges(5223), pids, &metrics),
            _alive: Box::new(Tiers {
                _fleet: fleet,
                _redis: redis,
                _postgres: postgres,
                _folder: folder,
            }),
        })
    }
}
