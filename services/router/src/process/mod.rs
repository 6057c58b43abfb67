//! A router process around its workers: lanes, jobs, leases, the slot table.
//!
//! - [`worker_task`]: runs a worker; [`jobs`]: does what workers ask for; [`questions`]: what storage is asked once;
//!   [`releases`]: slots given away together
//! - [`mailboxes`]: what waits for the workers
//! - [`lanes`]: lanes that edges and routers open here; [`peers`]: lanes that this router opens
//! - [`membership`]: who is alive; [`reach`]: which process reaches which; [`table`]: which slots come and go, and the planner;
//!   [`timeline`]: what is held is asserted after the database has lost commits
//! - [`versions`]: which versions of the protocol between tiers they speak
//! - [`admission`]: whether a process is the incarnation that it says it is
//! - [`accounts`]: credentials for edges; [`tickets`]: their keys of TLS tickets
//! - [`control`]: what administrators ask

mod accounts;
mod admission;
mod control;
mod jobs;
mod lanes;
mod mailboxes;
mod membership;
mod peers;
mod questions;
mod reach;
mod releases;
mod table;
mod tickets;
mod timeline;
mod versions;
mod worker_task;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::identity::Holder;
use sestina_api::lease::LeaseAuthority;
use sestina_api::peer::PeerConnector;
use sestina_api::state_store::StateStore;
use sestina_api::store::Stores;
use sestina_cluster::claim::{ClaimPorts, PlannerSettings};
use sestina_cluster::lease::{LeaseKeeper, LeaseTerms};
use sestina_cluster::lease_health::LeaseHealth;
use sestina_cluster::slot_map::{SharedSlotTable, SlotTable};
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;
use sestina_runtime::clock::BootClock;
use sestina_runtime::mailbox::{self, Limits};
use sestina_runtime::pressure::Pressure;
use sestina_runtime::spawn::Tasks;
use tokio::runtime::Handle;

use crate::config::RouterConfig;
use crate::hooks::Pipelines;
use crate::metrics::Metrics;
use crate::worker::core::{Core, LaneRef};
use crate::worker::turn::Worker;
use crate::worker::unconfirmed_releases::UnconfirmedReleases;

/// How long a router that has given away all slots waits to hear of their new owners.
const INSTALLED: Duration = Duration::from_secs(1);

/// How long a router that leaves waits for another one that could take its slots: longer than it
/// takes until the lease of a router that has just started is seen.
const ALONE: Duration = Duration::from_secs(2);

/// Everything a router talks to.
pub struct RouterDeps {
    /// Its settings; `sm_key` and `secret` are filled from the cluster's secret at the start.
    pub config: RouterConfig,
    /// This process: name, random incarnation, role router, address.
    pub node: proto::Node,
    /// Storage.
    pub stores: Arc<dyn Stores>,
    /// The state store.
    pub state_store: Arc<dyn StateStore>,
    /// The state store as a lease authority.
    pub state_store_leases: Arc<dyn LeaseAuthority>,
    /// Storage as a lease authority.
    pub storage_leases: Arc<dyn LeaseAuthority>,
    /// How to reach other routers.
    pub peers: Arc<dyn PeerConnector>,
    /// Terms of leases.
    pub terms: LeaseTerms,
    /// The runtime on which the lease is renewed, which the router's work should not delay.
    pub leases: Handle,
    /// Whether the process has more to do than it can.
    pub pressure: Arc<Pressure>,
    /// Metrics of this process.
    pub metrics: Arc<sestina_telemetry::Metrics>,
}

/// Why a router did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Storage did not answer in time; nothing works without it at the start.
    #[error("cannot read the cluster's secret from storage: {0}")]
    Storage(sestina_api::store::StoreError),
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
}

/// How a router ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouterEnd {
    /// Its lease was lost: other processes own its slots; start anew as another incarnation.
    LeaseLost(String),
    /// It was asked to stop.
    Stopped,
}

/// A running router.
pub struct Router {
    pub(crate) shared: Arc<Shared>,
}

/// The state that the tasks of a router share.
pub(crate) struct Shared {
    pub(crate) node: proto::Node,
    pub(crate) config: Arc<RouterConfig>,
    mailboxes: mailboxes::Mailboxes,
    pub(crate) epochs: Arc<[AtomicU64]>,
    /// Slots that were given away and whose new owners have not answered yet.
    pub(crate) unconfirmed_releases: Arc<UnconfirmedReleases>,
    pub(crate) ports: ClaimPorts,
    pub(crate) peers: Arc<dyn PeerConnector>,
    pub(crate) lease: LeaseKeeper,
    pub(crate) metrics: Arc<sestina_telemetry::Metrics>,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) tasks: Tasks,
    /// Lanes of edges, to push new tables.
    edge_lanes: Mutex<HashMap<(LaneRef, u64), Arc<dyn sestina_api::link::EdgeLane>>>,
    /// Lanes of routers, to push new tables and orders.
    pub(crate) peer_lanes: Mutex<HashMap<u64, Arc<dyn sestina_api::peer::PeerSink>>>,
    /// The newest table that another router sent.
    told: Mutex<proto::Position>,
    /// This router plans.
    plans: AtomicBool,
    /// Slots that the planner is having moved, where this process is the planner.
    moving: AtomicUsize,
    live: membership::Live,
    proved: admission::Proven,
    credentials: accounts::Cache,
    /// Keys of TLS tickets, for the edges.
    ticket_keys: tickets::Keys,
    releases: releases::Releases,
    pub(crate) instances: AtomicU64,
    /// Processes with other hosts, services or modules than this one, by incarnation.
    mismatches: Mutex<HashSet<u64>>,
    versions: versions::Versions,
}

/// Starts the tasks around the workers.
fn start_tasks(shared: &Arc<Shared>, terms: LeaseTerms) {
    shared
        .tasks
        .spawn("membership", membership::run(shared.clone()));
    shared.tasks.spawn("table", table::watch(shared.clone()));
    shared
        .tasks
        .spawn("announce", table::announce(shared.clone()));
    shared
        .tasks
        .spawn("reach", reach::watch(shared.clone(), terms.ttl * 2));
    shared.tasks.spawn(
        "planner",
        table::plan(shared.clone(), PlannerSettings::default()),
    );
    shared.tasks.spawn("peers", peers::run(shared.clone()));
    shared.tasks.spawn("gauges", shared.clone().measure());
    shared
        .tasks
        .spawn("maintenance", jobs::maintain(shared.clone()));
    shared
        .tasks
        .spawn("ticket-keys", tickets::renew(shared.clone()));
}

impl Router {
    /// Starts a router. It serves slots as the table gives them to it.
    pub async fn start(deps: RouterDeps) -> Result<Router, StartError> {
        let RouterDeps {
            mut config,
            node,
            stores,
            state_store,
            state_store_leases,
            storage_leases,
            peers,
            terms,
            leases,
            pressure,
            metrics,
        } = deps;
        config.workers = config.workers.max(1);
        let secret = cluster_secret(&*stores).await?;
        config.sm_key = derive(&secret, b"xep-0198 ids");
        config.secret = derive(&secret, b"unknown users");
        let config = Arc::new(config);
        let pipelines = Arc::new(Pipelines::new(crate::modules::MODULES, &config.modules));
        let tasks = Tasks::new("router");
        let lease_tasks = Tasks::on("router-lease", leases);
        let health = lease_health(terms, pressure.clone(), metrics.clone());
        let me = Holder::new(node.clone());
        let lease = LeaseKeeper::start(
            me.clone(),
            state_store_leases.clone(),
            storage_leases.clone(),
            terms,
            Arc::new(BootClock),
            Arc::new(health),
            &lease_tasks,
        );
        let table = SharedSlotTable::new(SlotTable::empty());
        let epochs: Arc<[AtomicU64]> = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        let limits = Limits {
            count: 1 << 20,
            bytes: config.limits.worker_queue_bytes,
        };
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..config.workers)
            .map(|_| mailbox::mailbox(limits))
            .unzip();
        let ports = ClaimPorts {
            me,
            stores,
            storage_leases,
            state_store_leases,
            state_store,
            table,
        };
        let shared = Arc::new(Shared {
            node: node.clone(),
            config: config.clone(),
            mailboxes: mailboxes::Mailboxes::new(senders, metrics.clone()),
            epochs: epochs.clone(),
            unconfirmed_releases: Arc::default(),
            ports,
            peers,
            lease,
            metrics: metrics.clone(),
            pressure,
            tasks,
            edge_lanes: Mutex::default(),
            peer_lanes: Mutex::default(),
            told: Mutex::default(),
            plans: AtomicBool::new(false),
            moving: AtomicUsize::new(0),
            live: membership::Live::default(),
            proved: admission::Proven::default(),
            credentials: accounts::Cache::default(),
            ticket_keys: tickets::Keys::default(),
            releases: releases::Releases::default(),
            instances: AtomicU64::new(1),
            mismatches: Mutex::default(),
            versions: versions::Versions::default(),
        });
        let router_metrics = Arc::new(Metrics::new(metrics));
        for (index, receiver) in receivers.into_iter().enumerate() {
            let core = Core::new(
                u32::try_from(index).unwrap_or(0),
                u32::from(config.workers),
                node.clone(),
                config.clone(),
                pipelines.clone(),
                router_metrics.clone(),
                epochs.clone(),
            );
            let task = worker_task::run(shared.clone(), Worker::new(core), receiver);
            shared.tasks.spawn(format!("worker-{index}"), task);
        }
        start_tasks(&shared, terms);
        Ok(Router { shared })
    }

    /// The end to which the gRPC server (or the direct call) hands lanes and questions.
    pub fn acceptor(&self) -> Arc<dyn sestina_api::link::RouterAcceptor> {
        Arc::new(lanes::Acceptor {
            shared: self.shared.clone(),
        })
    }

    /// Resolves when the lease is lost for good.
    pub async fn lost(&self) -> RouterEnd {
        RouterEnd::LeaseLost(self.shared.lease.lost().await.0)
    }

    /// Whether it holds its lease (and so may own slots).
    pub fn is_ready(&self) -> bool {
        self.shared.lease.serving()
    }

    /// The version of the protocol between tiers that the cluster speaks, as this process knows it.
    pub fn speaks(&self) -> u32 {
        self.shared.speaks()
    }

    /// The slot table as this process knows it.
    pub fn table(&self) -> Arc<SlotTable> {
        self.shared.ports.table.load()
    }

    /// Hands all slots over to other routers, as far as there are any; returns when this process
    /// owns none, when there is no router that could take them, or after `limit`. False if some are
    /// left.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.shared.lease.update_node(|n| n.draining = true);
        let me = self.shared.node.clone();
        let mut versions = self.shared.ports.table.subscribe();
        let drained = async {
            while self
                .shared
                .ports
                .table
                .load()
                .slots_of(&me)
                .next()
                .is_some()
            {
                if versions.changed().await.is_err() {
                    return;
                }
            }
            // A router that takes a slot needs an answer of this process, or the end of its lease.
            let all = self.shared.unconfirmed_releases.all_installed();
            if tokio::time::timeout(INSTALLED, all).await.is_err() {
                tracing::info!("not all new owners of slots have answered; leaving anyway");
            }
        };
        tokio::select! {
            drained = tokio::time::timeout(limit, drained) => drained.is_ok(),
            () = self.shared.alone() => {
                tracing::info!("no other router is there to take slots; leaving with them");
                false
            }
        }
    }

    /// Ends all tasks and gives the lease back.
    pub async fn shutdown(&self, limit: Duration) {
        self.shared.tasks.shutdown();
        if let Err(error) = self.shared.tasks.join(limit).await {
            tracing::warn!(%error, "router tasks did not end in time");
        }
        self.shared.close_edge_lanes();
        self.shared.lease.release().await;
    }

    /// Stops at once, as a process that died would, but for the process: nothing is settled,
    /// handed over or given back. For tests of what survives that.
    pub fn abort(&self) {
        self.shared.tasks.shutdown();
    }
}

async fn cluster_secret(stores: &dyn Stores) -> Result<Vec<u8>, StartError> {
    let mut backoff =
        sestina_runtime::backoff::Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match stores.cluster_secret(proto::Empty {}).await {
            Ok(reply) => return Ok(reply.secret.to_vec()),
            Err(error @ sestina_api::store::StoreError::Unavailable(_)) => {
                tracing::info!(%error, "waiting for storage");
                backoff.wait().await;
            }
            Err(error) => return Err(StartError::Storage(error)),
        }
    }
}

/// What renewals tell of how safely the lease is held.
fn lease_health(
    terms: LeaseTerms,
    pressure: Arc<Pressure>,
    metrics: Arc<sestina_telemetry::Metrics>,
) -> LeaseHealth {
    let serves = terms.ttl.saturating_sub(terms.margin);
    LeaseHealth::new(serves, pressure, move |sample| {
        metrics.lease_late_seconds.observe(sample.late);
        metrics.lease_renew_seconds.observe(sample.took);
        if let Some(left) = sample.left {
            metrics.lease_left_seconds.observe(left);
        }
    })
}

fn derive(secret: &[u8], purpose: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(b"sestina\0");
    hash.update(secret);
    hash.update(purpose);
    hash.finalize().to_vec()
}
