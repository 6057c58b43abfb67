//! `sestina config check`: opens the files, ports and servers of the configuration, and changes
//! nothing.
//!
//! Certificates and keys are read, folders and ports tried. Redis, the database and the other
//! processes are called, unless `--offline` is given; one that does not answer is a warning only,
//! because it may be started later. `--strict` turns warnings into errors.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use sestina_config::{Config, RedisMode, Role};
use sestina_runtime::clock::wall_ms;

use crate::compose;

/// How long another process may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The process would not start, or would not work.
    pub(super) fatal: bool,
    /// The problem, and the option to change.
    pub(super) text: String,
}

#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn error(&mut self, text: impl Into<String>) {
        let text = super::run::without_numbers(&text.into());
        self.0.push(Problem { fatal: true, text });
    }

    fn warning(&mut self, text: impl Into<String>) {
        let text = super::run::without_numbers(&text.into());
        self.0.push(Problem { fatal: false, text });
    }

    fn result<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result
            .map_err(|error| self.error(super::run::chain(&error)))
            .ok()
    }
}

/// All problems for a process of this role.
pub(super) fn problems(config: &Config, role: Role, offline: bool) -> Vec<Problem> {
    let mut found = Found::default();
    let clients = matches!(role, Role::Serve | Role::Edge);
    if clients {
        let tls = compose::client_tls(config);
        for problem in sestina_edge::tls::check(&tls, wall_ms() / 1000) {
            match problem.fatal {
                true => found.error(problem.text),
                false => found.warning(problem.text),
            }
        }
        found.result(compose::edge(config, &config.node.name));
    }
    folders(config, role, &mut found);
    ports(config, role, &mut found);
    tiers(config, role, &mut found);
    if !offline {
        reach(config, role, &mut found);
    }
    found.0
}

/// Checks the folders that the process writes to.
fn folders(config: &Config, role: Role, found: &mut Found) {
    let own = config.edge.tls.certificate.is_some();
    let made = !own && config.host.iter().all(|host| host.certificate.is_none());
    let database = config.storage.url.is_none();
    let data = match role {
        Role::Serve => true,
        Role::Edge => made,
        Role::Router => false,
        Role::Storage => database,
    };
    if data && let Err(reason) = writable(&config.node.data_dir) {
        found.error(format!("`node.data_dir`: {reason}"));
    }
    let socket = super::socket(config);
    if let Some(folder) = socket.parent().filter(|f| *f != config.node.data_dir)
        && let Err(reason) = writable(folder)
    {
        found.error(format!("`admin.socket`: {reason}"));
    }
    if matches!(role, Role::Serve | Role::Storage)
        && let Some(path) = config.storage_url().expose().strip_prefix("sqlite:")
        && !path.contains(":memory:")
    {
        let path = path.trim_start_matches("//").split('?').next();
        let path = Path::new(path.unwrap_or_default());
        if path.exists() {
            if let Err(error) = std::fs::File::options().read(true).write(true).open(path) {
                let reason = super::run::without_numbers(&error.to_string());
                found.error(format!(
                    "`storage.url`: cannot write {}: {reason}",
                    path.display()
                ));
            }
        } else if !database && let Some(Err(reason)) = path.parent().map(writable) {
            found.error(format!("`storage.url`: {reason}"));
        }
    }
}

/// Whether files can be created in a folder, or the folder itself.
fn writable(folder: &Path) -> Result<(), String> {
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let Some(there) = folder.ancestors().find(|path| path.exists()) else {
        return writable_now(Path::new("."));
    };
    if !there.is_dir() {
        return Err(format!("{} is not a folder", there.display()));
    }
    writable_now(there)
}

fn writable_now(folder: &Path) -> Result<(), String> {
    let probe = folder.join(format!(".sestina-check-{}", std::process::id()));
    let made = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&probe);
    let removed = made.and_then(|_| std::fs::remove_file(&probe));
    removed.map_err(|error| format!("cannot write to {}: {error}", folder.display()))
}

/// Binds and releases each port, unless a server with this configuration has them.
fn ports(config: &Config, role: Role, found: &mut Found) {
    if UnixStream::connect(super::socket(config)).is_ok() {
        return;
    }
    let mut held: Vec<TcpListener> = Vec::new();
    for (option, address) in config.listeners(role) {
        match TcpListener::bind(address) {
            Ok(listener) => held.push(listener),
            // `[::]` leaves IPv4 to an address of its own; only the server can bind both.
            Err(_) if held.iter().any(|other| beside(other, address)) => {}
            Err(error) => {
                found.error(format!("`{option}`: cannot listen on {address}: {error}"));
            }
        }
    }
}

fn beside(other: &TcpListener, address: SocketAddr) -> bool {
    other
        .local_addr()
        .is_ok_and(|other| other.port() == address.port() && other.is_ipv4() != address.is_ipv4())
}

/// Checks the certificates between tiers, for Redis and for the collector, and the addresses.
fn tiers(config: &Config, role: Role, found: &mut Found) {
    use sestina_certs::Role as CertRole;
    let wanted = match role {
        Role::Serve => None,
        Role::Edge => Some(CertRole::Edge),
        Role::Router => Some(CertRole::Router),
        Role::Storage => Some(CertRole::Storage),
    };
    if let Some(wanted) = wanted
        && let Some(sestina_rpc::Security::Mutual(tls)) = found.result(compose::security(config))
        && let Ok(info) = sestina_certs::describe_der(&tls.leaf())
    {
        if !info.roles.contains(&wanted) {
            let uri = wanted.uri();
            found.error(format!(
                "`cluster.tls_certificate`: it lacks the name {uri}, so the others will refuse this process"
            ));
        }
        if info.not_after <= wall_ms() / 1000 {
            found.error("`cluster.tls_certificate`: it has expired");
        }
    }
    if role == Role::Router {
        found.result(compose::redis(config));
        found.result(compose::targets(
            "cluster.storages",
            &config.cluster.storages,
        ));
    }
    if role == Role::Edge {
        found.result(compose::targets("cluster.routers", &config.cluster.routers));
    }
    if let Some(ca) = &config.telemetry.otlp_ca
        && let Err(error) = sestina_certs::load_roots(ca)
    {
        found.error(format!("`telemetry.otlp_ca`: {error}"));
    }
}

/// Calls the servers that the process will need.
fn reach(config: &Config, role: Role, found: &mut Found) {
    let cluster = &config.cluster;
    let mut lists: Vec<(&str, Vec<String>)> = Vec::new();
    match role {
        Role::Serve => {}
        Role::Edge => lists.push(("cluster.routers", cluster.routers.clone())),
        Role::Router => lists.push(("cluster.storages", cluster.storages.clone())),
        Role::Storage => {}
    }
    if role == Role::Router && config.redis.mode != RedisMode::Memory {
        lists.push(("redis.urls", authorities(&config.redis.urls, 6379)));
    }
    if matches!(role, Role::Serve | Role::Storage) {
        let url = config.storage_url();
        if url.expose().starts_with("postgres") {
            let url = [url.expose().to_owned()];
            lists.push(("storage.url", authorities(&url, 5432)));
        }
    }
    for (option, addresses) in lists {
        for address in addresses {
            if let Err(reason) = call(address.trim_start_matches("dns:///")) {
                found.warning(format!("`{option}`: {address} does not answer: {reason}"));
            }
        }
    }
}

/// `host:port` of URLs; without user, password and path.
fn authorities(urls: &[String], port: u16) -> Vec<String> {
    let one = |url: &String| {
        let after = url.split_once("://")?.1;
        let authority = after.split(['/', '?', '#']).next()?;
        let host = authority.rsplit('@').next()?;
        // The path of a socket, or a list of hosts.
        if host.is_empty() || host.contains(',') || host.contains('%') {
            return None;
        }
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Some(match has_port {
            true => host.to_owned(),
            false => format!("{host}:{port}"),
        })
    };
    urls.iter().filter_map(one).collect()
}

fn call(address: &str) -> Result<(), String> {
    let plain = |error: std::io::Error| error.to_string();
    let mut last = "the name has no address".to_owned();
    for address in address.to_socket_addrs().map_err(plain)? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = plain(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_urls_hold_no_password() {
        let urls = [
            "postgres://u:se@cret@db.example/x?sslmode=require",
            "postgres://db.example:99/x",
            "rediss://[::1]:7",
            "redis://cache",
            "postgres://%2Fvar%2Frun/x",
            "postgres:///x",
        ]
        .map(str::to_owned);
        assert_eq!(
            authorities(&urls, 5),
            ["db.example:5", "db.example:99", "[::1]:7", "cache:5"]
        );
    }

    #[test]
    fn a_folder_is_writable_if_it_can_be_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        assert_eq!(writable(&path.join("a/b/c")), Ok(()));
        assert!(!path.join("a").exists(), "nothing is made");
        let file = path.join("file");
        std::fs::write(&file, "").expect("a file");
        assert!(writable(&file.join("x")).is_err_and(|why| why.contains("is not a folder")));
    }
}
