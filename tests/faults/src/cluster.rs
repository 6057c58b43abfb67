//! Three tiers of real processes.
//!
//! - [`redundant`]: whether the cluster is redundant, so that the next fault may come

mod redundant;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use sestina_certs::Role;
use sestina_rpc::{Dialer, GrpcStores, Security, TlsFiles};
use sestina_testkit::{Postgres, PostgresOptions, free_port};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::Certificates;
use crate::clock::Clock;
use crate::link::Link;
use crate::process::{Process, Seen, Tier};
use crate::redis::{self, Stores};
use crate::settings::{Addresses, Ports, file};

/// The size and the settings of a cluster.
#[derive(Clone, Debug)]
pub struct Size {
    /// Edges.
    pub edges: usize,
    /// Routers.
    pub routers: usize,
    /// Storages.
    pub storages: usize,
    /// Term of a lease. Shorter than the default, so that many faults fit into a test.
    pub lease: Duration,
    /// Guards that are switched off, as in `SESTINA_MUTATIONS`.
    pub mutations: String,
    /// The kind of Redis.
    pub redis: redis::Mode,
    /// Each router reads the time of day from a [`Clock`] of its own.
    pub clocks: bool,
    /// There is a [`Link`] in front of the only Redis server.
    pub link: bool,
    /// Processes speak TLS with each other, with certificates of one authority.
    pub tls: bool,
}

impl Default for Size {
    fn default() -> Size {
        Size {
            edges: 3,
            routers: 3,
            storages: 2,
            lease: Duration::from_millis(3200),
            mutations: String::new(),
            redis: redis::Mode::Single,
            clocks: false,
            link: false,
            tls: false,
        }
    }
}

/// One process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Its tier.
    pub tier: Tier,
    /// Its number in the tier, from 0.
    pub number: usize,
}

impl At {
    /// An edge.
    pub const fn edge(number: usize) -> At {
        At {
            tier: Tier::Edge,
            number,
        }
    }

    /// A router.
    pub const fn router(number: usize) -> At {
        At {
            tier: Tier::Router,
            number,
        }
    }

    /// A storage process.
    pub const fn storage(number: usize) -> At {
        At {
            tier: Tier::Storage,
            number,
        }
    }
}

/// See the module.
pub struct Cluster {
    /// The size and settings with which it was started.
    pub size: Size,
    /// Its Redis.
    pub redis: Arc<Mutex<Stores>>,
    /// The link in front of Redis, if the size asks for it.
    pub link: Option<Link>,
    /// Its PostgreSQL.
    pub postgres: Postgres,
    edges: Vec<Process>,
    routers: Vec<Process>,
    storages: Vec<Process>,
    /// Ports for clients.
    pub ports: Vec<u16>,
    /// The certificates of its processes, if the size asks for them.
    pub certificates: Option<Certificates>,
    /// The ports of each process.
    own_ports: BTreeMap<At, Ports>,
    to: Addresses,
    folder: TempDir,
}

/// The name of a process.
pub fn name(tier: Tier, number: usize) -> String {
    format!("{}-{}", tier.command(), number + 1)
}

fn role(tier: Tier) -> Role {
    match tier {
        Tier::Edge => Role::Edge,
        Tier::Router => Role::Router,
        Tier::Storage => Role::Storage,
    }
}

impl Cluster {
    /// Starts a cluster, and waits until it is redundant.
    pub async fn start(size: Size) -> Result<Cluster> {
        let mode = size.redis;
        let redis = tokio::task::spawn_blocking(move || {
            sestina_testkit::ensure_installed()?;
            Stores::start(mode)
        })
        .await??;
        Cluster::start_on(size, Arc::new(Mutex::new(redis))).await
    }

    /// Starts another cluster, of other processes with another database, on the same Redis; both
    /// have processes of the same names.
    pub async fn start_beside(&self, size: Size) -> Result<Cluster> {
        Cluster::start_on(size, Arc::clone(&self.redis)).await
    }

    async fn start_on(size: Size, redis: Arc<Mutex<Stores>>) -> Result<Cluster> {
        let postgres = tokio::task::spawn_blocking(move || {
            let options = PostgresOptions {
                fsync: false,
                ..PostgresOptions::default()
            };
            Postgres::start_own(&options)
        })
        .await??;
        let link = if size.link {
            let port = redis.lock().port()?;
            Some(Link::start(port).await?)
        } else {
            None
        };
        let folder = tempfile::Builder::new()
            .prefix("sestina-faults-")
            .tempdir()?;
        let some = |count: usize| {
            (0..count)
                .map(|_| free_port())
                .collect::<Result<Vec<u16>>>()
        };
        let to = Addresses {
            redis: redis.lock().section(link.as_ref()),
            database: postgres.create_database("faults")?,
            routers: some(size.routers)?,
            storages: some(size.storages)?,
        };
        let (edge_ports, ports) = (some(size.edges)?, some(size.edges)?);
        let environment: Vec<(String, String)> = match size.mutations.as_str() {
            "" => Vec::new(),
            list => vec![("SESTINA_MUTATIONS".to_owned(), list.to_owned())],
        };
        let certificates = match size.tls {
            true => Some(Certificates::new(&folder.path().join("certificates"))?),
            false => None,
        };
        let mut all_ports = BTreeMap::new();
        let mut start = |tier: Tier, listens: &[u16]| -> Result<Vec<Process>> {
            let mut started = Vec::new();
            for (number, listen) in listens.iter().enumerate() {
                let name = name(tier, number);
                let own = folder.path().join(&name);
                fs::create_dir_all(&own)?;
                let own_ports = Ports {
                    cluster: *listen,
                    metrics: free_port()?,
                    clients: (tier == Tier::Edge).then(|| ports[number]),
                };
                all_ports.insert(At { tier, number }, own_ports);
                let issue = |all: &Certificates| all.issue(&name, role(tier));
                let tls = certificates.as_ref().map(issue).transpose()?;
                let text = file(&name, &own, own_ports, &to, size.lease, tls.as_ref());
                fs::write(own.join("sestina.toml"), text)?;
                let mut environment = environment.clone();
                if size.clocks && tier == Tier::Router {
                    environment.extend(Clock::new(&own)?.environment()?);
                }
                started.push(Process::start(&name, tier.command(), &own, &environment)?);
            }
            Ok(started)
        };
        let storages = start(Tier::Storage, &to.storages)?;
        let routers = start(Tier::Router, &to.routers)?;
        let edges = start(Tier::Edge, &edge_ports)?;
        let mut cluster = Cluster {
            edges,
            routers,
            storages,
            size,
            redis,
            link,
            postgres,
            ports,
            certificates,
            own_ports: all_ports,
            to,
            folder,
        };
        let redundant = cluster.redundant(Duration::from_secs(60)).await;
        redundant.with_context(|| cluster.keep_logs())?;
        Ok(cluster)
    }

    fn tier(&mut self, tier: Tier) -> &mut Vec<Process> {
        match tier {
            Tier::Edge => &mut self.edges,
            Tier::Router => &mut self.routers,
            Tier::Storage => &mut self.storages,
        }
    }

    /// How many processes of a tier there are.
    pub fn count(&self, tier: Tier) -> usize {
        match tier {
            Tier::Edge => self.edges.len(),
            Tier::Router => self.routers.len(),
            Tier::Storage => self.storages.len(),
        }
    }

    /// All processes.
    pub fn all(&self) -> Vec<At> {
        [Tier::Edge, Tier::Router, Tier::Storage]
            .into_iter()
            .flat_map(|tier| (0..self.count(tier)).map(move |number| At { tier, number }))
            .collect()
    }

    /// One process.
    pub fn process(&mut self, at: At) -> &mut Process {
        &mut self.tier(at.tier)[at.number]
    }

    /// Arms fail points, as `SESTINA_FAILPOINTS` names them. A point may be hit before the answer
    /// is written: then the process is dead or suspended instead of answering.
    pub async fn arm(&mut self, at: At, points: &str) -> Result<()> {
        let json = serde_json::json!({ "points": points }).to_string();
        let process = self.process(at);
        let Err(error) = process.ask("failpoint.arm", &json).await else {
            return Ok(());
        };
        // Its sockets close a moment before its end is visible.
        for _ in 0..40 {
            match process.seen()? {
                Seen::Killed | Seen::Suspended => return Ok(()),
                Seen::Ended => break,
                Seen::Running => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
        Err(error)
    }

    /// Disarms a fail point.
    pub async fn disarm(&mut self, at: At, point: &str) -> Result<()> {
        let json = serde_json::json!({ "name": point }).to_string();
        self.process(at)
            .ask("failpoint.disarm", &json)
            .await
            .map(drop)
    }

    /// How often armed points were reached.
    pub async fn hits(&mut self, at: At) -> Result<Vec<(String, u64)>> {
        let list = self.process(at).ask("failpoint.list", "").await?;
        let points = list["points"].as_array().context("a list of points")?;
        Ok(points
            .iter()
            .filter_map(|p| Some((p["name"].as_str()?.to_owned(), p["hits"].as_u64()?)))
            .collect())
    }

    fn ports_of(&self, at: At) -> Result<Ports> {
        let ports = self.own_ports.get(&at).copied();
        ports.context("there is no such process")
    }

    /// The address of a process for other processes.
    pub fn address(&self, at: At) -> Result<String> {
        Ok(format!("127.0.0.1:{}", self.ports_of(at)?.cluster))
    }

    /// Starts a process beside those of the cluster, with its settings and another certificate.
    pub fn stranger(&self, name: &str, tier: Tier, tls: &TlsFiles) -> Result<Process> {
        let own = self.folder.path().join(name);
        fs::create_dir_all(&own)?;
        let ports = Ports {
            cluster: free_port()?,
            metrics: free_port()?,
            clients: None,
        };
        let text = file(name, &own, ports, &self.to, self.size.lease, Some(tls));
        fs::write(own.join("sestina.toml"), text)?;
        Process::start(name, tier.command(), &own, &[])
    }

    /// The slot table of the first router.
    pub async fn slot_table(&mut self) -> Result<serde_json::Value> {
        self.process(At::router(0)).ask("slots", "").await
    }

    /// How many slots the router of that name has in the table of another router.
    pub async fn owned(&mut self, asked: At, name: &str) -> Result<u64> {
        let slots = self.process(asked).ask("slots", "").await?;
        let all = slots["routers"].as_array().cloned().unwrap_or_default();
        Ok(all
            .iter()
            .filter(|router| router["name"] == name)
            .filter_map(|router| router["slots"].as_u64())
            .sum())
    }

    /// Changes the configuration of a process, which applies at its next start.
    pub fn reconfigure(&mut self, at: At, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.process(at).folder().join("sestina.toml");
        let text = change(fs::read_to_string(&path)?);
        Ok(fs::write(&path, text)?)
    }

    /// The clock of a router, if each has one.
    pub fn clock(&mut self, at: At) -> Result<Clock> {
        Clock::new(self.process(at).folder())
    }

    /// Adds accounts; the password is the user's name.
    pub async fn add_users(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let jid = format!("{name}@{}", crate::settings::HOST);
            let json = serde_json::json!({ "jid": jid, "password": name }).to_string();
            let at = At::router(0);
            self.process(at).ask("user.add", &json).await?;
        }
        Ok(())
    }

    /// A metric of a process: the sum of all its series, or one series if the name includes its
    /// labels as they are exported. 0 if the process does not have it yet.
    pub async fn metric(&self, at: At, name: &str) -> Result<f64> {
        let port = self.ports_of(at)?.metrics;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        let values = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let named = series == name || series.split('{').next() == Some(name);
            named.then(|| value.parse::<f64>().ok()).flatten()
        });
        Ok(values.sum())
    }

    /// The stores, through the same addresses as a router of this cluster.
    pub fn stores(&self) -> Result<GrpcStores> {
        let targets = self
            .to
            .storages
            .iter()
            .map(|port| format!("127.0.0.1:{port}").parse());
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        // The default name, since the configuration of the processes has none.
        let dialer = Dialer::in_cluster(Security::Plaintext, sestina_rpc::Cluster::new("sestina"));
        Ok(GrpcStores::new(dialer, targets))
    }

    /// Runs SQL on the cluster's database; returns what psql prints.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.postgres.query_at(&self.to.database, sql)
    }

    /// Keeps the folder with configurations and logs, and returns a text that names it.
    pub fn keep_logs(&mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("logs are kept in {}", self.folder.path().display())
    }

    /// The folder of configurations and logs.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
        }
    }
}
