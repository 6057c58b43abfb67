//! An edge: started, drained, stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::seq::SliceRandom;
use sestina_api::link::RouterConnector;
use tokio::time::Instant;

use crate::config::EdgeConfig;
use crate::listen::{Accepted, ListenError, Listeners, OnAccept};
use crate::metrics::EdgeMetrics;
use crate::routing::lease;
use crate::session::{driver, ticker};
use crate::shared::Shared;
use crate::tls::{CertStore, TicketKeys};
use crate::transport::CloseKind;

/// How long tasks have to end at shutdown before they are aborted.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// Without a host no client could log in.
    #[error("no host is configured, add one")]
    NoHosts,
    /// The lease could not be kept with these times.
    #[error("the lease must be renewed more often than its term less its margin")]
    LeaseTimes,
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// How an edge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeStatus {
    /// The lease is held.
    pub leased: bool,
    /// It is being drained.
    pub draining: bool,
    /// Version of the slot map in use; 0: none.
    pub map_version: u64,
    /// Routers in the map.
    pub routers: usize,
    /// Those with an open lane.
    pub reached: usize,
    /// The version of the protocol between tiers that the cluster speaks; 0: not known.
    pub speaks: u32,
}

impl EdgeStatus {
    /// Whether clients should be sent here.
    pub fn ready(&self) -> bool {
        self.leased && !self.draining && self.reached > 0
    }
}

/// A running edge.
pub struct Edge {
    pub(crate) shared: Arc<Shared>,
    listeners: Option<Listeners>,
}

impl Edge {
    /// Starts an edge with its ports.
    pub fn start(
        config: EdgeConfig,
        certs: Arc<CertStore>,
        connector: Arc<dyn RouterConnector>,
        metrics: Arc<dyn EdgeMetrics>,
    ) -> Result<Edge, EdgeError> {
        let mut edge = Edge::start_tasks(config, connector, metrics, certs.tickets())?;
        let shared = Arc::clone(&edge.shared);
        let on_accept: OnAccept = Arc::new(move |accepted| accept(&shared, accepted));
        let listen = edge.shared.config.listen.clone();
        let counts = Arc::clone(&edge.shared.metrics);
        match Listeners::start(listen, certs, on_accept, counts) {
            Ok(listeners) => edge.listeners = Some(listeners),
            Err(error) => {
                edge.shared.tasks.shutdown();
                return Err(error.into());
            }
        }
        Ok(edge)
    }

    /// Starts an edge that gets its connections by [`Edge::accept`].
    pub fn start_without_ports(
        config: EdgeConfig,
        connector: Arc<dyn RouterConnector>,
        metrics: Arc<dyn EdgeMetrics>,
    ) -> Result<Edge, EdgeError> {
        Edge::start_tasks(config, connector, metrics, Arc::default())
    }

    fn start_tasks(
        config: EdgeConfig,
        connector: Arc<dyn RouterConnector>,
        metrics: Arc<dyn EdgeMetrics>,
        tickets: Arc<TicketKeys>,
    ) -> Result<Edge, EdgeError> {
        if config.hosts.is_empty() {
            return Err(EdgeError::NoHosts);
        }
        if config.lease.every + config.lease.margin >= config.lease.ttl {
            return Err(EdgeError::LeaseTimes);
        }
        let shared = Shared::new(config, connector, metrics, tickets);
        shared
            .renewals
            .spawn("lease", lease::run(Arc::clone(&shared)));
        shared
            .tasks
            .spawn("timers", ticker::run(Arc::clone(&shared)));
        Ok(Edge {
            shared,
            listeners: None,
        })
    }

    /// Serves a connection.
    pub fn accept(&self, accepted: Accepted) {
        accept(&self.shared, accepted);
    }

    /// The addresses that are bound, by listener.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        self.listeners.as_ref().map_or(&[], Listeners::addresses)
    }

    /// How it is, for readiness and status pages.
    pub fn status(&self) -> EdgeStatus {
        let (reached, routers) = self.shared.directory.reach();
        EdgeStatus {
            leased: self.shared.lease.holds(),
            draining: self.shared.is_draining(),
            map_version: self.shared.directory.position().version,
            routers,
            reached,
            speaks: self.shared.speaks.load(Ordering::Acquire),
        }
    }

    /// Why a router refuses to renew the lease of this edge; none if none does.
    pub fn refusal(&self) -> Option<String> {
        let refusal = self.shared.lease.refusal.lock().clone();
        (!refusal.is_empty()).then_some(refusal)
    }

    /// Closes the ports and ends all sockets, spread over the configured time: with XEP-0198
    /// without closing the stream, so that clients resume elsewhere; without it by
    /// `system-shutdown`. Returns when owners have taken over what was held, or time is up.
    pub async fn drain(&self) {
        if !self.shared.begin_draining() {
            return;
        }
        if let Some(listeners) = &self.listeners {
            listeners.stop_accepting();
        }
        let config = &self.shared.config;
        let mut sessions = self.shared.attachments.all_sessions();
        sessions.shuffle(&mut rand::rng());
        tracing::info!(sessions = sessions.len(), "draining");
        let pause = config
            .drain
            .over
            .checked_div(sessions.len() as u32)
            .unwrap_or_default();
        let mut next = Instant::now();
        for session in sessions {
            session.hand_off(&self.shared);
            next += pause;
            tokio::time::sleep_until(next).await;
        }
        // Sessions of clients that logged in meanwhile.
        for session in self.shared.attachments.all_sessions() {
            session.hand_off(&self.shared);
        }
        for (_, wire) in std::mem::take(&mut *self.shared.logins.lock()) {
            wire.close(CloseKind::AfterFlush);
        }
        let until = Instant::now() + config.drain.wait;
        while Instant::now() < until {
            let held = self
                .shared
                .attachments
                .slots
                .iter()
                .any(|slot| !slot.lock().sessions.is_empty());
            if !held {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let held = self.shared.attachments.all_sessions().len();
        tracing::warn!(held, "owners did not take over all sessions in time");
    }

    /// Ends everything. What is still connected is cut. Drain before, if there is time.
    pub async fn shutdown(&self) {
        self.shared.begin_draining();
        if let Some(listeners) = &self.listeners
            && let Err(error) = listeners.shutdown(SHUTDOWN).await
        {
            tracing::warn!(%error, "listeners did not end in time");
        }
        let ports = self.shared.directory.ports();
        let held = self.shared.lease.holds().then(|| self.shared.holder());
        self.shared.tasks.shutdown();
        self.shared.cut_everything();
        for tasks in [&self.shared.tasks, &self.shared.renewals] {
            if let Err(error) = tasks.join(SHUTDOWN).await {
                tracing::warn!(%error, "edge tasks did not end in time");
                return;
            }
        }
        if let Some(holder) = held
            && !lease::end(&ports, &holder).await
        {
            tracing::info!("no router took note of the end of this edge; its lease will run out");
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // An edge that is dropped without a shutdown must not go on without an owner.
        self.shared.tasks.shutdown();
        self.shared.cut_everything();
    }
}

fn accept(shared: &Arc<Shared>, accepted: Accepted) {
    shared.tasks.spawn(
        "connection",
        driver::run(Arc::clone(shared), Box::new(accepted)),
    );
}
