//! Leases, each with two authorities: who may serve, who is alive, and who gets slots.
//!
//! A process counts each lease from before it asked for it, and stops serving a margin before the last
//! of both ends; the authorities' own counts end later. Others believe that it lives while one of both
//! says so.

use std::collections::{BTreeMap, BTreeSet};

use sestina_cluster::reach::Reach;
use sestina_proto as proto;
use sestina_runtime::guard;

use super::host::{Host, Life};
use super::partition::Place;
use super::planner::Planning;
use super::world::{LEASE, World};
use sestina_router::simulation::Input;
use sestina_storage::simulation::Holder;

/// How long before the end of its lease a process stops serving.
const MARGIN: u64 = LEASE / 4;
/// How often a lease is renewed.
const EVERY: u64 = LEASE / 4;
/// The same while serving has stopped.
const HURRY: u64 = EVERY / 10;
/// How often a router asks which tables the others have.
const ASKED: u64 = 300;

/// Those that know of leases: the state store and storage.
const AUTHORITIES: [Place; 2] = [Place::Shadow, Place::Storage];
pub(super) const SHADOW: usize = 0;
pub(super) const STORAGE: usize = 1;
/// What their clocks show at the beginning, so that they can be set back.
const EPOCH: u64 = 1 << 32;

/// A process with both authorities.
#[derive(Debug, Default)]
struct Lease {
    name: String,
    /// Until when it is fresh, by their clocks.
    ends: [u64; 2],
    /// The same as the process counts it, by a clock that is never set.
    own: [u64; 2],
    renews_at: [u64; 2],
    /// Marked by the state store, ended by storage: it is not renewed there any more.
    ended: [bool; 2],
    /// A renewal waits in the network, for an authority that was cut off.
    late: [bool; 2],
    /// What it said of itself when it renewed the last time.
    told: proto::Node,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Leases {
    of: BTreeMap<u64, Lease>,
    /// The clocks of both.
    ahead: [u64; 2],
    /// The tables of others that a router's workers were told of, and when.
    installed: BTreeMap<u64, (u64, Vec<(u64, proto::Position)>)>,
    /// The tables of those that were alive when the last lease was renewed.
    tables: Vec<(u64, proto::Position)>,
    pub(super) planning: Planning,
}

impl Default for Leases {
    fn default() -> Leases {
        Leases {
            of: BTreeMap::new(),
            ahead: [EPOCH; 2],
            installed: BTreeMap::new(),
            tables: Vec::new(),
            planning: Planning::default(),
        }
    }
}

impl Leases {
    /// What the clock of an authority shows.
    pub(super) fn clock(&self, which: usize, now: u64) -> u64 {
        now + self.ahead[which]
    }

    fn is_fresh_with(&self, lease: &Lease, which: usize, now: u64) -> bool {
        !lease.ended[which] && lease.ends[which] > self.clock(which, now)
    }

    /// Whether one of both says that a process has its lease.
    pub(super) fn is_fresh(&self, process: u64, now: u64) -> bool {
        let lease = self.of.get(&process);
        lease.is_some_and(|lease| {
            self.is_fresh_with(lease, SHADOW, now) || self.is_fresh_with(lease, STORAGE, now)
        })
    }

    /// The processes that have their leases, as one of both says.
    pub(super) fn fresh_with(&self, which: usize, now: u64) -> BTreeSet<Holder> {
        let fresh = self.of.iter();
        let fresh = fresh.filter(|(_, lease)| self.is_fresh_with(lease, which, now));
        fresh
            .map(|(process, lease)| (lease.name.clone(), *process))
            .collect()
    }

    /// Marks a lease that has ended in the state store; false if it has not.
    pub(super) fn mark(&mut self, process: u64, now: u64) -> bool {
        let clock = self.clock(SHADOW, now);
        let Some(lease) = self.of.get_mut(&process) else {
            return true;
        };
        lease.ended[SHADOW] |= lease.ends[SHADOW] <= clock || !guard!("two-authorities");
        lease.ended[SHADOW]
    }

    /// Takes back the marks of those of which storage says that they live.
    pub(super) fn unmark_living(&mut self, now: u64) {
        let living = self.fresh_with(STORAGE, now);
        for (process, lease) in &mut self.of {
            lease.ended[SHADOW] &= !living.contains(&(lease.name.clone(), *process));
        }
    }

    /// Slots were taken from a process: storage ends its lease with that.
    pub(super) fn end(&mut self, process: u64) {
        if let Some(lease) = self.of.get_mut(&process) {
            lease.ended[STORAGE] = true;
        }
    }

    /// The clock of an authority is set. No lease lasts for longer than its term from then on: they are
    /// cut when they are listed the next time, which is at once here.
    pub(super) fn set_clock(&mut self, which: usize, now: u64, ahead: u64) {
        self.ahead[which] = ahead;
        let most = self.clock(which, now) + LEASE;
        for lease in self.of.values_mut() {
            lease.ends[which] = lease.ends[which].min(most);
        }
        if which == STORAGE {
            self.planning.end_by(most);
        }
    }

    /// An authority is asked to renew a lease; whether it says that this is lost.
    fn take_renewal(&mut self, process: u64, which: usize, now: u64, told: proto::Node) -> Renewal {
        let until = self.clock(which, now) + LEASE;
        let Some(lease) = self.of.get(&process) else {
            return Renewal::Lost;
        };
        // The state store knows one holder of a name.
        let namesake = |other: u64, of: &Lease| {
            let same = which == SHADOW && other != process && of.name == lease.name;
            same && self.is_fresh_with(of, which, now)
        };
        if lease.ended[which] {
            return Renewal::Lost;
        }
        if self.of.iter().any(|(other, of)| namesake(*other, of)) {
            return Renewal::Later;
        }
        if let Some(lease) = self.of.get_mut(&process) {
            lease.ends[which] = until;
            lease.told = told;
        }
        Renewal::Renewed
    }
}

/// What an authority answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    Renewed,
    Lost,
    /// A former incarnation has its lease for a while yet.
    Later,
}

/// What may go wrong with leases and clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseFault {
    /// A router dies and begins again at once under its name.
    RestartRouter,
    /// An edge likewise.
    RestartEdge,
    /// The clock of an authority is set forward or back.
    Clock,
    /// The clock by which a router tells the time of messages is.
    WallClock,
}

impl World {
    pub(super) fn lease_fault(&mut self, fault: LeaseFault) {
        let sets = [600, 3_000, 100_000_000];
        let by = *self.rng.pick(&sets).unwrap_or(&600);
        match fault {
            LeaseFault::RestartRouter => {
                if let Some(host) = self.any_host() {
                    self.lose_lease(host);
                }
            }
            LeaseFault::RestartEdge => {
                let alive: Vec<usize> = (0..self.edges.len())
                    .filter(|e| self.edges[*e].alive)
                    .collect();
                if let Some(edge) = self.rng.pick(&alive).copied() {
                    self.restart_edge(edge);
                }
            }
            LeaseFault::Clock => {
                let which = self.rng.below(2) as usize;
                let ahead = if self.rng.one_in(2) {
                    EPOCH + by
                } else {
                    EPOCH - by
                };
                self.note(|| format!("!! the clock of {:?} is set", AUTHORITIES[which]));
                if let Some(leases) = &mut self.leases {
                    leases.set_clock(which, self.now, ahead);
                }
            }
            LeaseFault::WallClock => {
                let by = by as i64;
                let ahead = if self.rng.one_in(2) { by } else { -by };
                if let Some(host) = self.any_host() {
                    self.note(|| format!("!! the clock of router {host} is set"));
                    self.hosts[host].wall_ahead = ahead;
                }
            }
        }
    }

    fn restart_edge(&mut self, edge: usize) {
        self.kill_edge(edge);
        self.start_edge_as(self.edges[edge].node.name.clone());
    }

    /// A process begins, with a lease by storage; with the state store it has one when no former
    /// incarnation of its name has it any more.
    pub(super) fn first_lease(&mut self, node: &proto::Node) {
        let now = self.now;
        if let Some(leases) = &mut self.leases {
            let lease = Lease {
                name: node.name.clone(),
                ends: [0, leases.clock(STORAGE, now) + LEASE],
                own: [0, now + LEASE],
                renews_at: [now, now + EVERY],
                told: node.clone(),
                ..Lease::default()
            };
            leases.of.insert(node.incarnation, lease);
        }
    }

    fn lease(&self, process: u64) -> Option<&Lease> {
        self.leases.as_ref()?.of.get(&process)
    }

    /// Whether a process may serve, by its own count.
    pub(super) fn serves(&self, process: u64) -> bool {
        let Some(lease) = self.lease(process) else {
            return true;
        };
        let margin = if guard!("lease-margin") { MARGIN } else { 0 };
        lease.own.iter().any(|end| *end > self.now + margin)
    }

    /// Whether both authorities say that a process has its lease.
    pub(super) fn is_fresh_in_both(&self, process: u64) -> bool {
        self.leases.as_ref().is_none_or(|leases| {
            let fresh = |which| {
                let lease = leases.of.get(&process);
                lease.is_some_and(|lease| leases.is_fresh_with(lease, which, self.now))
            };
            fresh(SHADOW) && fresh(STORAGE)
        })
    }

    /// Whether a router's workers may work. One that was suspended in the middle of a turn ends it.
    pub(super) fn works(&self, host: &Host) -> bool {
        host.acts() && (!host.is_running() || self.serves(host.incarnation()))
    }

    /// Whether a lease has ended for good.
    pub(super) fn is_ended(&self, process: u64) -> bool {
        match self.lease(process) {
            Some(lease) => lease.ended.contains(&true),
            None => self.ended.contains(&process),
        }
    }

    /// Time passes: the network is mended, leases are renewed, and those that were not end.
    pub(super) fn keep_leases(&mut self) {
        let Some(leases) = &self.leases else { return };
        let mut due = Vec::new();
        for (process, lease) in &leases.of {
            let which = (0..AUTHORITIES.len()).filter(|w| lease.renews_at[*w] <= self.now);
            due.extend(which.map(|which| (*process, which)));
        }
        self.mend_cuts();
        for (process, which) in &due {
            if !self.renew(*process, *which)
                && let Some(host) = self.host_index(*process)
            {
                self.lose_lease(host);
            }
        }
        if !due.is_empty() {
            self.late_renewals();
            let told = self.told().unwrap_or_default().into_iter();
            let told = told.map(|node| (node.incarnation, node.installed.unwrap_or_default()));
            let tables = told.collect();
            if let Some(leases) = &mut self.leases {
                leases.tables = tables;
            }
        }
        self.end_edges();
    }

    /// A process asks an authority to renew its lease; false if it hears that this was lost.
    fn renew(&mut self, process: u64, which: usize) -> bool {
        let now = self.now;
        let (store, serves) = (AUTHORITIES[which], self.serves(process));
        let via = self.renews_through(process, store);
        let arrives = via.is_some_and(|via| !self.is_away(via, store));
        let heard = via.is_some_and(|via| self.passes(store, Place::Process(via)));
        let told = self.says(process);
        let Some(leases) = &mut self.leases else {
            return true;
        };
        let answer = arrives.then(|| leases.take_renewal(process, which, now, told));
        let Some(lease) = leases.of.get_mut(&process) else {
            return true;
        };
        lease.renews_at[which] = now + if serves { EVERY } else { HURRY };
        lease.late[which] |= via.is_some() && !arrives;
        if answer == Some(Renewal::Renewed) && heard {
            lease.own[which] = now + LEASE;
        }
        !(heard && answer == Some(Renewal::Lost))
    }

    /// Renewals that waited in the network come when it is mended, whether or not the process lives: some
    /// of them. Nobody hears the answer.
    fn late_renewals(&mut self) {
        for (which, store) in AUTHORITIES.into_iter().enumerate() {
            let late = self.leases.iter().flat_map(|leases| &leases.of);
            let late: Vec<u64> = late
                .filter(|(_, l)| l.late[which])
                .map(|(p, _)| *p)
                .collect();
            for process in late {
                if self.is_away(process, store) {
                    continue;
                }
                let comes = self.rng.one_in(2);
                let now = self.now;
                if let Some(leases) = &mut self.leases {
                    let lease = leases.of.get_mut(&process);
                    let told = lease.map(|lease| {
                        lease.late[which] = false;
                        lease.told.clone()
                    });
                    if comes {
                        leases.take_renewal(process, which, now, told.unwrap_or_default());
                    }
                }
            }
        }
    }

    /// Through which router a process renews: an edge asks one after the other.
    fn renews_through(&self, process: u64, store: Place) -> Option<u64> {
        if let Some(host) = self.host_index(process) {
            let acts = self.hosts[host].is_running();
            return acts.then_some(process);
        }
        let edge = self.edge_index(process)?;
        let alive = self.edges[edge].alive;
        let mut routers = self.hosts.iter().filter(|host| alive && host.acts());
        let reached = |host: &&Host| {
            let router = host.incarnation();
            self.answers(process, Place::Process(router)) && !self.gives_nothing(router, store)
        };
        routers.find(reached).map(Host::incarnation)
    }

    /// What a process tells of itself with its lease.
    fn says(&self, process: u64) -> proto::Node {
        let host = self.host_index(process).map(|host| &self.hosts[host]);
        let edge = self.edge_index(process).map(|edge| &self.edges[edge]);
        let (node, position) = match (host, edge) {
            (Some(host), _) => (host.node.clone(), host.watched),
            (None, Some(edge)) => (edge.node.clone(), edge.position()),
            (None, None) => return proto::Node::default(),
        };
        proto::Node {
            reaches: self.reached(process),
            installed: Some(position),
            ..node
        }
    }

    /// A router learns that its slots are others': it starts over as another incarnation.
    pub(super) fn lose_lease(&mut self, host: usize) {
        let lives = self.hosts[host].life != Life::Dead;
        self.kill_host(host);
        if lives && self.leases.is_some() {
            self.start_host_as(self.hosts[host].node.name.clone());
        }
    }

    /// Edges whose leases have ended cut everything, and start over as other incarnations.
    fn end_edges(&mut self) {
        for index in 0..self.edges.len() {
            let edge = &self.edges[index];
            let over = self.lease(edge.incarnation());
            let over = over.is_some_and(|lease| lease.own.iter().all(|end| *end <= self.now));
            if edge.alive && over {
                self.note(|| "!! the lease of an edge has ended".to_owned());
                self.restart_edge(index);
            }
        }
    }

    /// Whether a table that a process has cannot be told to storage.
    pub(super) fn is_away_through_others(&self, node: &proto::Node, store: Place) -> bool {
        match &self.leases {
            None => self.storage.away,
            Some(_) => self
                .renews_through(node.incarnation, store)
                .is_none_or(|via| self.is_away(via, store)),
        }
    }

    /// What the live processes have told of themselves.
    pub(super) fn told(&self) -> Option<Vec<proto::Node>> {
        let leases = self.leases.as_ref()?;
        let live = leases.of.iter();
        let live = live.filter(|(process, _)| leases.is_fresh(**process, self.now));
        Some(live.map(|(_, lease)| lease.told.clone()).collect())
    }

    /// Whether a slot in use may move to a router: everybody has to reach it.
    pub(super) fn may_move_to(&self, host: usize) -> bool {
        let Some(told) = self.told() else { return true };
        let open = Reach::of(&told).open(&self.hosts[host].table, &[&self.hosts[host].node]);
        !open.is_empty()
    }

    /// Whether a router has to be told which tables the others have: they have others, or one of its
    /// slots has waited for a while.
    pub(super) fn has_news_of_tables(&self, host: usize) -> bool {
        let Some(leases) = &self.leases else {
            return false;
        };
        let host = &self.hosts[host];
        let waits = || {
            let mut workers = host.workers.iter();
            workers.any(|w| w.held().iter().any(|(slot, _)| !w.serves(*slot)))
        };
        match leases.installed.get(&host.incarnation()) {
            None => true,
            Some((at, known)) => *known != leases.tables || (self.now > at + ASKED && waits()),
        }
    }

    pub(super) fn tell_installed(&mut self, host: usize) {
        let me = self.hosts[host].incarnation();
        let Some(leases) = &mut self.leases else {
            return;
        };
        let tables = leases.tables.clone();
        leases.installed.insert(me, (self.now, tables.clone()));
        let installed: std::sync::Arc<[(u64, proto::Position)]> = tables.into();
        self.hosts[host].push_all(|| Input::Installed {
            installed: installed.clone(),
        });
    }
}
