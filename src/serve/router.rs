//! The router tier as a process.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sestina_api::lease::LeaseAuthority;
use sestina_api::state_store::StateStore;
use sestina_api::store::{StoreError, Stores};
use sestina_certs::Role as CertRole;
use sestina_cluster::lease_storage::StorageLeases;
use sestina_config::Config;
use sestina_proto as proto;
use sestina_proto::versions;
use sestina_router::{Router, RouterDeps, RouterEnd};
use sestina_rpc::{
    Cluster, Dialer, GrpcPeerConnector, GrpcStores, RpcServer, RunningServer, Security,
};
use sestina_runtime::backoff::Backoff;
use sestina_state::{RedisConfig, RedisLeases, RedisStateStore};
use sestina_telemetry::Authority;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::cell::{RouterCell, Running};
use super::process::{LAST, Process};
use crate::admin::RouterAdmin;
use crate::compose;
use crate::metrics::{MeteredLeases, metered_stores};

/// How often to retry a port that the last server of this process still holds.
const LISTEN_TRIES: u32 = 10;

/// How long one authority may take to list the live processes, and how often a router that waits
/// asks both.
const AUTHORITY: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(1);

/// The parts that outlive a router that lost its lease.
struct Around {
    security: Security,
    cluster: Cluster,
    dialer: Arc<Dialer>,
    stores: Arc<dyn Stores>,
    state_store: Arc<dyn StateStore>,
    state_store_leases: Arc<dyn LeaseAuthority>,
    ready: watch::Receiver<bool>,
    admin: Arc<RouterAdmin>,
    cell: RouterCell,
}

/// Serves until the operator asks to end.
pub async fn run(mut process: Process) -> anyhow::Result<()> {
    let served = Box::pin(serve(&mut process)).await;
    process.end().await;
    served
}

async fn serve(process: &mut Process) -> anyhow::Result<()> {
    let config = process.config.clone();
    let security = compose::security(&config)?;
    compose::check_own_certificate(&security, CertRole::Router);
    process.reload_on_hangup(None, Some(security.clone()));
    let cluster = compose::cluster(&config);
    let dialer = Dialer::with_leases_on(security.clone(), cluster.clone(), process.leases());
    let storages = compose::targets("cluster.storages", &config.cluster.storages)?;
    let stores: Arc<dyn Stores> = Arc::new(GrpcStores::new(dialer.clone(), storages));
    let stores = metered_stores(stores, process.metrics.clone());
    // Checked now, so that errors show at once, and used when the cluster's id is known.
    live_state_config(&config)?;
    let cell = RouterCell::new();
    let admin = RouterAdmin::new(
        &config,
        cell.clone(),
        stores.clone(),
        Some(dialer.clone()),
        None,
        process.metrics.clone(),
    );
    let readiness = cell.clone();
    let ready = process
        .announce(Arc::new(move || readiness.ready()))
        .await?;
    process.tasks.spawn(
        "redundant",
        admin.clone().watch_redundant(process.tasks.token()),
    );
    let socket = process.admin_socket(admin.clone()).await?;
    let joined = tokio::select! {
        joined = join(&stores, &cluster, &cell) => joined.map(Some),
        () = process.shutdown.drain.cancelled() => Ok(None),
    };
    let served = match joined {
        Ok(Some(id)) => {
            let (state_store, state_store_leases) = live_state(&config, &id, &process.leases())?;
            let around = Around {
                security,
                cluster,
                dialer: dialer.clone(),
                stores,
                state_store,
                state_store_leases,
                ready,
                admin,
                cell,
            };
            Box::pin(until_asked(process, &config, &around)).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    socket.shutdown(LAST).await;
    dialer.shutdown().await;
    served
}

/// Waits for storage, and gets the cluster's id from it.
async fn join(
    stores: &Arc<dyn Stores>,
    cluster: &Cluster,
    cell: &RouterCell,
) -> anyhow::Result<String> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match stores.cluster_secret(proto::Empty {}).await {
            Ok(_) => {
                let id = cluster
                    .id()
                    .context("storage does not say its cluster's id")?;
                return Ok(id.to_owned());
            }
            Err(error @ StoreError::Unavailable(_)) => {
                if cell.waits(format!("waiting for storage: {error}")) {
                    tracing::info!(%error, "waiting for storage");
                }
                backoff.wait().await;
            }
            Err(error) => return Err(error).context("cannot join the cluster"),
        }
    }
}

fn live_state_config(config: &Config) -> anyhow::Result<RedisConfig> {
    compose::redis(config)?
        .context("`redis.mode`: routers share their live state in Redis; set mode and urls")
}

/// Redis, as a store and as a lease authority. Several clusters may share one Redis.
fn live_state(
    config: &Config,
    id: &str,
    leases: &Handle,
) -> anyhow::Result<(Arc<dyn StateStore>, Arc<dyn LeaseAuthority>)> {
    let mut redis = live_state_config(config)?;
    redis.prefix = format!("{id}:");
    let state_store = Arc::new(RedisStateStore::connect(&redis)?);
    // A connection is driven by the runtime on which it is made.
    let _on = leases.enter();
    Ok((state_store, Arc::new(RedisLeases::connect(&redis)?)))
}

/// Runs one router after the other: a router that lost its lease is replaced by a new incarnation.
async fn until_asked(process: &Process, config: &Config, around: &Around) -> anyhow::Result<()> {
    loop {
        let started = tokio::select! {
            started = start(process, config, around) => started?,
            () = process.shutdown.drain.cancelled() => return Ok(()),
        };
        let (router, server) = started;
        let lost = tokio::select! {
            end = router.lost() => Some(end),
            () = process.shutdown.drain.cancelled() => None,
        };
        if lost.is_none() {
            process.begin_draining();
            process
                .unless_now(async {
                    if !router.drain(*config.node.drain_timeout).await {
                        tracing::warn!("slots are left; they wait for another router");
                    }
                })
                .await;
        }
        around.cell.take();
        // The lanes end first, so that further frames go to the new owners of the slots.
        server.shutdown(Duration::from_secs(1)).await;
        router.shutdown(LAST).await;
        match lost {
            None => return Ok(()),
            Some(RouterEnd::Stopped) => anyhow::bail!("the router stopped by itself; see the log"),
            Some(RouterEnd::LeaseLost(why)) => {
                tracing::error!(
                    why,
                    "the lease is lost, starting anew with another incarnation"
                );
            }
        }
    }
}

/// Waits until this router can work with every live process: each shares a version of the protocol
/// between tiers with it. If neither authority answers, the lease request decides.
async fn admitted(around: &Around, node: &proto::Node) {
    let storage = StorageLeases::new(around.stores.clone());
    loop {
        let fresh = async |leases: &dyn LeaseAuthority| {
            let asked = tokio::time::timeout(AUTHORITY, leases.fresh()).await;
            asked.ok().and_then(Result::ok).unwrap_or_default()
        };
        let (redis, storage) = tokio::join!(fresh(&*around.state_store_leases), fresh(&storage));
        let live = redis.iter().chain(&storage).map(|(node, _)| node);
        let Err(error) = versions::admits(node, live) else {
            return;
        };
        if around.cell.waits(error.to_string()) {
            tracing::error!(%error, "the cluster refuses this router, which waits");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn start(
    process: &Process,
    config: &Config,
    around: &Around,
) -> anyhow::Result<(Arc<Router>, RunningServer)> {
    let node = compose::node(
        &config.node.name,
        proto::NodeRole::Router,
        &compose::address(config),
    );
    admitted(around, &node).await;
    let state_store_leases = MeteredLeases::new(
        around.state_store_leases.clone(),
        Authority::Redis,
        &node,
        process.metrics.clone(),
    );
    let storage_leases = MeteredLeases::new(
        Arc::new(StorageLeases::new(around.stores.clone())),
        Authority::Storage,
        &node,
        process.metrics.clone(),
    );
    let router = Router::start(RouterDeps {
        config: compose::router(config, false),
        node: node.clone(),
        stores: around.stores.clone(),
        state_store: around.state_store.clone(),
        state_store_leases: state_store_leases.clone(),
        storage_leases: storage_leases.clone(),
        peers: Arc::new(GrpcPeerConnector::new(around.dialer.clone())),
        terms: compose::lease_terms(config),
        leases: process.leases(),
        pressure: process.pressure.clone(),
        metrics: process.metrics.clone(),
    })
    .await?;
    let router = Arc::new(router);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    for tries in 1.. {
        let server = RpcServer::new(around.security.clone())
            .leases_on(process.leases())
            .cluster(around.cluster.clone())
            .router(router.acceptor())
            .admin_among_routers(around.admin.clone(), crate::admin::router::AMONG_ROUTERS)
            .health(around.ready.clone());
        match server.listen(config.cluster.listen).await {
            Ok(server) => {
                around.cell.set(Running {
                    router: router.clone(),
                    node,
                    state_store_leases,
                    storage_leases,
                });
                return Ok((router, server));
            }
            Err(error) if tries >= LISTEN_TRIES => {
                router.shutdown(LAST).await;
                return Err(error).context("change cluster.listen");
            }
            Err(error) => {
                tracing::warn!(%error, "trying again");
                backoff.wait().await;
            }
        }
    }
    anyhow::bail!("the router could not listen")
}
