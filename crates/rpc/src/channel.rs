//! Dialling other processes: DNS at each connect, TCP without delay, mutual TLS, HTTP/2 with
//! probes, so that a peer that vanished without a word is noticed in under 3 s.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sestina_api::link::LinkError;
use sestina_certs::Role;
use sestina_proto as proto;
use sestina_runtime::coalesce::CoalescingTimer;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::cluster::Cluster;
use crate::io::Stream;
use crate::lane::LaneLimits;
use crate::lease_connection;
use crate::target::{Names, Target};
use crate::tls::Expect;
use crate::versions;
use crate::{CONNECTION_WINDOW, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW, Security};

/// From the first packet to the end of the TLS handshake, all addresses tried.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One address of several may not use up the whole time.
const ADDRESS_TIMEOUT: Duration = Duration::from_millis(1200);

/// What all outgoing connections of a process share. It owns the tasks of the lanes it opened:
/// [`Dialer::shutdown`] ends them.
pub struct Dialer {
    security: Security,
    cluster: Option<Cluster>,
    /// The runtime that drives connections for leases; none: the one that first uses them.
    leases: Option<Handle>,
    names: Names,
    /// A resolver's own connections are driven by the runtime that first asks it.
    lease_names: Names,
    limits: LaneLimits,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Coalesces frames for which no caller waits.
    pub(crate) coalesce: Arc<CoalescingTimer>,
}

impl Dialer {
    /// A dialler with the usual bounds.
    pub fn new(security: Security) -> Arc<Dialer> {
        Dialer::with_limits(security, LaneLimits::default())
    }

    /// A dialler for processes of that cluster and no other.
    pub fn in_cluster(security: Security, cluster: Cluster) -> Arc<Dialer> {
        Dialer::made(security, LaneLimits::default(), Some(cluster), None)
    }

    /// The same, with connections for leases that `leases` drives.
    pub fn with_leases_on(security: Security, cluster: Cluster, leases: Handle) -> Arc<Dialer> {
        let limits = LaneLimits::default();
        Dialer::made(security, limits, Some(cluster), Some(leases))
    }

    /// A dialler with other bounds.
    pub fn with_limits(security: Security, limits: LaneLimits) -> Arc<Dialer> {
        Dialer::made(security, limits, None, None)
    }

    /// A request with its deadline, the trace context, and what this process says of its cluster.
    pub(crate) fn request<T>(&self, message: T, limit: Duration) -> Request<T> {
        let mut request = crate::lane_client::request(message, limit);
        if let Some(cluster) = &self.cluster {
            cluster.tell_with(request.metadata_mut());
        }
        request
    }

    /// A call that lasts.
    pub(crate) fn stream<T>(&self, messages: T) -> Request<T> {
        let mut request = Request::new(messages);
        if let Some(cluster) = &self.cluster {
            cluster.tell_with(request.metadata_mut());
        }
        request
    }

    /// Returns the answer of a process of the same cluster that speaks a version in common. If the
    /// clusters or versions differ, this logs it, whichever of the two processes has refused.
    pub(crate) fn checked<T>(
        &self,
        peer: &Peer,
        answer: Result<Response<T>, Status>,
    ) -> Result<Response<T>, Status> {
        let Some(cluster) = &self.cluster else {
            return answer;
        };
        let checked = match &answer {
            Ok(answer) => cluster.check_answer(answer.metadata()),
            Err(status) => cluster.check_refusal(status.metadata()),
        };
        if let Err(error) = checked {
            cluster.warn(&peer.label, &error);
            return Err(answer.err().unwrap_or_else(|| error.into()));
        }
        let checked = match &answer {
            Ok(answer) => versions::check(answer.metadata().as_ref(), &peer.label),
            Err(status) => versions::check_refusal(status.metadata(), &peer.label),
        };
        checked.map_err(|error| {
            versions::warn(&peer.label, &error);
            versions::refusal(&error)
        })?;
        answer
    }

    fn made(
        security: Security,
        limits: LaneLimits,
        cluster: Option<Cluster>,
        leases: Option<Handle>,
    ) -> Arc<Dialer> {
        Arc::new(Dialer {
            security,
            cluster,
            leases,
            names: Names::new(),
            lease_names: Names::new(),
            limits,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            coalesce: CoalescingTimer::new(),
        })
    }

    /// Closes all lanes (what is queued is still written) and waits for their tasks.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn limits(&self) -> &LaneLimits {
        &self.limits
    }

    /// The processes behind a configured address.
    pub(crate) async fn expand(&self, target: &Target, role: Role) -> Result<Vec<Peer>, String> {
        if !target.many {
            return Ok(vec![Peer::configured(target, role)]);
        }
        let found = tokio::time::timeout(
            CONNECT_TIMEOUT,
            self.names.resolve(&target.host, target.port),
        )
        .await
        .map_err(|_| format!("{} was not resolved in time", target.host))??;
        Ok(found
            .into_iter()
            .map(|addr| Peer::address(addr, role))
            .collect())
    }

    /// A channel that connects when first used and again after it broke.
    pub(crate) fn lazy(self: &Arc<Self>, peer: &Peer) -> Result<Channel, LinkError> {
        let endpoint = self.endpoint(peer)?;
        Ok(endpoint.connect_with_connector_lazy(self.connector(peer, false)))
    }

    /// A channel to one process of whichever tier, for calls by their names.
    pub fn channel(self: &Arc<Self>, target: &Target) -> Result<Channel, LinkError> {
        self.lazy(&Peer::any(target))
    }

    /// The same for leases. These connections carry nothing else, and the lease thread drives them.
    pub(crate) fn lazy_for_leases(self: &Arc<Self>, peer: &Peer) -> Result<Channel, LinkError> {
        let endpoint = self.endpoint(peer)?;
        // The task that drives the channel belongs to the runtime in which the channel is made.
        let _on = self.leases.as_ref().map(Handle::enter);
        Ok(endpoint.connect_with_connector_lazy(self.connector(peer, true)))
    }

    fn connector(self: &Arc<Self>, peer: &Peer, for_leases: bool) -> Connector {
        Connector {
            dialer: Arc::clone(self),
            peer: peer.clone(),
            for_leases,
        }
    }

    /// A connection of its own, made now; it does not reconnect by itself in the middle of a lane.
    pub(crate) async fn connect(self: &Arc<Self>, peer: &Peer) -> Result<Channel, LinkError> {
        let endpoint = self.endpoint(peer)?;
        endpoint
            .connect_with_connector(self.connector(peer, false))
            .await
            .map_err(|error| {
                let reason = crate::error::advised(crate::error::chain(&error));
                let peer = peer.label.clone();
                if crate::status::tls_refusal(&error) {
                    LinkError::Refused { peer, reason }
                } else {
                    LinkError::Unavailable { peer, reason }
                }
            })
    }

    fn endpoint(&self, peer: &Peer) -> Result<Endpoint, LinkError> {
        let refused = |reason: String| LinkError::Refused {
            peer: peer.label.clone(),
            reason,
        };
        let target = peer.target.as_ref().map_err(|e| refused(e.clone()))?;
        // TLS is below the connector, so the scheme that the library sees is the plain one.
        let endpoint = Endpoint::from_shared(format!("http://{}", target.authority()))
            .map_err(|e| refused(crate::error::chain(&e)))?;
        Ok(tuned(endpoint))
    }

    async fn dial(&self, peer: &Peer, for_leases: bool) -> io::Result<Box<dyn Stream>> {
        let target = peer
            .target
            .as_ref()
            .map_err(|e| io::Error::other(e.clone()))?;
        let names = if for_leases {
            &self.lease_names
        } else {
            &self.names
        };
        let found = names
            .resolve(&target.host, target.port)
            .await
            .map_err(io::Error::other)?;
        let mut last = io::Error::other("no address");
        for addr in found {
            let dialled = self.dial_address(addr, peer, for_leases);
            match tokio::time::timeout(ADDRESS_TIMEOUT, dialled).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => {
                    let text = format!("no connection to {addr} within {ADDRESS_TIMEOUT:?}");
                    last = io::Error::new(io::ErrorKind::TimedOut, text);
                }
            }
        }
        Err(last)
    }

    async fn dial_address(
        &self,
        addr: SocketAddr,
        peer: &Peer,
        for_leases: bool,
    ) -> io::Result<Box<dyn Stream>> {
        let mut tcp = TcpStream::connect(addr).await?;
        prompt(&tcp)?;
        if for_leases {
            lease_connection::announce(&mut tcp).await?;
        }
        match &self.security {
            Security::Plaintext => Ok(Box::new(tcp)),
            Security::Mutual(tls) => {
                let config = tls.client_config(&peer.expect).map_err(io::Error::other)?;
                // What the certificate must hold is the verifier's matter; this is only SNI.
                let name = ServerName::from(addr.ip());
                Ok(Box::new(
                    TlsConnector::from(config).connect(name, tcp).await?,
                ))
            }
        }
    }
}

/// For few small frames on which other processes wait. No frame waits for the peer's delayed
/// acknowledgement (some 40 ms). A lost packet is sent again after the same short time each time,
/// not after twice the time of the attempt before, so that a network that was unavailable is used as soon
/// as it is back.
pub(crate) fn prompt(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_thin_linear_timeouts(tcp, true)?;
    Ok(())
}

/// HTTP/2 as all our connections use it.
pub(crate) fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// One process to dial.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// How it is called in errors and logs.
    pub(crate) label: String,
    /// Where it is; the reason if its published address cannot be read.
    target: Result<Target, String>,
    expect: Expect,
}

impl Peer {
    /// From the configuration: any process of that role.
    pub(crate) fn configured(target: &Target, role: Role) -> Peer {
        Peer {
            label: target.authority(),
            target: Ok(target.clone()),
            expect: Expect {
                roles: vec![role],
                node: None,
            },
        }
    }

    /// For a caller that does not mind which tier it reaches.
    pub(crate) fn any(target: &Target) -> Peer {
        Peer {
            label: target.authority(),
            target: Ok(target.clone()),
            expect: Expect {
                roles: vec![Role::Edge, Role::Router, Role::Storage],
                node: None,
            },
        }
    }

    fn address(addr: SocketAddr, role: Role) -> Peer {
        let target = Target {
            host: addr.ip().to_string(),
            port: addr.port(),
            many: false,
        };
        Peer::configured(&target, role)
    }

    /// A node that the slot map names: that process and no other.
    pub(crate) fn node(node: &proto::Node, role: Role) -> Peer {
        let label = format!("{} ({})", node.name, node.address);
        let target = match node.address.parse::<Target>().map_err(|e| e.to_string()) {
            Ok(target) if target.many => Err(format!(
                "{:?} is not the address of one process",
                node.address
            )),
            other => other,
        };
        Peer {
            label,
            target,
            expect: Expect {
                roles: vec![role],
                node: Some(node.clone()),
            },
        }
    }
}

#[derive(Clone)]
struct Connector {
    dialer: Arc<Dialer>,
    peer: Peer,
    for_leases: bool,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Connector {
            dialer,
            peer,
            for_leases,
        } = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, dialer.dial(&peer, for_leases)).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => {
                    let text = format!("no connection within {CONNECT_TIMEOUT:?}");
                    Err(io::Error::new(io::ErrorKind::TimedOut, text))
                }
            }
        })
    }
}
