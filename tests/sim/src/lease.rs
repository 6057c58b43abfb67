//! Leases, each with two authorities (the state store and storage): which processes may serve, count as
//! alive, and may be given slots.
//!
//! A process counts the end of its lease from when it asked for it, with each authority, and stops
//! serving a margin before the later of both ends. An authority counts from when it was asked, so its
//! ends are later. Other processes take a process for alive while one of both authorities does.
//!
//! - [`authorities`]: the leases as both authorities and the processes count them
//! - [`renewal`]: leases are renewed, and end
//! - [`tables`]: what processes tell of themselves with their leases
//! - [`faults`]: faults of leases and clocks

mod authorities;
mod faults;
mod renewal;
mod tables;

pub(super) use authorities::Leases;
pub(super) use faults::LeaseFault;

use sestina_proto as proto;
use sestina_runtime::guard;

use super::host::Host;
use super::partition::Place;
use super::world::{LEASE, World};
use authorities::Lease;

/// How long before the end of its lease a process stops serving, in simulated milliseconds.
const MARGIN: u64 = LEASE / 4;
/// How often a process renews its lease with each authority, in simulated milliseconds.
const EVERY: u64 = LEASE / 4;
/// The same for a process that has stopped serving.
const HURRY: u64 = EVERY / 10;

/// The authorities, by their numbers below.
const AUTHORITIES: [Place; 2] = [Place::StateStore, Place::Storage];
/// The number of the state store.
const STATE_STORE: usize = 0;
/// The number of storage.
pub(super) const STORAGE: usize = 1;

impl World {
    /// A process starts with a lease from storage. From the state store it asks for one at once, and
    /// gets it when no former incarnation of its name has one any more.
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

    /// Whether a process may serve, as it counts its lease itself.
    pub(super) fn serves(&self, process: u64) -> bool {
        let Some(lease) = self.lease(process) else {
            return true;
        };
        let margin = if guard!("lease-margin") { MARGIN } else { 0 };
        lease.own.iter().any(|end| *end > self.now + margin)
    }

    /// Whether the workers of a router may work: it serves, or has not learned yet that it was replaced
    /// while it was suspended.
    pub(super) fn works(&self, host: &Host) -> bool {
        host.acts() && (!host.is_running() || self.serves(host.incarnation()))
    }

    /// Whether both authorities say that the lease of a process is fresh.
    pub(super) fn is_fresh_in_both(&self, process: u64) -> bool {
        self.leases.as_ref().is_none_or(|leases| {
            let fresh = |which| {
                let lease = leases.of.get(&process);
                lease.is_some_and(|lease| leases.is_fresh_with(lease, which, self.now))
            };
            fresh(STATE_STORE) && fresh(STORAGE)
        })
    }

    /// Whether the lease of a process has ended for good: it is not renewed any more.
    pub(super) fn is_ended(&self, process: u64) -> bool {
        match self.lease(process) {
            Some(lease) => lease.ended.contains(&true),
            None => self.ended.contains(&process),
        }
    }
}
