//! All tiers in one process: SQLite, memory, and direct calls between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sestina_api::lease::LeaseAuthority;
use sestina_api::link::RouterConnector;
use sestina_api::store::Stores;
use sestina_cluster::alone::{AloneLeases, FOREVER};
use sestina_cluster::lease::LeaseTerms;
use sestina_config::Config;
use sestina_edge::tls::CertStore;
use sestina_edge::{Around, Edge};
use sestina_proto as proto;
use sestina_router::{Router, RouterDeps};
use sestina_rpc::{CodecRouterConnector, CodecStores};
use sestina_runtime::pressure::Pressure;
use sestina_state::MemoryStateStore;
use sestina_storage::Storage;
use sestina_telemetry::{Authority, Metrics};
use tokio::runtime::Handle;

use super::cell::{RouterCell, Running};
use super::lock::DataLock;
use super::process::{LAST, Process};
use super::{replicas, welcome};
use crate::admin::{Alone, RouterAdmin};
use crate::direct::DirectConnector;
use crate::metrics::{EdgeCounts, MeteredLeases, metered_stores};
use crate::{compose, serve};

/// How often a start that waits logs the reason.
const STILL_WAITING: Duration = Duration::from_secs(20);
/// How long the last writes may take.
const SETTLE: Duration = Duration::from_secs(3);
/// How often conditions are checked.
const LOOK: Duration = Duration::from_millis(5);

/// All three tiers, made from a configuration.
pub struct Embedded {
    /// The database.
    pub storage: Arc<Storage>,
    /// The stores that the router uses.
    pub stores: Arc<dyn Stores>,
    /// The router that runs now.
    pub cell: RouterCell,
    /// The edge.
    pub edge: Arc<Edge>,
    /// Certificates of its listeners.
    pub certs: Arc<CertStore>,
    state_store: Arc<MemoryStateStore>,
    connector: DirectConnector,
    /// Holds the lock of the data directory.
    _lock: DataLock,
}

impl Embedded {
    /// Starts storage, router and edge; `pressure` makes them delay new work. `wire`: stanzas and
    /// calls between them pass the codecs of the wire, as between separate processes.
    pub async fn start(
        config: Config,
        metrics: Arc<Metrics>,
        pressure: Arc<Pressure>,
        wire: bool,
    ) -> anyhow::Result<Embedded> {
        let lock = DataLock::take(&config.node.data_dir)?;
        let tls = compose::client_tls(&config);
        let certs = tokio::task::spawn_blocking(move || CertStore::open(&tls)).await??;
        let storage = Storage::open(compose::storage(&config))
            .await
            .context(compose::storage_option(&config))?;
        // The file has one user, so the holders of its leases are dead, and their leases end now.
        storage
            .end_leases()
            .await
            .context("cannot end the leases of an earlier run")?;
        let mut stores = metered_stores(storage.clone(), metrics.clone());
        let connector = DirectConnector::new();
        let mut routers: Arc<dyn RouterConnector> = Arc::new(connector.clone());
        if wire {
            stores = Arc::new(CodecStores(stores));
            routers = Arc::new(CodecRouterConnector(routers));
        }
        let cell = RouterCell::new();
        let state_store = Arc::new(MemoryStateStore::new());
        let replicas = replicas::restore(&*stores, &state_store)
            .await
            .context("cannot read the sessions and rooms of an earlier run")?;
        if replicas > 0 {
            tracing::info!(replicas, "sessions and rooms of the earlier run go on");
        }
        let router = start_router(
            &config,
            &metrics,
            &pressure,
            &stores,
            &state_store,
            &connector,
        );
        cell.set(router.await?);
        // Names of leases are unique, and the router has the name of the process.
        let name = format!("{}-edge", config.node.name);
        let mut edge = compose::edge(&config, &name)?;
        edge.around_is(Around {
            leases: None,
            pressure: pressure.clone(),
        });
        edge.address.clear();
        edge.lease.ttl = FOREVER;
        // No client can resume elsewhere, so there is no reconnecting crowd to spread over time.
        edge.drain.over = edge.drain.over.min(Duration::from_secs(1));
        edge.drain.wait = edge.drain.wait.min(Duration::from_secs(2));
        let counts = Arc::new(EdgeCounts(metrics.clone()));
        let edge = Arc::new(Edge::start(edge, certs.clone(), routers, counts)?);
        Ok(Embedded {
            storage,
            stores,
            cell,
            edge,
            certs,
            state_store,
            connector,
            _lock: lock,
        })
    }

    /// Waits, without a limit, until all slots are served and the edge has found the router. Until
    /// then the process is not ready, and logs the reason now and then.
    pub async fn serving(&self) {
        let serving = async {
            loop {
                if let Some(running) = self.cell.get()
                    && self.ready().is_ok()
                    && running.router.counts().await.slots == sestina_cluster::slots::SLOTS
                {
                    // The router has loaded the state that an earlier run had saved.
                    self.state_store.clear();
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::pin!(serving);
        while tokio::time::timeout(STILL_WAITING, &mut serving)
            .await
            .is_err()
        {
            let reason = self.ready().err();
            let reason = reason.unwrap_or_else(|| "slots are missing".to_owned());
            tracing::warn!(reason, "the server does not serve yet");
        }
    }

    /// Whether the process can serve.
    pub fn ready(&self) -> Result<(), String> {
        ready(&self.storage, &self.cell, &self.edge)
    }

    async fn stop_router(&self) {
        if let Some(running) = self.cell.take() {
            self.connector.remove(running.node.incarnation);
            running.router.shutdown(LAST).await;
        }
    }

    /// Disconnects the clients and saves the state for the next start: sessions that can be
    /// resumed, and rooms. Other sessions are ended, and their unread messages stored.
    pub async fn drain(&self) {
        self.edge.drain().await;
        let Some(running) = self.cell.get() else {
            return;
        };
        for session in running.router.sessions().await {
            if session.state == "attached" {
                running.router.close_sessions(&session.jid).await;
            }
        }
        let settled = async {
            while running.router.counts().await.operations > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(SETTLE, settled).await.is_err() {
            tracing::warn!("some messages of the last moment may not have been written");
        }
        match replicas::save(&running.router, &*self.stores).await {
            Ok(0) => {}
            Ok(replicas) => tracing::info!(replicas, "saved sessions and rooms for the next start"),
            Err(error) => {
                tracing::error!(%error, "sessions and rooms could not be saved; they end here");
            }
        }
    }

    /// Ends edge, router and storage, in this order.
    pub async fn shutdown(self) {
        self.edge.shutdown().await;
        self.stop_router().await;
        self.storage.close().await;
    }
}

fn ready(storage: &Storage, cell: &RouterCell, edge: &Edge) -> Result<(), String> {
    storage.health()?;
    cell.ready()?;
    serve::edge::ready(edge)
}

async fn start_router(
    config: &Config,
    metrics: &Arc<Metrics>,
    pressure: &Arc<Pressure>,
    stores: &Arc<dyn Stores>,
    state_store: &Arc<MemoryStateStore>,
    connector: &DirectConnector,
) -> anyhow::Result<Running> {
    let node = compose::node(&config.node.name, proto::NodeRole::Router, "");
    // One authority stands for both: no other process could take over from this one.
    let leases: Arc<dyn LeaseAuthority> = Arc::new(AloneLeases::default());
    let metered = |authority| MeteredLeases::new(leases.clone(), authority, &node, metrics.clone());
    let state_store_leases = metered(Authority::Redis);
    let storage_leases = metered(Authority::Storage);
    let deps = RouterDeps {
        config: compose::router(config, true),
        node: node.clone(),
        stores: stores.clone(),
        state_store: state_store.clone(),
        state_store_leases: state_store_leases.clone(),
        storage_leases: storage_leases.clone(),
        peers: Arc::new(connector.clone()),
        terms: LeaseTerms::alone(),
        leases: Handle::current(),
        pressure: pressure.clone(),
        metrics: metrics.clone(),
    };
    let router = Arc::new(Router::start(deps).await?);
    connector.add(node.clone(), router.acceptor());
    Ok(Running {
        router,
        node,
        state_store_leases,
        storage_leases,
    })
}

/// Serves until the operator asks to end. `config_file` appears in the printed commands.
pub async fn run(mut process: Process, config_file: Option<PathBuf>) -> anyhow::Result<()> {
    let served = Box::pin(serve(&mut process, config_file)).await;
    process.end().await;
    served
}

async fn serve(process: &mut Process, config_file: Option<PathBuf>) -> anyhow::Result<()> {
    let config = process.config.clone();
    let (metrics, pressure) = (process.metrics.clone(), process.pressure.clone());
    let embedded = Embedded::start(config.clone(), metrics, pressure, false).await?;
    let served = Box::pin(work(process, &config, &embedded, config_file)).await;
    embedded.shutdown().await;
    served
}

async fn work(
    process: &mut Process,
    config: &Config,
    embedded: &Embedded,
    config_file: Option<PathBuf>,
) -> anyhow::Result<()> {
    process.reload_on_hangup(Some(embedded.certs.clone()), None);
    let (cell, edge) = (embedded.cell.clone(), embedded.edge.clone());
    let storage = embedded.storage.clone();
    process
        .announce(Arc::new(move || ready(&storage, &cell, &edge)))
        .await?;
    let admin = RouterAdmin::new(
        config,
        embedded.cell.clone(),
        embedded.stores.clone(),
        None,
        Some(Alone {
            edge: embedded.edge.clone(),
            storage: embedded.storage.clone(),
        }),
        process.metrics.clone(),
    );
    // While the server drains, the loss of redundancy is no reason to warn.
    let drain = process.shutdown.drain.clone();
    let watch = admin.clone().watch_redundant(process.tasks.token());
    process.tasks.spawn("redundant", async move {
        drain.run_until_cancelled(watch).await;
    });
    let socket = process.admin_socket(admin).await?;
    let began = tokio::select! {
        () = embedded.serving() => true,
        () = process.shutdown.drain.cancelled() => false,
    };
    if began {
        let own = &config.edge.tls.certificate;
        let made = config.node.data_dir.join("tls").join("self-signed.crt");
        let made = (own.is_none() && config.host.iter().all(|h| h.certificate.is_none()))
            .then_some(made.as_path());
        let command = welcome::command(config_file.as_deref());
        crate::cli::print(&welcome::lines(
            config,
            &command,
            embedded.edge.addresses(),
            made,
        ));
        process.shutdown.drain.cancelled().await;
    }
    process.begin_draining();
    process.unless_now(embedded.drain()).await;
    socket.shutdown(LAST).await;
    Ok(())
}
