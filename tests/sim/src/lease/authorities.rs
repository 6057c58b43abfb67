//! The leases of all processes, as both authorities and the processes themselves count them.

use std::collections::{BTreeMap, BTreeSet};

use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_storage::simulation::Holder;

use super::{STATE_STORE, STORAGE};
use crate::planner::Planning;
use crate::world::LEASE;

/// What the clocks of both authorities show when the simulation begins: enough to be set back.
pub(super) const EPOCH: u64 = 1 << 32;

/// The lease of a process, with both authorities.
#[derive(Debug, Default)]
pub(super) struct Lease {
    pub(super) name: String,
    /// Until when it is fresh, by the clocks of the authorities.
    pub(super) ends: [u64; 2],
    /// Until when it is fresh as the process counts it, by a clock that is never set.
    pub(super) own: [u64; 2],
    /// When the process asks for its renewal the next time.
    pub(super) renews_at: [u64; 2],
    /// It is not renewed any more: the state store has marked it, or storage has ended it.
    pub(super) ended: [bool; 2],
    /// A renewal waits in the network, because the authority was cut off.
    pub(super) late: [bool; 2],
    /// What the process told of itself with its last renewal.
    pub(super) told: proto::Node,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Leases {
    /// By incarnation.
    pub(super) of: BTreeMap<u64, Lease>,
    /// How far the clocks of both authorities are ahead of the simulation's.
    ahead: [u64; 2],
    /// For each router: when its workers were told of the tables of other processes, and which.
    pub(super) installed: BTreeMap<u64, (u64, Tables)>,
    /// The tables of the processes that were alive when a lease was renewed last.
    pub(super) tables: Tables,
    pub(crate) planning: Planning,
}

/// Processes, by incarnation, and the position of the table that each has installed.
pub(super) type Tables = Vec<(u64, proto::Position)>;

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
    pub(crate) fn clock(&self, which: usize, now: u64) -> u64 {
        now + self.ahead[which]
    }

    /// Whether an authority says that a lease is fresh.
    pub(super) fn is_fresh_with(&self, lease: &Lease, which: usize, now: u64) -> bool {
        !lease.ended[which] && lease.ends[which] > self.clock(which, now)
    }

    /// Whether one of both authorities says that the lease of a process is fresh.
    pub(crate) fn is_fresh(&self, process: u64, now: u64) -> bool {
        let lease = self.of.get(&process);
        lease.is_some_and(|lease| {
            self.is_fresh_with(lease, STATE_STORE, now) || self.is_fresh_with(lease, STORAGE, now)
        })
    }

    /// The processes whose leases are fresh, as one authority says.
    pub(crate) fn fresh_with(&self, which: usize, now: u64) -> BTreeSet<Holder> {
        let fresh = self.of.iter();
        let fresh = fresh.filter(|(_, lease)| self.is_fresh_with(lease, which, now));
        fresh
            .map(|(process, lease)| (lease.name.clone(), *process))
            .collect()
    }

    /// Has the state store mark a lease as ended; false if it has not ended there.
    pub(crate) fn mark(&mut self, process: u64, now: u64) -> bool {
        let clock = self.clock(STATE_STORE, now);
        let Some(lease) = self.of.get_mut(&process) else {
            return true;
        };
        lease.ended[STATE_STORE] |= lease.ends[STATE_STORE] <= clock || !guard!("two-authorities");
        lease.ended[STATE_STORE]
    }

    /// Takes back the marks of the state store from leases that storage says are fresh.
    pub(crate) fn unmark_living(&mut self, now: u64) {
        let living = self.fresh_with(STORAGE, now);
        for (process, lease) in &mut self.of {
            lease.ended[STATE_STORE] &= !living.contains(&(lease.name.clone(), *process));
        }
    }

    /// Has storage end a lease, because the slots of its process were given to others.
    pub(crate) fn end(&mut self, process: u64) {
        if let Some(lease) = self.of.get_mut(&process) {
            lease.ended[STORAGE] = true;
        }
    }

    /// Sets the clock of an authority. After that no lease lasts for longer than a term: the authority
    /// shortens longer ones when it lists them, which is at once here.
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

    /// The answer of an authority that is asked to renew a lease.
    pub(super) fn take_renewal(
        &mut self,
        process: u64,
        which: usize,
        now: u64,
        told: proto::Node,
    ) -> Renewal {
        let until = self.clock(which, now) + LEASE;
        let Some(lease) = self.of.get(&process) else {
            return Renewal::Lost;
        };
        // The state store has one lease for each name.
        let namesake = |other: u64, of: &Lease| {
            let same = which == STATE_STORE && other != process && of.name == lease.name;
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

/// The answer of an authority to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Renewed,
    /// The lease has ended for good.
    Lost,
    /// The lease of a former incarnation is still fresh.
    Later,
}
