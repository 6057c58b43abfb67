//! A cluster of real processes on this machine.
//!
//! Every process has an address of its own and listens there on the usual ports, so the settings
//! are those of `deploy/compose/*.toml`, and only the environment differs. Each fleet takes a
//! random /24 of loopback addresses, or of a network that is made for it, so several may run at
//! once.
//!
//! - [`spec`]: the processes to start; [`node`]: one of them; [`subnet`]: their addresses
//! - [`network`]: each process in a network namespace of its own
//! - [`embedded`]: all tiers in one process

mod embedded;
pub(crate) mod network;
mod node;
mod spec;
mod subnet;

pub(crate) use embedded::Embedded;
pub(crate) use node::{Node, Role};
pub(crate) use spec::{FleetSpec, Links};

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sestina_testkit::wait_for;

use crate::child::{Process, Spec};
use crate::sestina::{Admin, issue_certificate};
use network::Network;
use subnet::Subnet;

const CLUSTER_PORT: u16 = 5290;
const PROXY_PORT: u16 = 5291;
/// The last part of the address of the proxy in front of the edges.
const FRONT: u8 = 200;

/// A running cluster.
pub(crate) struct Fleet {
    /// All processes: storages, routers, edges, in the order in which they were started.
    pub(crate) nodes: Vec<Node>,
    /// Certificates: the authority is `ca.pem`.
    pub(crate) certs: PathBuf,
    /// The network of [`Links::Namespaces`]. It outlives the processes.
    pub(crate) network: Option<Network>,
    subnet: Subnet,
    spec: FleetSpec,
}

/// How many accounts are added at one time.
const ADDING: usize = 4;

impl Fleet {
    /// Starts all processes and waits until each is ready.
    pub(crate) fn start(spec: FleetSpec) -> Result<Fleet> {
        let subnet = match spec.links {
            Links::Namespaces => Subnet::free_for_tests()?,
            Links::Loopback | Links::Proxies => Subnet::free_loopback()?,
        };
        let certs = spec.folder.join("certs");
        let mut fleet = Fleet {
            nodes: Vec::new(),
            certs,
            network: None,
            subnet,
            spec,
        };
        let all = fleet.members();
        if fleet.spec.links == Links::Namespaces {
            fleet.make_network(&all)?;
        }
        fs::create_dir_all(&fleet.certs)?;
        fs::create_dir_all(&fleet.spec.logs)?;
        for (role, number) in &all {
            let sans = [fleet.ip(*role, *number).to_string()];
            let name = role.name(*number);
            issue_certificate(&fleet.spec.binary, &fleet.certs, &name, role.word(), &sans)?;
        }
        // Every edge presents this certificate to clients.
        let domain = fleet.spec.domain.clone();
        issue_certificate(&fleet.spec.binary, &fleet.certs, &domain, "edge", &[])?;
        for (role, number) in all {
            let node = fleet.launch(role, number)?;
            fleet.nodes.push(node);
        }
        fleet.wait_ready(Duration::from_secs(60))?;
        Ok(fleet)
    }

    fn make_network(&mut self, members: &[(Role, usize)]) -> Result<()> {
        let machines: Vec<(String, u8)> = members
            .iter()
            .map(|(role, number)| (role.name(*number), role.address(*number)))
            .collect();
        let network = self.network.insert(Network::start(self.subnet, &machines)?);
        self.spec.redis = network.reach_redis(&self.spec.redis)?;
        self.spec.postgres = network.reach_postgres(&self.spec.postgres)?;
        Ok(())
    }

    fn members(&self) -> Vec<(Role, usize)> {
        let count = |role| match role {
            Role::Storage => self.spec.storages,
            Role::Router => self.spec.routers,
            Role::Edge => self.spec.edges,
        };
        [Role::Storage, Role::Router, Role::Edge]
            .into_iter()
            .flat_map(|role| (1..=count(role)).map(move |number| (role, number)))
            .collect()
    }

    /// The address of a process.
    fn ip(&self, role: Role, number: usize) -> Ipv4Addr {
        self.subnet.at(role.address(number))
    }

    /// The address of the proxy in front of the edges, which trust its PROXY headers.
    pub(crate) fn front(&self) -> Ipv4Addr {
        self.subnet.at(FRONT)
    }

    fn has_proxy(&self, role: Role) -> bool {
        self.spec.links == Links::Proxies && role != Role::Edge
    }

    /// The address of a process for the other tiers: that of its proxy, if there are proxies.
    fn advertised(&self, role: Role, number: usize) -> String {
        let port = if self.has_proxy(role) {
            PROXY_PORT
        } else {
            CLUSTER_PORT
        };
        format!("{}:{port}", self.ip(role, number))
    }

    fn peers(&self, role: Role) -> String {
        self.members()
            .into_iter()
            .filter(|(other, _)| *other == role)
            .map(|(other, number)| self.advertised(other, number))
            .collect::<Vec<_>>()
            .join(",")
    }

    fn launch(&self, role: Role, number: usize) -> Result<Node> {
        let name = role.name(number);
        let ip = self.ip(role, number);
        let folder = self.spec.folder.join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let proxy = self
            .has_proxy(role)
            .then(|| {
                let at = |port| SocketAddr::new(IpAddr::V4(ip), port);
                crate::proxy::Proxy::start(at(PROXY_PORT), at(CLUSTER_PORT))
            })
            .transpose()?;
        let socket = folder.join("admin.sock");
        let mut program = self.spec.binary.clone();
        let mut arguments = role.arguments(&self.spec.settings);
        if let Some(network) = &self.network {
            (program, arguments) = network.enter(&name, &program, arguments);
        }
        let process = Process::start(Spec {
            program,
            arguments,
            environment: self.environment(role, number, &folder, &socket),
            log: self.spec.logs.join(format!("{name}.log")),
            folder,
            user: None,
            name,
        })?;
        Ok(Node {
            role,
            ip,
            process,
            proxy,
            admin: Admin {
                binary: self.spec.binary.clone(),
                socket,
            },
        })
    }

    /// The variables that are added to the settings, as docker-compose.yml does.
    fn environment(
        &self,
        role: Role,
        number: usize,
        folder: &std::path::Path,
        socket: &std::path::Path,
    ) -> Vec<(String, String)> {
        let name = role.name(number);
        let ip = self.ip(role, number);
        let certificate = |name: &str, end: &str| {
            let path = self.certs.join(format!("{name}.{end}"));
            path.display().to_string()
        };
        let mut set: Vec<(&str, String)> = vec![
            ("NODE__NAME", name.clone()),
            ("NODE__DATA_DIR", folder.display().to_string()),
            ("ADMIN__SOCKET", socket.display().to_string()),
            ("HOST__0__DOMAIN", self.spec.domain.clone()),
            ("CLUSTER__LISTEN", format!("{ip}:{CLUSTER_PORT}")),
            ("CLUSTER__ADVERTISE", self.advertised(role, number)),
            ("CLUSTER__TLS_CA", certificate("ca", "pem")),
            ("CLUSTER__TLS_CERTIFICATE", certificate(&name, "pem")),
            ("CLUSTER__TLS_KEY", certificate(&name, "key")),
            ("TELEMETRY__PROMETHEUS", format!("{ip}:9090")),
        ];
        match role {
            Role::Storage => set.push(("STORAGE__URL", self.spec.postgres.clone())),
            Role::Router => set.extend([
                ("REDIS__URLS", self.spec.redis.clone()),
                ("CLUSTER__ROUTERS", self.peers(Role::Router)),
                ("CLUSTER__STORAGES", self.peers(Role::Storage)),
            ]),
            Role::Edge => set.extend([
                ("CLUSTER__ROUTERS", self.peers(Role::Router)),
                ("EDGE__C2S", format!("{ip}:5222")),
                ("EDGE__C2S_TLS", format!("{ip}:5223")),
                ("EDGE__HTTP", format!("{ip}:5280")),
                ("EDGE__HTTPS", format!("{ip}:5281")),
                (
                    "EDGE__TLS__CERTIFICATE",
                    certificate(&self.spec.domain, "pem"),
                ),
                ("EDGE__TLS__KEY", certificate(&self.spec.domain, "key")),
            ]),
        }
        if self.spec.front && role == Role::Edge {
            set.push(("EDGE__PROXY_PROTOCOL", format!("{}/32", self.front())));
        }
        let own = set
            .into_iter()
            .map(|(key, value)| (format!("{}{key}", sestina_config::load::ENV_PREFIX), value));
        own.chain(self.spec.environment.iter().cloned()).collect()
    }

    /// Waits until every process is ready; fails at once if one has ended.
    pub(crate) fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        for node in &mut self.nodes {
            node.wait_ready(limit)?;
        }
        Ok(())
    }

    /// Checks that the cluster is redundant and all processes of this fleet are part of it; the
    /// error gives the reasons.
    pub(crate) fn check_redundant(&self) -> Result<()> {
        let router = self
            .of(Role::Router)
            .next()
            .context("the fleet has no router")?;
        let status = router.admin.status()?;
        let missing = &status["missing"];
        ensure!(status["redundant"].as_bool() == Some(true), "{missing}");
        let processes = status["processes"].as_array();
        for node in self.nodes.iter().filter(|node| node.role != Role::Storage) {
            let name = node.process.name();
            let listed = processes.into_iter().flatten().any(|process| {
                process["name"].as_str() == Some(name)
                    && process["draining"].as_bool() != Some(true)
            });
            ensure!(listed, "{name} has no lease yet");
        }
        self.nodes
            .iter()
            .try_for_each(|node| node::ready(node.metrics()))
    }

    /// Waits until [`Fleet::check_redundant`].
    pub(crate) fn wait_redundant(&self, limit: Duration) -> Result<()> {
        wait_for("the cluster to be redundant", limit, || {
            self.check_redundant()
        })
    }

    /// The processes of one tier.
    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// The `host:port` of a listener of every edge.
    pub(crate) fn edges(&self, port: u16) -> Vec<String> {
        self.of(Role::Edge)
            .map(|node| format!("{}:{port}", node.ip))
            .collect()
    }

    /// Adds accounts.
    pub(crate) fn add_users(&self, users: &[(String, String)]) -> Result<()> {
        let router = self
            .of(Role::Router)
            .next()
            .context("the fleet has no router")?;
        // Each is a process that mostly waits.
        let share = users.len().div_ceil(ADDING).max(1);
        std::thread::scope(|scope| {
            let adding: Vec<_> = users
                .chunks(share)
                .map(|users| {
                    scope.spawn(move || {
                        users
                            .iter()
                            .try_for_each(|(bare, password)| router.admin.add_user(bare, password))
                    })
                })
                .collect();
            adding.into_iter().try_for_each(|adding| {
                let added = adding.join();
                added.map_err(|_| anyhow::anyhow!("adding users failed"))?
            })
        })
    }

    /// Ends all processes as an administrator would: edges, routers, storages.
    pub(crate) fn stop(&mut self, limit: Duration) {
        for node in self.nodes.iter_mut().rev() {
            node.process.stop(limit);
        }
    }
}
