//! A lazy connection that reconnects: for one server, Sentinel and Redis Cluster.
//!
//! A task of its own connects; a caller waits for it only within its own time limit. While Redis is
//! known to be unavailable, calls fail at once instead of each waiting for its limit.
//!
//! A command is sent again only if the server reported that it did not perform it (as with a
//! redirection). After a time-out it is unknown whether the command was performed: its bytes may be
//! anywhere between this process and the server, and may arrive later than those of a newer
//! connection. The scripts refuse a command that arrives too late. A connection is given up if it
//! has brought no answer at all since the command was sent. Other commands on it still wait for
//! their own limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Script,
    ServerErrorKind, TlsCertificates, Value,
};
use sestina_runtime::backoff::Backoff;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::config::{RedisConfig, RedisConfigError, RedisMode};
use crate::{format, sentinel, tls};

/// The most commands that wait for the socket; a further command waits for a free place, within its
/// time limit.
const PIPELINE: usize = 1024;
/// How often a command is sent again after a server has refused to perform it yet.
const REFUSALS: u32 = 4;
/// The delay before that, unless the answer named another server.
const REFUSED_WAIT: Duration = Duration::from_millis(20);
/// A cluster's connection repairs itself; after this many failures in a row it is replaced.
const CLUSTER_FAILURES: u32 = 8;

/// A script, with its source for servers that do not have it.
pub(crate) struct Lua {
    source: &'static str,
    hash: String,
}

impl Lua {
    pub(crate) fn new(source: &'static str) -> Lua {
        Lua {
            source,
            hash: Script::new(source).get_hash().to_owned(),
        }
    }

    fn command(&self, known: bool, keys: &[String], arguments: &[Vec<u8>]) -> Cmd {
        let mut command = if known {
            redis::cmd("EVALSHA")
        } else {
            redis::cmd("EVAL")
        };
        command.arg(if known {
            self.hash.as_str()
        } else {
            self.source
        });
        command.arg(keys.len()).arg(keys).arg(arguments);
        command
    }
}

/// Keeps one connection to Redis. Dropping it ends the task that connects.
pub(crate) struct Link {
    state: Arc<watch::Sender<State>>,
    /// Failures in a row on a cluster's connection.
    failures: AtomicU32,
    /// The time of the last answer, in milliseconds since the start.
    answered_ms: AtomicU64,
    started: Instant,
    /// The prefix of all keys.
    prefix: String,
    task: AbortHandle,
}

#[derive(Clone)]
enum State {
    /// The first attempt to connect, or to reconnect, is under way; none has failed yet.
    Connecting,
    Up {
        generation: u64,
        connection: Connection,
    },
    /// The last attempt failed; the task goes on trying.
    Down(String),
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Starts connecting; needs a tokio runtime. Fails only for a configuration that can never
    /// work.
    pub(crate) fn start(
        name: &'static str,
        config: &RedisConfig,
    ) -> Result<Link, RedisConfigError> {
        let target = Target::new(config)?;
        let state = Arc::new(watch::Sender::new(State::Connecting));
        let key = format!("{}{}", config.prefix, format::KEY);
        let task = tokio::spawn(keep_connected(name, target, key, state.clone())).abort_handle();
        Ok(Link {
            state,
            failures: AtomicU32::new(0),
            answered_ms: AtomicU64::new(0),
            started: Instant::now(),
            prefix: config.prefix.clone(),
            task,
        })
    }

    /// A key with the cluster's prefix: other clusters may share the server.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Runs a script, with the cluster's prefix before the keys. The error says why Redis is
    /// unavailable.
    pub(crate) async fn script(
        &self,
        limit: Duration,
        lua: &Lua,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<Value, String> {
        let keys: Vec<String> = keys.iter().map(|key| self.key(key)).collect();
        let command = lua.command(true, &keys, arguments);
        match self.run(limit, &command).await {
            Err(Failure::Unknown) => {
                // EVAL also stores the script on the server.
                let command = lua.command(false, &keys, arguments);
                self.run(limit, &command).await.map_err(Failure::text)
            }
            other => other.map_err(Failure::text),
        }
    }

    /// Runs one command.
    pub(crate) async fn command(&self, limit: Duration, command: &Cmd) -> Result<Value, String> {
        self.run(limit, command).await.map_err(Failure::text)
    }

    async fn run(&self, limit: Duration, command: &Cmd) -> Result<Value, Failure> {
        let mut used = None;
        let sent_ms = self.now_ms();
        match timeout(limit, self.ask(command, &mut used)).await {
            Ok(Ok(Ok(value))) => {
                self.failures.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Ok(Ok(Err(error))) => {
                if breaks(&error) {
                    self.failed(used);
                }
                Err(error.into())
            }
            Ok(Err(down)) => Err(Failure::Unavailable(down)),
            Err(_) => {
                // If other commands were answered on the connection meanwhile, only this one is
                // late.
                if self.answered_ms.load(Ordering::Relaxed) <= sent_ms {
                    self.failed(used);
                }
                Err(Failure::Unavailable(format!("no answer within {limit:?}")))
            }
        }
    }

    /// Sends the command until there is an answer, or it is unknown whether the command was
    /// performed.
    async fn ask(
        &self,
        command: &Cmd,
        used: &mut Option<u64>,
    ) -> Result<RedisResult<Value>, String> {
        let mut refusals = 0;
        loop {
            let (generation, mut connection) = self.up().await?;
            *used = Some(generation);
            let reply = match &mut connection {
                Connection::One(one) => one.req_packed_command(command).await,
                Connection::Cluster(cluster) => cluster.req_packed_command(command).await,
            };
            let reply = reply.and_then(Value::extract_error);
            let told = |error: &RedisError| matches!(error.kind(), ErrorKind::Server(_));
            if reply.as_ref().err().is_none_or(told) {
                self.answered_ms.store(self.now_ms(), Ordering::Relaxed);
            }
            match reply {
                Err(error) if refusals < REFUSALS && is_not_done(&error) => {
                    refusals += 1;
                    if error.kind() != ErrorKind::Server(ServerErrorKind::Moved) {
                        sleep(REFUSED_WAIT).await;
                    }
                }
                reply => return Ok(reply),
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn up(&self) -> Result<(u64, Connection), String> {
        let mut state = self.state.subscribe();
        let state = state
            .wait_for(|state| !matches!(state, State::Connecting))
            .await;
        match state.as_deref() {
            Ok(State::Up {
                generation,
                connection,
            }) => Ok((*generation, connection.clone())),
            Ok(State::Down(why)) => Err(why.clone()),
            Ok(State::Connecting) | Err(_) => Err("not connected".into()),
        }
    }

    /// Makes the task replace the connection of this generation.
    fn failed(&self, used: Option<u64>) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        self.state.send_if_modified(|state| {
            let State::Up {
                generation,
                connection,
            } = state
            else {
                return false;
            };
            let cluster = matches!(connection, Connection::Cluster(_));
            if Some(*generation) != used || (cluster && failures < CLUSTER_FAILURES) {
                return false;
            }
            *state = State::Connecting;
            self.failures.store(0, Ordering::Relaxed);
            true
        });
    }
}

enum Failure {
    /// The server does not have the script.
    Unknown,
    Unavailable(String),
}

impl Failure {
    fn text(self) -> String {
        match self {
            Failure::Unknown => "the server does not keep scripts".into(),
            Failure::Unavailable(text) => text,
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Failure {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Failure::Unknown,
            _ => Failure::Unavailable(tls::explain(&error)),
        }
    }
}

/// Whether a cluster's node has reported that it did not perform the command, but that it or
/// another node will.
fn is_not_done(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
    match error.kind() {
        ErrorKind::Server(kind) => matches!(kind, Ask | ClusterDown | Moved | TryAgain),
        ErrorKind::ClusterConnectionNotFound => true,
        _ => false,
    }
}

/// Whether a new connection may help after this error. A connection to a demoted master still
/// works, but the server refuses writes.
fn breaks(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    match error.kind() {
        ErrorKind::Server(kind) => matches!(kind, BusyLoading | MasterDown | ReadOnly),
        ErrorKind::UnexpectedReturnType => false,
        _ => true,
    }
}

async fn keep_connected(
    name: &'static str,
    target: Target,
    format_key: String,
    state: Arc<watch::Sender<State>>,
) {
    let mut watching = state.subscribe();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    let mut generation = 0;
    let mut down = false;
    loop {
        let attempt = timeout(target.limit, target.usable(&format_key)).await;
        let why = match attempt {
            Ok(Ok(connection)) => {
                generation += 1;
                state.send_replace(State::Up {
                    generation,
                    connection,
                });
                tracing::info!(name, generation, "connected to redis");
                backoff.reset();
                down = false;
                // Never fails: this function holds the sender.
                watching
                    .wait_for(|state| !matches!(state, State::Up { .. }))
                    .await
                    .ok();
                tracing::warn!(name, "the connection to redis failed, connecting again");
                continue;
            }
            Ok(Err(why)) => why,
            Err(_) => format!("not connected within {:?}", target.limit),
        };
        if !std::mem::replace(&mut down, true) {
            tracing::warn!(name, error = why, "redis is unavailable, trying on");
        }
        state.send_replace(State::Down(why));
        backoff.wait().await;
    }
}

struct Target {
    kind: TargetKind,
    limit: Duration,
    settings: AsyncConnectionConfig,
}

enum TargetKind {
    Single(Client),
    Sentinel {
        sentinels: Vec<Client>,
        master_name: String,
        /// Certificates for TLS, also to the master.
        certificates: Option<TlsCertificates>,
        config: RedisConfig,
    },
    Cluster(ClusterClient),
}

impl Target {
    fn new(config: &RedisConfig) -> Result<Target, RedisConfigError> {
        let addresses = config.addresses()?;
        let certificates = tls::certificates(config, &addresses)?;
        let unusable = |error: RedisError| RedisConfigError::Unusable(error.to_string());
        let kind = match &config.mode {
            RedisMode::Single => {
                let first = addresses
                    .into_iter()
                    .next()
                    .ok_or(RedisConfigError::NoUrl)?;
                TargetKind::Single(tls::client(first, certificates.as_ref()).map_err(unusable)?)
            }
            RedisMode::Sentinel { master_name } => TargetKind::Sentinel {
                sentinels: addresses
                    .into_iter()
                    .map(|info| tls::client(info, certificates.as_ref()))
                    .collect::<RedisResult<_>>()
                    .map_err(unusable)?,
                master_name: master_name.clone(),
                certificates,
                config: config.clone(),
            },
            RedisMode::Cluster => {
                let mut client = ClusterClientBuilder::new(addresses)
                    .connection_timeout(config.connect_timeout)
                    .response_timeout(config.state_store_timeout.max(config.lease_timeout))
                    // A retry would also repeat commands that may have been performed.
                    .retries(0);
                if let Some(certificates) = certificates {
                    client = client.certs(certificates);
                }
                TargetKind::Cluster(client.build().map_err(unusable)?)
            }
        };
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            // Callers have limits of their own, which include the wait for a free place.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE);
        // A cluster's connection tries several nodes one after the other.
        let limit = match kind {
            TargetKind::Cluster(_) => config.connect_timeout * 3,
            _ => config.connect_timeout,
        };
        Ok(Target {
            kind,
            limit,
            settings,
        })
    }

    /// A connection to a server whose format of the state this program knows.
    async fn usable(&self, format_key: &str) -> Result<Connection, String> {
        let mut connection = self.connect().await?;
        match &mut connection {
            Connection::One(one) => format::check(one, format_key).await?,
            Connection::Cluster(cluster) => format::check(cluster, format_key).await?,
        }
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, String> {
        let text = |error: RedisError| tls::explain(&error);
        match &self.kind {
            TargetKind::Single(client) => self.open(client).await.map_err(text),
            TargetKind::Sentinel {
                sentinels,
                master_name,
                certificates,
                config,
            } => {
                let master = sentinel::master(sentinels, master_name, self.limit / 3).await?;
                let info = sentinel::node(master, certificates.is_some(), config);
                let client = tls::client(info, certificates.as_ref()).map_err(text)?;
                let mut connection = self.open(&client).await.map_err(text)?;
                if let Connection::One(one) = &mut connection {
                    sentinel::check_master(one).await?;
                }
                Ok(connection)
            }
            TargetKind::Cluster(client) => client
                .get_async_connection()
                .await
                .map(Connection::Cluster)
                .map_err(text),
        }
    }

    async fn open(&self, client: &Client) -> RedisResult<Connection> {
        let connection = client.get_multiplexed_async_connection_with_config(&self.settings);
        connection.await.map(Connection::One)
    }
}
