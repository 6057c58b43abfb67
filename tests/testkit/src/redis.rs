//! One Redis server.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Program, ServerProcess};
use crate::{REDIS_VARIABLE, dir, install, port, resp, wait};

const READY: Duration = Duration::from_secs(20);
/// Redis has sixteen databases; number 0 holds which test uses which of the others.
const DATABASES: u32 = 16;

/// With these certificates a server accepts TLS only, and uses it to other servers too. The testkit
/// itself connects over a unix socket.
#[derive(Clone, Debug)]
pub struct RedisCertificates {
    /// The authority that peers are checked against (PEM).
    pub ca: PathBuf,
    /// The server's certificate (PEM), also for its connections to other servers.
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Whether clients must show a certificate of the authority.
    pub ask_clients: bool,
}

impl RedisCertificates {
    fn options(&self, port: u16, socket: &Path) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut options = vec!["--port".to_owned(), "0".to_owned()];
        for (name, value) in [
            ("tls-port", port.to_string()),
            ("tls-ca-cert-file", path(&self.ca)),
            ("tls-cert-file", path(&self.certificate)),
            ("tls-key-file", path(&self.key)),
            (
                "tls-auth-clients",
                if self.ask_clients { "yes" } else { "no" }.to_owned(),
            ),
            ("tls-replication", "yes".to_owned()),
            ("tls-cluster", "yes".to_owned()),
            ("unixsocket", path(socket)),
        ] {
            options.extend([format!("--{name}"), value]);
        }
        options
    }
}

/// A Redis server, empty at first and without persistence.
#[derive(Debug)]
pub struct Redis {
    url: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Own { node: RedisNode, _folder: TempDir },
    External { server: String, database: u32 },
}

impl Redis {
    /// A private server, or an empty database of the one that `SESTINA_TEST_REDIS` names.
    pub fn start() -> Result<Redis> {
        match std::env::var(REDIS_VARIABLE) {
            Ok(url) => Redis::external(&url),
            Err(_) => Redis::start_own(),
        }
    }

    /// A private server, which may be killed and suspended.
    pub fn start_own() -> Result<Redis> {
        Redis::start_here(None)
    }

    /// The same, with TLS only on its port.
    pub fn start_tls(certificates: &RedisCertificates) -> Result<Redis> {
        Redis::start_here(Some(certificates))
    }

    fn start_here(certificates: Option<&RedisCertificates>) -> Result<Redis> {
        let folder = dir::make("redis")?;
        let node = RedisNode::start(folder.path(), certificates, &[])?;
        let url = node.url();
        Ok(Redis {
            url,
            kind: Kind::Own {
                node,
                _folder: folder,
            },
        })
    }

    fn external(url: &str) -> Result<Redis> {
        let server = url
            .strip_prefix("redis://")
            .and_then(|rest| rest.split('/').next());
        let server = server
            .filter(|server| !server.is_empty() && !server.contains('@'))
            .with_context(|| {
                format!("{REDIS_VARIABLE} is {url:?}; write it as redis://127.0.0.1:6379")
            })?
            .to_owned();
        for database in 1..DATABASES {
            let owner = std::process::id().to_string();
            let claim = format!("sestina-testkit:database:{database}");
            let number = database.to_string();
            let taken = resp::session(
                connect(&server)?,
                &[&["SET", &claim, &owner, "NX", "EX", "900"]],
            )?;
            if taken != [resp::Reply::Nil] {
                resp::session(connect(&server)?, &[&["SELECT", &number], &["FLUSHDB"]])?;
                let url = format!("redis://{server}/{database}");
                return Ok(Redis {
                    url,
                    kind: Kind::External { server, database },
                });
            }
        }
        bail!("all databases of {url} are used by other tests; start another server")
    }

    /// `redis://…`, or `rediss://…` with TLS.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL as a list, for configurations.
    pub fn urls(&self) -> Vec<String> {
        vec![self.url.clone()]
    }

    /// The port on 127.0.0.1.
    ///
    /// # Panics
    /// For a server named by the environment, as all methods below.
    pub fn port(&self) -> u16 {
        self.node().port
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.node().process.pid()
    }

    /// Kills the server with SIGKILL; its data is lost.
    pub fn kill9(&mut self) {
        self.node_mut().process.kill9();
    }

    /// Suspends the server (SIGSTOP).
    pub fn suspend(&self) {
        self.node().process.suspend();
    }

    /// Resumes a suspended server.
    pub fn resume(&self) {
        self.node().process.resume();
    }

    /// Starts the server again on the same port, empty; stops it first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        self.node_mut().restart()
    }

    fn node(&self) -> &RedisNode {
        match &self.kind {
            Kind::Own { node, .. } => node,
            Kind::External { .. } => panic!("{}", NOT_OWN),
        }
    }

    fn node_mut(&mut self) -> &mut RedisNode {
        match &mut self.kind {
            Kind::Own { node, .. } => node,
            Kind::External { .. } => panic!("{}", NOT_OWN),
        }
    }
}

const NOT_OWN: &str = "this Redis was not started here; the test must use Redis::start_own";

impl Drop for Redis {
    fn drop(&mut self) {
        if let Kind::External { server, database } = &self.kind {
            let claim = format!("sestina-testkit:database:{database}");
            if let Ok(stream) = connect(server) {
                resp::session(stream, &[&["DEL", &claim]]).ok();
            }
        }
    }
}

fn connect(server: &str) -> Result<TcpStream> {
    let with_port = if server.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:6379")
    };
    let address = with_port
        .to_socket_addrs()?
        .next()
        .context("no such host")?;
    TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("cannot connect to {server}, which {REDIS_VARIABLE} names"))
}

/// One process of Redis, in any role.
#[derive(Debug)]
pub(crate) struct RedisNode {
    pub(crate) port: u16,
    pub(crate) process: ServerProcess,
    /// With TLS: the socket of the testkit.
    socket: Option<PathBuf>,
}

impl RedisNode {
    /// Starts a server in a folder of its own with options of redis-server's command line.
    pub(crate) fn start(
        folder: &Path,
        certificates: Option<&RedisCertificates>,
        options: &[&str],
    ) -> Result<RedisNode> {
        RedisNode::start_with(folder, certificates, || {
            Ok(options.iter().map(|o| (*o).to_owned()).collect())
        })
    }

    /// The same with options that are made for each attempt. They may begin with a configuration
    /// file.
    pub(crate) fn start_with(
        folder: &Path,
        certificates: Option<&RedisCertificates>,
        options: impl Fn() -> Result<Vec<String>>,
    ) -> Result<RedisNode> {
        let socket = certificates.map(|_| folder.join("redis.sock"));
        let mut last = None;
        // Another process may take the port between the check and the start.
        for _ in 0..5 {
            let port = port::free_port()?;
            let mut arguments = options()?;
            arguments.extend(match (certificates, &socket) {
                (Some(certificates), Some(socket)) => certificates.options(port, socket),
                _ => vec!["--port".to_owned(), port.to_string()],
            });
            arguments.extend(
                [
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                    "--daemonize",
                    "no",
                ]
                .map(str::to_owned),
            );
            let process = ServerProcess::start(Program {
                path: install::require("redis-server")?,
                arguments: arguments.into_iter().map(Into::into).collect(),
                user: None,
                stop: Signal::KILL,
                folder: folder.to_owned(),
            })?;
            let mut node = RedisNode {
                port,
                process,
                socket: socket.clone(),
            };
            match node.wait_ready() {
                Ok(()) => return Ok(node),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("redis-server did not start")?)
    }

    pub(crate) fn url(&self) -> String {
        let scheme = self.socket.as_ref().map_or("redis", |_| "rediss");
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Result<resp::Reply> {
        ask(self.port, self.socket.as_deref(), words)
    }

    pub(crate) fn restart(&mut self) -> Result<()> {
        self.process.restart()?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let RedisNode {
            port,
            process,
            socket,
        } = self;
        let mut ended = None;
        wait::wait_for("redis-server to answer PING", READY, || {
            if let Err(error) = process.check_alive() {
                // A dead process never becomes ready.
                ended = Some(error);
                return Ok(());
            }
            ask(*port, socket.as_deref(), &["PING"]).map(drop)
        })?;
        ended.map_or(Ok(()), Err)
    }
}

fn ask(port: u16, socket: Option<&Path>, words: &[&str]) -> Result<resp::Reply> {
    match socket {
        Some(socket) => resp::command_at(socket, words),
        None => resp::command(port, words),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn starts_suspends_and_restarts_on_the_same_port() {
        let mut redis = Redis::start_own().unwrap();
        let port = redis.port();
        resp::command(port, &["SET", "a", "1"]).unwrap();
        redis.suspend();
        assert!(resp::command(port, &["GET", "a"]).is_err());
        redis.resume();
        assert_eq!(resp::command(port, &["GET", "a"]).unwrap().text(), "1");
        let pid = redis.pid();
        redis.kill9();
        assert!(resp::command(port, &["PING"]).is_err());
        redis.restart().unwrap();
        assert_ne!(redis.pid(), pid);
        assert_eq!(
            resp::command(port, &["GET", "a"]).unwrap(),
            resp::Reply::Nil
        );
        drop(redis);
        assert!(resp::command(port, &["PING"]).is_err());
    }

    #[test]
    fn a_named_server_gives_out_empty_databases() {
        let server = Redis::start_own().unwrap();
        let one = Redis::external(server.url()).unwrap();
        let two = Redis::external(server.url()).unwrap();
        assert_eq!(one.url(), format!("{}/1", server.url()));
        assert_eq!(two.url(), format!("{}/2", server.url()));
        let select = ["SELECT", "1"];
        let stream = || connect(&format!("127.0.0.1:{}", server.port())).unwrap();
        resp::session(stream(), &[&select, &["SET", "left", "over"]]).unwrap();
        drop(one);
        let again = Redis::external(server.url()).unwrap();
        assert_eq!(again.url(), format!("{}/1", server.url()));
        let replies = resp::session(stream(), &[&select, &["DBSIZE"]]).unwrap();
        assert_eq!(replies[1], resp::Reply::Int(0));
        assert!(Redis::external("127.0.0.1").is_err());
    }
}
