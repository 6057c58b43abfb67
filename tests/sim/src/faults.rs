//! Faults, and their end.
//!
//! - [`lists`]: which of them a seed chooses from

pub(super) mod lists;

use super::lease::LeaseFault;
use super::net::Ends;
use super::partition::Partition;
use super::world::{STATE_STORE_CHECK, World};

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    KillRouter,
    /// A router dies, and of what was under way to the state store nothing arrives.
    KillRouterUnheard,
    KillEdge,
    /// A connection of an edge to a router breaks.
    EdgeLane,
    /// A connection between two routers breaks.
    PeerLane,
    /// Several connections of both kinds break.
    AllLanes,
    /// The state store does not answer until the cluster heals.
    StateStoreUnavailable,
    /// The same for many times as long as a lease lasts.
    StateStoreLongUnavailable,
    /// The state store loses everything.
    StateStoreFlushed,
    /// Requests to the state store, and its answers, are lost or late now and then.
    StateStoreFlaky,
    /// A replica of the state store takes over that lacks the last writes.
    StateStoreFailOver,
    /// The same after slots have moved to other routers.
    MoveAndFailOver,
    /// Storage does not answer until the cluster heals.
    StorageUnavailable,
    /// A router is suspended, for so short a time that its lease may or may not end meanwhile.
    Pause,
    /// A router is suspended, most often until its lease has ended.
    Suspend,
    /// Slots are handed over to other routers.
    HandOver,
    /// A standby of the database takes over that lacks the last commits.
    CommitsLost,
    Partition(Partition),
    Lease(LeaseFault),
    /// Frames of kinds that this version does not know.
    UnknownFrames,
}

impl World {
    /// Does one fault.
    pub(super) fn fault(&mut self, fault: Fault) {
        self.note(|| format!("!! {fault:?}"));
        match fault {
            Fault::None => {}
            Fault::KillRouter | Fault::KillRouterUnheard => {
                if fault == Fault::KillRouterUnheard {
                    self.state_store.lose_late();
                }
                if let Some(host) = self.any_host() {
                    self.kill_host(host);
                }
            }
            Fault::KillEdge => {
                if let Some(edge) = self.any_edge() {
                    self.kill_edge(edge);
                }
            }
            Fault::EdgeLane => self.break_some(1, true),
            Fault::PeerLane => self.break_some(1, false),
            Fault::AllLanes => {
                self.break_some(3, true);
                self.break_some(3, false);
            }
            Fault::Partition(which) => self.partition(which),
            Fault::UnknownFrames => self.unknown_frames(),
            Fault::Lease(which) => self.lease_fault(which),
            Fault::StateStoreUnavailable => self.state_store.away = true,
            Fault::StateStoreLongUnavailable => self.long_without_state_store(),
            Fault::StateStoreFlushed => {
                self.state_store.flush();
                self.redundant_at = self.now + 2 * STATE_STORE_CHECK;
            }
            Fault::StateStoreFlaky => self.state_store.flaky = true,
            Fault::StateStoreFailOver => self.fail_over(),
            Fault::MoveAndFailOver => {
                for _ in 0..2 + self.rng.below(3) {
                    self.order_hand_over();
                }
                let acts = self.rng.below(150);
                self.run(acts);
                self.fail_over();
            }
            Fault::StorageUnavailable => self.storage.away = true,
            Fault::Pause | Fault::Suspend => {
                let long = if fault == Fault::Suspend { 480 } else { 100 };
                let until = self.now + long + self.rng.below(600);
                if let Some(host) = self.any_host() {
                    self.suspend_host(host, until);
                }
            }
            Fault::HandOver => {
                for _ in 0..1 + self.rng.below(3) {
                    self.order_hand_over();
                }
            }
            Fault::CommitsLost => {
                for _ in 0..self.rng.below(4) {
                    self.order_hand_over();
                }
                let acts = self.rng.below(250);
                self.run(acts);
                let lost = 1 + self.rng.below(12) as usize;
                self.note(|| format!("!! the database loses {lost} commits"));
                self.storage.lose_commits(lost);
            }
        }
    }

    /// The state store is unavailable for many times as long as a lease lasts, and clients go on: they talk,
    /// enter and leave rooms, and change their presence and nicks.
    fn long_without_state_store(&mut self) {
        self.state_store.away = true;
        let until = self.now + 2000 + self.rng.below(8000);
        self.pass_time(until, 300);
    }

    /// A replica of the state store takes over that lacks some of the last writes.
    fn fail_over(&mut self) {
        let lacks = 1 + self.rng.below(12) as usize;
        self.note(|| format!("!! the state store loses {lacks} writes"));
        self.state_store.fail_over(lacks);
        self.redundant_at = self.now + 2 * STATE_STORE_CHECK;
    }

    /// Breaks so many connections: of edges to routers, or between routers.
    fn break_some(&mut self, count: usize, edges: bool) {
        for _ in 0..count {
            let open: Vec<u64> = self
                .net
                .lock()
                .conns
                .iter()
                .filter(|(_, c)| !c.broken && matches!(c.ends, Ends::Edge { .. }) == edges)
                .map(|(id, _)| *id)
                .collect();
            if let Some(conn) = self.rng.pick(&open).copied() {
                self.net.lock().break_it(conn, &mut self.rng);
                self.note(|| format!("!! connection {conn} breaks"));
            }
        }
    }

    /// Orders that some slot is handed over.
    fn order_hand_over(&mut self) {
        let slot = *self.rng.pick(&self.slots).unwrap_or(&1);
        self.order_hand_over_of(slot);
    }

    /// Orders that a slot is handed over to another router, chosen by the seed.
    pub(super) fn order_hand_over_of(&mut self, slot: u16) {
        let owner = self.storage.owner(slot).map(|owner| owner.incarnation);
        let Some(owner) = owner.and_then(|o| self.host_index(o)) else {
            return;
        };
        let Some(to) = self.any_host().filter(|to| *to != owner) else {
            return;
        };
        if !self.may_move_to(to) {
            return;
        }
        let node = self.hosts[to].node.clone();
        self.note(|| format!("== slot {slot} is to go to {}", node.name));
        self.hosts[owner].hand_over(slot, &node);
    }

    /// Ends all faults: the stores answer, the network is whole, and processes start for those that died.
    pub(super) fn heal(&mut self) {
        self.state_store.away = false;
        self.state_store.flaky = false;
        self.storage.away = false;
        self.calm_from = self.now;
        self.note(|| "== healing".to_owned());
        self.mend_network();
        while self.hosts.iter().filter(|h| h.is_alive()).count() < 3 {
            self.start_host();
        }
        while self.edges.iter().filter(|e| e.alive).count() < 2 {
            self.start_edge();
        }
    }
}
