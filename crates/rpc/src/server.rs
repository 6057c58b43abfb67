//! The one listener of a process: mutual TLS (or plaintext where the configuration says so by
//! name), HTTP/2 tuned for lanes, health, and an end within a deadline.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sestina_api::admin::AdminHandler;
use sestina_api::link::RouterAcceptor;
use sestina_api::store::Stores;
use sestina_proto::admin_server::AdminServer;
use sestina_proto::edge_link_server::EdgeLinkServer;
use sestina_proto::peer_link_server::PeerLinkServer;
use sestina_proto::storage_server::StorageServer;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::accept::{Acceptor, Listener, accept, bind_unix};
use crate::access::Checked;
use crate::cluster::Cluster;
use crate::lane::LaneLimits;
use crate::{
    CONNECTION_WINDOW, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_MESSAGE, RpcError, STREAM_WINDOW,
    Security,
};

/// Far above what a peer uses, so that no call waits for a stream.
const STREAMS: u32 = 8192;
/// Once connections are cut, their tasks need only be scheduled.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Gathers the services of a process; [`RpcServer::listen`] starts it.
pub struct RpcServer {
    security: Security,
    cluster: Option<Cluster>,
    routes: RoutesBuilder,
    limits: LaneLimits,
    max_connection_age: Option<Duration>,
    ready: Option<(watch::Receiver<bool>, HealthReporter)>,
    leases: Option<Handle>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl RpcServer {
    /// A server without services.
    pub fn new(security: Security) -> RpcServer {
        RpcServer {
            security,
            cluster: None,
            routes: RoutesBuilder::default(),
            limits: LaneLimits::default(),
            max_connection_age: None,
            ready: None,
            leases: None,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Callers of the services added after this must be of that cluster.
    pub fn cluster(mut self, cluster: Cluster) -> RpcServer {
        self.cluster = Some(cluster);
        self
    }

    /// Serves what concerns leases on that runtime, which the other calls do not delay.
    pub fn leases_on(mut self, leases: Handle) -> RpcServer {
        self.leases = Some(leases);
        self
    }

    /// Adds a service behind its checks. `tiers`: it is for other tiers, which are of one cluster;
    /// administrators and probes are of none.
    fn add<S>(&mut self, tiers: bool, service: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let cluster = self.cluster.clone().filter(|_| tiers);
        self.routes.add_service(Checked { service, cluster });
    }

    /// Other bounds for the lanes of services added after this.
    pub fn lane_limits(mut self, limits: LaneLimits) -> RpcServer {
        self.limits = limits;
        self
    }

    /// Asks clients to connect anew after this time, so that new replicas get their share. Not
    /// for a process that serves lanes: they would end with the connection.
    pub fn max_connection_age(mut self, age: Duration) -> RpcServer {
        self.max_connection_age = Some(age);
        self
    }

    /// Serves edges and other routers.
    pub fn router(mut self, acceptor: Arc<dyn RouterAcceptor>) -> RpcServer {
        let lanes = crate::lane_server::LaneServer::new(
            acceptor,
            self.limits,
            self.stop.clone(),
            self.tasks.clone(),
        );
        let edges = EdgeLinkServer::new(lanes.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let peers = PeerLinkServer::new(lanes)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        self.add(true, edges);
        self.add(true, peers);
        self
    }

    /// Serves the stores to routers.
    pub fn storage(mut self, stores: Arc<dyn Stores>) -> RpcServer {
        let service = StorageServer::new(crate::storage_server::StoresService::new(stores))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        self.add(true, service);
        self
    }

    /// Serves the administrator's commands (to admin certificates, or on the unix socket).
    pub fn admin(self, handler: Arc<dyn AdminHandler>) -> RpcServer {
        self.admin_among_routers(handler, &[])
    }

    /// The same on a router, which other routers ask `theirs` of, on an administrator's behalf;
    /// nothing else.
    pub fn admin_among_routers(
        mut self,
        handler: Arc<dyn AdminHandler>,
        theirs: &'static [&'static str],
    ) -> RpcServer {
        let service = AdminServer::new(crate::admin::AdminService::new(handler, theirs))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        self.add(false, service);
        self
    }

    /// Serves `grpc.health.v1.Health`, which says what `ready` says.
    pub fn health(mut self, ready: watch::Receiver<bool>) -> RpcServer {
        let (reporter, service) = tonic_health::server::health_reporter();
        self.add(false, service);
        self.ready = Some((ready, reporter));
        self
    }

    /// Listens on a TCP address and serves.
    pub async fn listen(self, address: SocketAddr) -> Result<RunningServer, RpcError> {
        let failed = |source| RpcError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if let Security::Plaintext = self.security {
            tracing::warn!(%address, "listening for other tiers without TLS");
        }
        Ok(self.start(Listener::Tcp(listener), Some(address), None))
    }

    /// Listens on a unix socket that only this process's user can open, and serves. A socket that
    /// a dead process left there is replaced.
    pub async fn listen_unix(self, path: &Path) -> Result<RunningServer, RpcError> {
        let listener = bind_unix(path).await?;
        Ok(self.start(
            Listener::Unix(listener),
            None,
            Some(SocketFile(path.to_owned())),
        ))
    }

    fn start(
        self,
        listener: Listener,
        address: Option<SocketAddr>,
        socket: Option<SocketFile>,
    ) -> RunningServer {
        let RpcServer {
            security,
            routes,
            max_connection_age,
            ready,
            leases,
            stop,
            tasks,
            ..
        } = self;
        let home = Handle::current();
        let leases = leases.unwrap_or_else(|| home.clone());
        let cut = CancellationToken::new();
        let (connections, incoming) = mpsc::channel(64);
        let (lease_connections, leases_incoming) = mpsc::channel(64);
        let acceptor = Acceptor {
            listener,
            security,
            connections,
            lease_connections,
            home: home.clone(),
            stop: stop.clone(),
            cut: cut.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn_on(accept(acceptor), &leases);
        if let Some((ready, reporter)) = ready {
            tasks.spawn(report_health(ready, reporter, stop.clone()));
        }
        let mut server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
        if let Some(age) = max_connection_age {
            server = server.max_connection_age(age);
        }
        let routes = routes.routes();
        let serve = |incoming, runtime: &Handle| {
            let serve = server
                .clone()
                .add_routes(routes.clone())
                .serve_with_incoming_shutdown(
                    ReceiverStream::new(incoming),
                    stop.clone().cancelled_owned(),
                );
            // Its connections are served where this task runs.
            runtime.spawn(async move {
                if let Err(error) = serve.await {
                    tracing::error!(error = %crate::error::chain(&error), "the gRPC server ended");
                }
            })
        };
        let serving = [serve(incoming, &home), serve(leases_incoming, &leases)];
        RunningServer {
            address,
            stop,
            cut,
            tasks,
            serving: serving.into(),
            _socket: socket,
        }
    }
}

/// A server at work. Dropping it cuts everything; [`RunningServer::shutdown`] is the kind way.
pub struct RunningServer {
    address: Option<SocketAddr>,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    serving: Vec<JoinHandle<()>>,
    _socket: Option<SocketFile>,
}

impl RunningServer {
    /// The TCP address that it listens on; `None` for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops accepting, closes the lanes (what they hold queued is still written), lets calls end,
    /// and cuts what is left at the deadline. Returns whether nothing had to be cut.
    pub async fn shutdown(mut self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        let serving = std::mem::take(&mut self.serving);
        let ended = async {
            for serving in serving {
                // The task reports its own errors; a panic in it has been reported by the runtime.
                drop(serving.await);
            }
            self.tasks.wait().await;
        };
        tokio::pin!(ended);
        if tokio::time::timeout(deadline, &mut ended).await.is_ok() {
            return true;
        }
        self.cut.cancel();
        if tokio::time::timeout(CUT_TIMEOUT, &mut ended).await.is_err() {
            tracing::warn!("connections were still at work after they had been cut");
        }
        false
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

/// Removes the socket when the server ends, so that clients are told at once.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the unix socket was already gone");
        }
    }
}

async fn report_health(
    mut ready: watch::Receiver<bool>,
    reporter: HealthReporter,
    stop: CancellationToken,
) {
    loop {
        let serving = *ready.borrow_and_update();
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status("", status).await;
        tokio::select! {
            () = stop.cancelled() => break,
            changed = ready.changed() => if changed.is_err() { break },
        }
    }
    // Stopping, or no task is left that could say that this process is well.
    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
}
