//! The configuration files of the processes.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use sestina_rpc::TlsFiles;

/// The host with accounts.
pub(crate) const HOST: &str = "example.org";
/// Its rooms.
pub(crate) const ROOMS: &str = "rooms.example.org";

/// The addresses of the stores and processes.
pub(crate) struct Addresses {
    /// The section `redis`.
    pub(crate) redis: String,
    pub(crate) database: String,
    pub(crate) routers: Vec<u16>,
    pub(crate) storages: Vec<u16>,
}

/// The ports of one process.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) cluster: u16,
    pub(crate) metrics: u16,
    pub(crate) clients: Option<u16>,
}

fn list(ports: &[u16]) -> String {
    let quoted: Vec<String> = ports
        .iter()
        .map(|port| format!("\"127.0.0.1:{port}\""))
        .collect();
    format!("[{}]", quoted.join(", "))
}

/// The file of a process that is the whole system.
pub(crate) fn alone(folder: &Path, clients: u16) -> String {
    format!(
        "[node]\nname = \"one\"\ndata_dir = \"{}\"\n\n\
         [[host]]\ndomain = \"{HOST}\"\nmuc = \"{ROOMS}\"\n\n\
         [edge]\nc2s = []\nc2s_tls = []\nc2s_plaintext = [\"127.0.0.1:{clients}\"]\n\
         http = []\nhttps = []\n\n\
         [edge.limits]\nconnections_per_address = 0\nconnection_rate = 0\nrate = 0\n\n\
         [telemetry]\nprometheus = []\nlog = \"{}\"\n",
        folder.display(),
        log(),
    )
}

fn log() -> String {
    std::env::var("SESTINA_FAULTS_LOG").unwrap_or_else(|_| "info".to_owned())
}

/// The section about the connections between processes.
fn security(tls: Option<&TlsFiles>) -> String {
    let Some(files) = tls else {
        return "plaintext = true".to_owned();
    };
    let (ca, certificate, key) = (&files.ca, &files.cert, &files.key);
    format!("tls_ca = {ca:?}\ntls_certificate = {certificate:?}\ntls_key = {key:?}")
}

/// The file of one process. Clients connect without TLS, which these tests are not about.
pub(crate) fn file(
    name: &str,
    folder: &Path,
    ports: Ports,
    to: &Addresses,
    lease: Duration,
    tls: Option<&TlsFiles>,
) -> String {
    let ttl = lease.as_millis();
    let mut text = String::new();
    let folder = folder.display();
    write!(
        text,
        "[node]\nname = \"{name}\"\ndata_dir = \"{folder}\"\ndrain_timeout = \"30s\"\n\n\
         [[host]]\ndomain = \"{HOST}\"\nmuc = \"{ROOMS}\"\n\n\
         [edge]\nc2s = []\nc2s_tls = []\nc2s_plaintext = {clients}\nhttp = []\nhttps = []\n\n\
         [edge.limits]\nconnections_per_address = 0\nconnection_rate = 0\nrate = 0\n\n\
         [router]\nworkers = 2\n\n\
         [storage]\nurl = \"{database}\"\nconnections = 4\narchive_connections = 2\n\n\
         {redis}\n\
         [cluster]\nlisten = \"127.0.0.1:{listen}\"\nrouters = {routers}\n\
         storages = {storages}\nlanes = 2\n{security}\n\
         lease_ttl = \"{ttl}ms\"\nlease_renew = \"{renew}ms\"\nlease_margin = \"{renew}ms\"\n\n\
         [telemetry]\nprometheus = [\"127.0.0.1:{metrics}\"]\nlog = \"{log}\"\n",
        clients = list(&ports.clients.into_iter().collect::<Vec<_>>()),
        listen = ports.cluster,
        metrics = ports.metrics,
        database = to.database,
        redis = to.redis,
        routers = list(&to.routers),
        storages = list(&to.storages),
        renew = ttl / 4,
        security = security(tls),
        log = log(),
    )
    .expect("writing to a string cannot fail");
    text
}
