//! What all parts of one edge share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use sestina_api::identity::{Holder, Secret};
use sestina_api::link::RouterConnector;
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;
use sestina_runtime::CancellationToken;
use sestina_runtime::spawn::Tasks;
use tokio::sync::{Notify, Semaphore};

use crate::attachment::Attachments;
use crate::attachment::hands::Limits;
use crate::config::{EdgeConfig, HostConfig};
use crate::metrics::EdgeMetrics;
use crate::routing::directory::Directory;
use crate::routing::standing::Lease;
use crate::stream::failed_logins::FailedLogins;
use crate::tls::TicketKeys;
use crate::transport::WireWriter;

/// Bytes of one part of an answer about members of rooms.
const MEMBERS_PART: usize = 256 << 10;
/// Bytes of one part of a report to a new owner.
const REPORT_PART: usize = 256 << 10;

fn new_incarnation() -> (u64, Secret) {
    // 0 stands for no process.
    (rand::random::<u64>().max(1), Secret::random())
}

/// The state of an edge.
pub(crate) struct Shared {
    /// For tasks that it starts.
    pub(crate) me: Weak<Shared>,
    pub(crate) config: EdgeConfig,
    pub(crate) hosts: HashMap<String, Arc<HostConfig>>,
    pub(crate) connector: Arc<dyn RouterConnector>,
    pub(crate) metrics: Arc<dyn EdgeMetrics>,
    pub(crate) tasks: Tasks,
    /// The task that renews the lease, on a runtime that the others do not delay.
    pub(crate) renewals: Tasks,
    pub(crate) stop: CancellationToken,
    pub(crate) directory: Directory,
    pub(crate) lease: Lease,
    /// Lanes were opened or lost: the next renewal of the lease says which routers are reached.
    pub(crate) reach_changed: Notify,
    /// A lane has room again for what goes in bulk.
    pub(crate) lane_room: Notify,
    /// Sessions may hold more again.
    pub(crate) held_room: Notify,
    pub(crate) attachments: Attachments<Shared>,
    pub(crate) limits: Limits,
    /// Sockets that are not bound.
    pub(crate) logins: Mutex<HashMap<u64, Arc<WireWriter>>>,
    pub(crate) password_threads: Arc<Semaphore>,
    pub(crate) pending_turns: Semaphore,
    /// The log of failed logins.
    pub(crate) failed_logins: FailedLogins,
    /// The keys of TLS tickets, from the routers.
    pub(crate) tickets: Arc<TicketKeys>,
    /// The key of XEP-0198 ids, from the routers.
    pub(crate) sm_key: ArcSwapOption<Vec<u8>>,
    /// The version of the protocol between tiers that the cluster speaks; 0: not known.
    pub(crate) speaks: AtomicU32,
    incarnation: Mutex<(u64, Secret)>,
    handles: AtomicU64,
    draining: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        config: EdgeConfig,
        connector: Arc<dyn RouterConnector>,
        metrics: Arc<dyn EdgeMetrics>,
        tickets: Arc<TicketKeys>,
    ) -> Arc<Shared> {
        let tasks = Tasks::new("edge");
        let renewals = match &config.around.leases {
            Some(runtime) => Tasks::on("edge-lease", runtime.clone()),
            None => Tasks::with_token("edge-lease", tasks.token()),
        };
        let hosts = config
            .hosts
            .iter()
            .map(|host| (host.domain.clone(), Arc::new(host.clone())))
            .collect();
        let limits = limits(&config);
        let attachments = Attachments::new(SLOTS, &limits);
        attachments.bound(config.held_bytes);
        let timed = Arc::clone(&metrics);
        let lease = Lease::new(&config, move |what, took| timed.timing(what, took));
        Arc::new_cyclic(|me| Shared {
            me: me.clone(),
            hosts,
            connector,
            metrics,
            stop: tasks.token(),
            tasks,
            renewals,
            directory: Directory::default(),
            lease,
            reach_changed: Notify::new(),
            lane_room: Notify::new(),
            held_room: Notify::new(),
            attachments,
            limits,
            logins: Mutex::default(),
            password_threads: Arc::new(Semaphore::new(config.login.password_threads.max(1))),
            pending_turns: Semaphore::new(config.login.pending_binds.max(1)),
            failed_logins: FailedLogins::default(),
            tickets,
            sm_key: ArcSwapOption::empty(),
            speaks: AtomicU32::new(0),
            incarnation: Mutex::new(new_incarnation()),
            handles: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            config,
        })
    }

    /// This process, as the others know it.
    pub(crate) fn node(&self) -> proto::Node {
        proto::Node {
            name: self.config.node.clone(),
            incarnation: self.incarnation.lock().0,
            role: proto::NodeRole::Edge.into(),
            address: self.config.address.clone(),
            draining: self.is_draining(),
            ..proto::Node::default()
        }
        .speaking(env!("CARGO_PKG_VERSION"))
    }

    /// The same, with what proves it.
    pub(crate) fn holder(&self) -> Holder {
        let (incarnation, secret) = self.incarnation.lock().clone();
        Holder {
            node: proto::Node {
                incarnation,
                ..self.node()
            },
            secret,
        }
    }

    /// The lease was lost: from now on this edge is another incarnation.
    pub(crate) fn renew_incarnation(&self) {
        *self.incarnation.lock() = new_incarnation();
    }

    /// A number that this process has not used.
    pub(crate) fn next_number(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed)
    }

    /// A handle for a session of that slot. The slot is part of it: a delivery names only handles.
    pub(crate) fn next_handle(&self, slot: u16) -> u64 {
        self.next_number() * SLOTS as u64 + u64::from(slot)
    }

    /// The host named where the client's is not known.
    pub(crate) fn default_host(&self) -> &str {
        self.config
            .hosts
            .first()
            .map_or("", |host| host.domain.as_str())
    }

    /// What a router says in its Welcome.
    pub(crate) fn welcome(&self, welcome: &proto::Welcome) {
        let known = self.sm_key.load();
        if known
            .as_ref()
            .is_none_or(|known| **known != welcome.sm_key[..])
        {
            self.sm_key.store(Some(Arc::new(welcome.sm_key.to_vec())));
        }
    }

    /// What a router says of the keys of TLS tickets.
    pub(crate) fn take_ticket_keys(&self, told: &proto::TicketKeys) {
        let period = Duration::from_secs(told.period_s.into());
        let keys = told.keys.iter().map(|key| (key.number, &key.key[..]));
        if let Err(error) = self.tickets.install(keys, period) {
            tracing::error!(%error, "keys for TLS tickets cannot be used");
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// True the first time.
    pub(crate) fn begin_draining(&self) -> bool {
        !self.draining.swap(true, Ordering::AcqRel)
    }
}

fn limits(config: &EdgeConfig) -> Limits {
    Limits {
        unsettled_bytes: config.unsettled_bytes,
        session_credit: config.session_credit,
        ask_stanzas: config.ask_stanzas,
        ask_after: config.ask_after,
        keepalive_after: config.keepalive_after,
        keepalive_answer: config.keepalive_answer,
        owner_deadline: config.owner_deadline,
        members_part: MEMBERS_PART,
        report_part: REPORT_PART,
    }
}
