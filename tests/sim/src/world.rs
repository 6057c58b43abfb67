//! The simulated cluster: everything that exists in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cards::Card;
use super::check::{GivenUp, Misjudged};
use super::client::{Client, Socks, What};
use super::edge::Edge;
use super::host::Host;
use super::jobs::Asker;
use super::lease::Leases;
use super::net::SharedNet;
use super::partition::Cut;
use super::rng::Rng;
use super::state_store::StateStore;
use super::stores::Storage;
use sestina_router::config::RouterConfig;
use sestina_router::simulation::{Job, Worker};

/// How long a lease lasts without a renewal, in simulated milliseconds.
pub(super) const LEASE: u64 = 500;
/// How long a session can be resumed, in simulated milliseconds.
pub(super) const RESUMABLE: u64 = 4000;
/// The key of XEP-0198 ids.
pub(super) const SM_KEY: &[u8] = &[7; 32];
/// How often a router asks whether the state store has all objects of a slot, in simulated milliseconds.
/// Between the questions for two of the five slots there is time for the cluster to be seen at rest.
pub(super) const STATE_STORE_CHECK: u64 = 5000;
/// The domain of all users.
pub(super) const DOMAIN: &str = "h.example";
/// The domain of all rooms.
pub(super) const MUC: &str = "c.example";

/// A numbered message that a client has sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// The index of its sender.
    pub(super) from: usize,
    /// The sender's session, counted from its first.
    pub(super) session: u32,
    pub(super) what: What,
    /// Full or bare JID.
    pub(super) to: String,
    /// Sessions (client, login) that must receive it, if they still exist.
    pub(super) cover: Vec<(usize, u32)>,
    /// Sessions that must receive a carbon of it, if they still exist.
    pub(super) carbons: Vec<(usize, u32)>,
    /// Its count in the session of its sender.
    pub(super) count: u64,
    /// The server has acknowledged it to its sender.
    pub(super) accepted: bool,
    /// How often a process or store had lost what it held when the message was sent.
    pub(super) losses: u64,
    /// The epoch of its addressee's slot when it was sent.
    pub(super) epoch: u64,
}

/// See the module.
pub(super) struct World {
    // What exists.
    /// All choices of the run.
    pub(super) rng: Rng,
    /// Simulated milliseconds.
    pub(super) now: u64,
    pub(super) net: SharedNet,
    /// The routers, dead ones included.
    pub(super) hosts: Vec<Host>,
    /// The edges, dead ones included.
    pub(super) edges: Vec<Edge>,
    pub(super) socks: Socks,
    pub(super) clients: Vec<Client>,
    pub(super) storage: Storage,
    /// The state store.
    pub(super) state_store: StateStore,
    /// Requests of dead processes that still arrive at the stores.
    pub(super) orphans: Vec<(Job, Asker)>,
    pub(super) rooms: Vec<String>,
    /// The slots in use.
    pub(super) slots: Vec<u16>,

    // How it is set.
    pub(super) config: Arc<RouterConfig>,
    /// Workers of each router.
    pub(super) workers: u32,
    /// Bytes that may wait for a socket before it is cut.
    pub(super) output_queue: usize,

    // Leases and the network.
    /// Runs with faults of the network: leases that are renewed with each authority by itself. In other
    /// runs a process keeps its lease for as long as it runs.
    pub(super) leases: Option<Leases>,
    /// Without `leases`: when the leases of processes end that do not run.
    pub(super) until: BTreeMap<u64, u64>,
    /// Without `leases`: processes whose slots were given to others.
    pub(super) ended: BTreeSet<u64>,
    /// The ways through the network that are cut.
    pub(super) cuts: Vec<Cut>,

    // How far it is.
    /// Clients send on their own.
    pub(super) talking: bool,
    pub(super) steps: u64,
    pub(super) last_number: u64,
    pub(super) last_sock: u64,
    pub(super) last_incarnation: u64,
    /// When something happened last other than a question that comes again and again.
    pub(super) last_act: u64,
    /// When edges look at their clocks the next time.
    pub(super) edge_tick: u64,
    /// By then routers have written again what the state store has lost.
    pub(super) redundant_at: u64,
    pub(super) trace: Option<Vec<String>>,

    // What the checks know.
    /// What was found to be wrong during the run.
    pub(super) trouble: Vec<String>,
    /// All numbered messages.
    pub(super) sent: BTreeMap<u64, Sent>,
    /// vCards that clients have published, by number.
    pub(super) cards: BTreeMap<u64, Card>,
    /// The number of the n-th stanza of a session.
    pub(super) numbers: BTreeMap<(u128, u64), u64>,
    /// Messages below this number are not judged: they may be lost, because more than one fault happened.
    pub(super) judged_from: u64,
    /// The first message number since the cluster was at rest.
    pub(super) round_from: u64,
    /// What clients wrongly believed of others after more than one fault; not judged until they are told
    /// again.
    pub(super) misjudged: BTreeSet<Misjudged>,
    /// Connections, by edge and handle: their users and sessions.
    pub(super) sessions_at: BTreeMap<(u64, u64), (String, u128)>,
    /// The sessions of a user that were given a message of some number, or for which a row of it moved in the archive,
    /// each with the epoch of its slot.
    pub(super) given: BTreeMap<(String, u64), BTreeSet<(u128, u64)>>,
    /// What processes had counted as given up when that was forgiven.
    pub(super) given_up: GivenUp,
    /// Sessions whose resumption an edge had asked for when it died.
    pub(super) late_resumes: BTreeSet<u128>,
    /// How many processes have died.
    pub(super) deaths: u64,
    /// For each router and session: all stanzas of the session up to this one are settled.
    pub(super) settled: BTreeMap<(u64, u128), u64>,
    /// For each edge and attachment: its client was told that all stanzas up to this one are accepted.
    pub(super) told: BTreeMap<(u64, u64), u64>,
    /// When the last fault was over.
    pub(super) calm_from: u64,
    /// The last `calm_from` after which service was judged.
    pub(super) served_at: u64,
}

impl World {
    /// Adds a line to the trace, if there is one.
    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>6} {}", self.now, text()));
        }
    }

    /// The routers that run.
    pub(super) fn running_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.is_running())
    }

    /// The workers of all routers that run.
    pub(super) fn running_workers(&self) -> impl Iterator<Item = &Worker> {
        self.running_hosts().flat_map(|host| &host.workers)
    }
}
