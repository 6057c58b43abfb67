//! The settings of an edge, as plain values; the configuration is mapped onto them.

use std::time::Duration;

use sestina_cluster::slots::SlotHasher;
use sestina_xmpp::sasl::Mechanism;
use sestina_xmpp::xml::Limits;

use crate::around::Around;
use crate::listen::ListenConfig;

/// A host that clients log in to.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Its name, normalised.
    pub domain: String,
    /// ANONYMOUS is offered.
    pub anonymous: bool,
    /// Other mechanisms that may be offered; each only where the connection allows it.
    pub mechanisms: Vec<Mechanism>,
    /// Domains of its rooms. Anonymous users are named in the slot of their room in the first.
    pub muc_domains: Vec<String>,
}

impl HostConfig {
    /// A host with accounts: all mechanisms except ANONYMOUS.
    pub fn new(domain: &str) -> HostConfig {
        HostConfig {
            domain: domain.to_owned(),
            anonymous: false,
            mechanisms: Mechanism::ALL
                .into_iter()
                .filter(|m| *m != Mechanism::Anonymous)
                .collect(),
            muc_domains: Vec::new(),
        }
    }

    /// A host for everyone: ANONYMOUS alone.
    pub fn anonymous(domain: &str, muc_domain: &str) -> HostConfig {
        HostConfig {
            domain: domain.to_owned(),
            anonymous: true,
            mechanisms: Vec::new(),
            muc_domains: vec![muc_domain.to_owned()],
        }
    }
}

/// What one client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bounds on one element.
    pub xml: Limits,
    /// Bytes a second, on average; 0: no limit. Beyond it the socket is not read.
    pub bytes_per_second: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u64,
}

/// The login of a client.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// Bytes that may wait for a socket before it is bound.
    pub queue_bytes: usize,
    /// Time from the first byte to bind.
    pub time: Duration,
    /// Failed attempts on one stream.
    pub tries: u32,
    /// Wait before an attempt is answered as failed; multiplied by their number.
    pub delay: Duration,
    /// How long to look for an owner that knows the user's keys.
    pub credentials_deadline: Duration,
    /// Threads that check passwords of PLAIN.
    pub password_threads: usize,
    /// How long a bind or a resumption waits for its owner.
    pub bind_deadline: Duration,
    /// How many may wait.
    pub pending_binds: usize,
}

/// The lease of the edge.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// Term of this edge's lease.
    pub ttl: Duration,
    /// How often it is renewed.
    pub every: Duration,
    /// How long before its end serving stops.
    pub margin: Duration,
}

/// The end of the edge.
#[derive(Clone, Debug)]
pub struct DrainConfig {
    /// Draining: the time over which sockets are ended.
    pub over: Duration,
    /// Draining: how long to wait then for owners to take over what is held.
    pub wait: Duration,
}

/// All settings of an edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Name of this process, unique in the cluster.
    pub node: String,
    /// Address under which others reach this process; empty if they do not.
    pub address: String,
    /// Hash of hosts, services of rooms and modules, compared by the routers.
    pub config_hash: u64,
    /// Hosts; the first is named in errors on streams to unknown ones.
    pub hosts: Vec<HostConfig>,
    /// Which slot an address belongs to; the same as in the routers.
    pub slots: SlotHasher,
    /// Ports, and what they share.
    pub listen: ListenConfig,
    /// Names of listeners on which logins without TLS are allowed. Never PLAIN.
    pub plaintext_listeners: Vec<String>,

    /// Limits before the client has authenticated.
    pub before_login: StreamLimits,
    /// Limits from then on.
    pub after_login: StreamLimits,
    /// The login of a client.
    pub login: LoginConfig,

    /// Bytes of a session that may be unsettled; beyond it its socket is not read.
    pub unsettled_bytes: usize,
    /// Bytes that all sessions may hold together.
    pub held_bytes: usize,
    /// Bytes that routers have on their way to one session, as configured for them.
    pub session_credit: usize,
    /// Deliveries after which the client is asked to acknowledge.
    pub ask_stanzas: u64,
    /// How long a delivery goes without being asked for.
    pub ask_after: Duration,
    /// A client that says nothing for this long is asked whether it is there.
    pub keepalive_after: Duration,
    /// How long it has to answer before its socket counts as lost.
    pub keepalive_answer: Duration,
    /// How long stanzas wait for an owner that takes them before the session is closed.
    pub owner_deadline: Duration,

    /// Lanes to each router.
    pub lanes: u32,
    /// The lease of the edge.
    pub lease: LeaseConfig,
    /// The end of the edge.
    pub drain: DrainConfig,
    /// What the process gives it.
    pub around: Around,
}

impl EdgeConfig {
    /// What the process gives it.
    pub fn around_is(&mut self, around: Around) {
        self.listen.pressure = around.pressure.clone();
        self.around = around;
    }

    /// The defaults for a process of that name serving these hosts; no ports yet.
    pub fn new(node: &str, hosts: Vec<HostConfig>) -> EdgeConfig {
        EdgeConfig {
            node: node.to_owned(),
            address: String::new(),
            config_hash: 0,
            hosts,
            slots: SlotHasher::default(),
            listen: ListenConfig::default(),
            plaintext_listeners: Vec::new(),
            before_login: StreamLimits {
                xml: Limits::unauthenticated(),
                bytes_per_second: 16 << 10,
                burst_bytes: 64 << 10,
            },
            after_login: StreamLimits {
                xml: Limits::default(),
                bytes_per_second: 512 << 10,
                burst_bytes: 2 << 20,
            },
            login: LoginConfig {
                queue_bytes: 64 << 10,
                time: Duration::from_secs(30),
                tries: 3,
                delay: Duration::from_secs(1),
                credentials_deadline: Duration::from_secs(8),
                password_threads: 2,
                bind_deadline: Duration::from_secs(15),
                pending_binds: 4096,
            },
            unsettled_bytes: 1 << 20,
            held_bytes: 2 << 30,
            session_credit: 512 << 10,
            ask_stanzas: 25,
            ask_after: Duration::from_millis(500),
            keepalive_after: Duration::from_secs(300),
            keepalive_answer: Duration::from_secs(30),
            owner_deadline: Duration::from_secs(60),
            lanes: 4,
            lease: LeaseConfig {
                ttl: Duration::from_secs(4),
                every: Duration::from_secs(1),
                margin: Duration::from_secs(1),
            },
            drain: DrainConfig {
                over: Duration::from_secs(10),
                wait: Duration::from_secs(5),
            },
            around: Around::default(),
        }
    }
}
