//! A process dies exactly when the cluster says that it is fully redundant: then nothing that was
//! acknowledged may be lost, whichever process it is.
//!
//! The cluster is asked as the server's status asks it: both authorities for leases, and each router for
//! what its workers count. A death that no process can know of yet does not make that answer wrong, so
//! the next one waits until the lease of the last dead process has ended.

use super::faults::Fault;
use super::faults::lists::before_a_death;
use super::host::Host;
use super::partition::Place;
use super::world::World;

/// How long it may take until the cluster is fully redundant while clients talk, in simulated
/// milliseconds.
const BUSY: u64 = 8_000;
/// The same after clients have stopped to talk.
const QUIET: u64 = 30_000;

impl World {
    /// What is missing for the cluster to be fully redundant.
    fn missing(&self) -> Option<String> {
        if self.storage.away || self.state_store.away {
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
        let mut served = 0;
        for host in self.running_hosts() {
            let me = host.incarnation();
            let stores = [Place::Storage, Place::StateStore];
            let cut = stores.iter().any(|store| self.gives_nothing(me, *store));
            if cut || !self.serves(me) || host.has_to_assert() {
                return Some(format!("the lease of r{me}"));
            }
            // The question to a worker waits behind its other inputs.
            if host.inbox.iter().any(|inbox| !inbox.is_empty()) {
                return Some(format!("an answer of r{me}"));
            }
            for counts in host.workers.iter().map(|worker| worker.counts()) {
                if counts.taking + counts.quiescing + counts.sole + counts.in_doubt > 0 {
                    return Some(format!("r{me}: {counts:?}"));
                }
                served += counts.slots;
            }
        }
        for slot in &self.slots {
            let owner = self.storage.owner(*slot);
            if owner.is_none_or(|owner| !fresh.contains_key(&owner.incarnation)) {
                return Some(format!("an owner of slot {slot}"));
            }
        }
        (served < self.slots.len()).then(|| format!("{served} slots are served"))
    }

    /// One round with two faults: clients talk, a fault happens, and as soon as the cluster says that it
    /// is fully redundant again, a process dies. Returns what is wrong when the cluster is at rest.
    pub(super) fn redundant_round(&mut self) -> Vec<String> {
        self.begin_round();
        let first = before_a_death();
        let first = *self.rng.pick(&first).unwrap_or(&Fault::None);
        self.fault(first);
        let acts = self.rng.below(150);
        self.run(acts);
        self.heal();
        if self.run_until(BUSY, World::missing).is_err() {
            self.talking = false;
            if let Err(missing) = self.run_until(QUIET, World::missing) {
                return vec![format!(
                    "after {first:?} it does not become redundant: {missing}"
                )];
            }
        }
        self.note(|| "== it says that it is redundant".to_owned());
        let next = match self.rng.below(3) {
            0 => Fault::KillEdge,
            _ => Fault::KillRouter,
        };
        self.fault_while_talking(next);
        self.talking = false;
        self.heal();
        self.come_to_rest()
    }
}
