//! The next fault, exactly when the cluster says that it is whole: then nothing that was acknowledged
//! may be lost, whatever process dies.
//!
//! The judgement is that of the server's status: it asks both authorities for leases, and each router
//! for what its workers count. A death that nobody can know of yet is no fault of that judgement, so
//! the next one waits until the lease of the last dead process has ended.

use super::faults::Fault;
use super::host::Host;
use super::lease::LeaseFault;
use super::partition::{Partition, Place};
use super::world::World;

/// How long it may take until the cluster is whole again while clients go on.
const BUSY: u64 = 8_000;
/// The same when they have stopped.
const QUIET: u64 = 30_000;

/// Faults before the one at "whole". Not those of which the server learns only when it asks the next
/// time whether the state store has everything, or when the database is asked for what it has lost.
pub(super) const FIRST: [Fault; 19] = [
    Fault::None,
    Fault::KillRouter,
    Fault::KillRouter,
    Fault::KillRouter,
    Fault::KillEdge,
    Fault::KillEdge,
    Fault::EdgeLane,
    Fault::PeerLane,
    Fault::AllLanes,
    Fault::ShadowAway,
    Fault::ShadowLongAway,
    Fault::ShadowFlaky,
    Fault::StorageAway,
    Fault::Suspend,
    Fault::HandOver,
    Fault::Lease(LeaseFault::RestartRouter),
    Fault::Lease(LeaseFault::RestartEdge),
    Fault::Partition(Partition::Routers),
    Fault::Partition(Partition::EdgeRouter),
];

impl World {
    /// What is missing for the cluster to be whole; none while that cannot be asked.
    fn missing(&self) -> Option<String> {
        if self.storage.away || self.shadow.away {
            return Some("a store".to_owned());
        }
        let fresh = self.fresh();
        for process in fresh.keys() {
            let host = self.host_index(*process).map(|host| &self.hosts[host]);
            let edge = self.edge_index(*process).map(|edge| &self.edges[edge]);
            let lives = host.is_some_and(Host::is_running) || edge.is_some_and(|e| e.alive);
            if !lives || !self.is_fresh_in_both(*process) {
                return Some(format!("process {process}"));
            }
        }
        let running = self.hosts.iter().filter(|host| host.is_running());
        let mut served = 0;
        for host in running {
            let me = host.incarnation();
            let stores = [Place::Storage, Place::Shadow];
            let cut = stores.iter().any(|store| self.gives_nothing(me, *store));
            if cut || !self.serves(me) || host.has_to_assert() {
                return Some(format!("the lease of r{me}"));
            }
            // The question waits behind what came before it.
            if host.inbox.iter().any(|inbox| !inbox.is_empty()) {
                return Some(format!("an answer of r{me}"));
            }
            for counts in host.workers.iter().map(|worker| worker.counts()) {
                if counts.taking + counts.frozen + counts.sole + counts.in_doubt > 0 {
                    return Some(format!("r{me}: {counts:?}"));
                }
                served += counts.slots;
            }
        }
        let map = &self.storage.map;
        for slot in &self.slots {
            let place = (map.owners[usize::from(*slot)] as usize).checked_sub(1);
            let owner = place.and_then(|place| map.routers.get(place));
            if owner.is_none_or(|owner| !fresh.contains_key(&owner.incarnation)) {
                return Some(format!("an owner of slot {slot}"));
            }
        }
        (served < self.slots.len()).then(|| format!("{served} slots are served"))
    }

    /// Goes on until the cluster says that it is whole; what is missing if that takes too long.
    fn until_whole(&mut self, limit: u64) -> Result<(), String> {
        let end = self.now + limit;
        while let Some(missing) = self.missing() {
            if self.now > end {
                return Err(missing);
            }
            self.step();
            if self.talking && self.rng.one_in(4) {
                super::talk::talk(self);
            }
        }
        Ok(())
    }

    /// Talks, breaks something, and kills a process as soon as the cluster is whole again. What is
    /// wrong then.
    pub(super) fn whole_round(&mut self) -> Vec<String> {
        self.talking = true;
        let acts = 60 + self.rng.below(200);
        self.run(acts);
        let first = *self.rng.pick(&FIRST).unwrap_or(&Fault::None);
        self.fault(first);
        let acts = self.rng.below(150);
        self.run(acts);
        self.heal();
        if self.until_whole(BUSY).is_err() {
            self.talking = false;
            if let Err(missing) = self.until_whole(QUIET) {
                return vec![format!(
                    "after {first:?} it does not become whole: {missing}"
                )];
            }
        }
        self.note(|| "== it says that it is whole".to_owned());
        let next = match self.rng.below(3) {
            0 => Fault::KillEdge,
            _ => Fault::KillRouter,
        };
        self.talking = true;
        self.fault(next);
        let acts = 20 + self.rng.below(150);
        self.run(acts);
        self.talking = false;
        self.heal();
        self.come_to_rest()
    }
}
