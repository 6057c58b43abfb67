//! The shape of a fleet.

use std::path::PathBuf;

/// The network between the processes of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Loopback.
    Loopback,
    /// Loopback, and a proxy in front of each router and storage process, to cut lanes.
    Proxies,
    /// A network in which each process has a namespace of its own. Needs root.
    Namespaces,
}

/// The shape of a fleet and the stores that it uses.
#[derive(Clone, Debug)]
pub(crate) struct FleetSpec {
    /// The `sestina` binary.
    pub(crate) binary: PathBuf,
    /// The folder of the settings that the processes of a tier share.
    pub(crate) settings: PathBuf,
    pub(crate) edges: usize,
    pub(crate) routers: usize,
    pub(crate) storages: usize,
    pub(crate) links: Links,
    /// Clients connect only through a proxy in front of the edges.
    pub(crate) front: bool,
    /// The domain of the first host.
    pub(crate) domain: String,
    /// URL of the Redis server.
    pub(crate) redis: String,
    /// URL of the PostgreSQL database.
    pub(crate) postgres: String,
    /// Further environment variables of all processes.
    pub(crate) environment: Vec<(String, String)>,
    /// Folder for data, certificates and sockets; short, because socket paths are limited.
    pub(crate) folder: PathBuf,
    /// Folder for logs.
    pub(crate) logs: PathBuf,
}
