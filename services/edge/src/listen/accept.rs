//! The running listeners: bound ports and the tasks that accept on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sestina_runtime::CancellationToken;
use sestina_runtime::pressure::Pressure;
use sestina_runtime::spawn::{Tasks, Unfinished};
use tokio::net::TcpListener;

use super::bind::{ListenError, bind};
use super::config::{ListenConfig, ListenerConfig, ListenerKind};
use super::connection::{Failed, OnAccept, Port, Shared, canonical, connection};
use crate::http::HttpSite;
use crate::limits::{ConnLimits, ConnPermit, Refused};
use crate::metrics::{Count, EdgeMetrics};
use crate::tls::{Acceptor, CertStore, Purpose};

/// Between two connections on one port while the process is overloaded.
const OVERLOADED: Duration = Duration::from_millis(20);
/// How long to wait before a connection is tried again that could not be accepted.
const AGAIN: Duration = Duration::from_millis(50);

/// The running listeners.
pub struct Listeners {
    tasks: Tasks,
    accepting: CancellationToken,
    addresses: Vec<(Arc<str>, SocketAddr)>,
    limits: Arc<ConnLimits>,
}

impl Listeners {
    /// Binds all ports and accepts on them. The certificates are watched while they do.
    pub fn start(
        config: ListenConfig,
        certs: Arc<CertStore>,
        on_accept: OnAccept,
        metrics: Arc<dyn EdgeMetrics>,
    ) -> Result<Self, ListenError> {
        let all: Vec<SocketAddr> = config
            .listeners
            .iter()
            .flat_map(|l| l.addresses.iter().copied())
            .collect();
        let mut bound = Vec::new();
        for listener in &config.listeners {
            bound.push((listener, bind(listener, &all)?));
        }
        let tasks = Tasks::new("listeners");
        let accepting = tasks.token().child_token();
        let limits = ConnLimits::new(config.limits);
        let counts = Arc::clone(&metrics);
        let shared = Arc::new(Shared {
            limits: Arc::clone(&limits),
            wire: config.wire,
            site: Arc::new(HttpSite::new(config.http.clone())),
            on_accept,
            tasks: tasks.clone(),
            metrics,
        });
        let mut addresses = Vec::new();
        for (listener, sockets) in bound {
            for socket in sockets {
                let port = Arc::new(Port::new(listener, &socket, &certs)?);
                tracing::info!(listener = %port.name, address = %port.local, "listening");
                addresses.push((Arc::clone(&port.name), port.local));
                let (shared, pressure) = (Arc::clone(&shared), Arc::clone(&config.pressure));
                let run = accept_loop(socket, port, shared, pressure, accepting.clone());
                tasks.spawn("accept", run);
            }
        }
        tasks.spawn("certificates", certs.watch(counts, tasks.token()));
        Ok(Self {
            tasks,
            accepting,
            addresses,
            limits,
        })
    }

    /// The addresses that are bound, by listener.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// The counted connections.
    pub fn limits(&self) -> &Arc<ConnLimits> {
        &self.limits
    }

    /// Closes the ports. Connections that were handed on, and HTTP requests, go on.
    pub fn stop_accepting(&self) {
        self.accepting.cancel();
    }

    /// Closes the ports, ends handshakes, lets HTTP requests end, and waits for all that.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.accepting.cancel();
        self.tasks.join(deadline).await
    }
}

impl Drop for Listeners {
    /// The end for those who do not wait for it.
    fn drop(&mut self) {
        self.tasks.shutdown();
    }
}

impl Port {
    fn new(
        config: &ListenerConfig,
        socket: &TcpListener,
        certs: &Arc<CertStore>,
    ) -> Result<Self, ListenError> {
        let purpose = match config.kind {
            ListenerKind::StartTls | ListenerKind::Http => Purpose::StartTls,
            ListenerKind::DirectTls => Purpose::DirectTls,
            ListenerKind::Https => Purpose::Https,
        };
        let local = socket.local_addr().map_err(|source| ListenError::Bind {
            listener: config.name.clone(),
            address: config.addresses[0],
            source,
            advice: "the system does not tell the bound address, start again",
        })?;
        Ok(Self {
            name: Arc::from(config.name.as_str()),
            kind: config.kind,
            proxies: config.proxy_protocol_from.clone(),
            acceptor: Acceptor::new(Arc::clone(certs), purpose),
            local,
        })
    }

    pub(super) fn is_http(&self) -> bool {
        matches!(self.kind, ListenerKind::Http | ListenerKind::Https)
    }
}

async fn accept_loop(
    listener: TcpListener,
    port: Arc<Port>,
    shared: Arc<Shared>,
    pressure: Arc<Pressure>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // Those that come meanwhile wait in the kernel's queue.
        if pressure.pause(OVERLOADED).await {
            shared.metrics.count(Count::AcceptDelayed, 1);
        }
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly: no file descriptors left. A connection that is not used gives its own.
                let shed = shared.limits.shed();
                tracing::error!(%error, shed, listener = %port.name, "cannot accept a connection");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => continue,
                }
            }
        };
        let peer = canonical(peer);
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = admit(&shared, &port, peer) => permit,
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(error) => {
                shared.refuse(&port, peer, &error);
                continue;
            }
        };
        let (port, shared, end) = (Arc::clone(&port), Arc::clone(&shared), shared.tasks.token());
        let tasks = shared.tasks.clone();
        tasks.spawn("connection", async move {
            let shed = permit.shed();
            let run = connection(&shared, &port, stream, peer, permit, &end);
            let result = tokio::select! {
                () = shed.cancelled() => Err(Failed::Shed),
                // HTTP ends its requests in order by itself.
                () = end.cancelled(), if !port.is_http() => return,
                result = run => result,
            };
            if let Err(error) = result {
                shared.refuse(&port, peer, &error);
            }
        });
    }
}

/// Waits while all connections that have not authenticated are young: more would only slow down
/// those.
async fn admit(shared: &Shared, port: &Port, peer: SocketAddr) -> Result<ConnPermit, Failed> {
    loop {
        match shared.admit(port, peer) {
            Err(Failed::Refused(Refused::Unauthenticated)) => tokio::time::sleep(AGAIN).await,
            admitted => return admitted,
        }
    }
}
