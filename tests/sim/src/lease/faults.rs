//! Faults of leases and clocks.

use super::AUTHORITIES;
use super::authorities::EPOCH;
use crate::host::Life;
use crate::world::World;

/// A fault of a lease or a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseFault {
    /// A router dies and starts again at once under its name.
    RestartRouter,
    /// An edge dies and starts again at once under its name.
    RestartEdge,
    /// The clock of an authority is set forward or back.
    Clock,
    /// The wall clock of a router is set forward or back: the one that it dates messages by.
    WallClock,
}

impl World {
    /// Does one fault.
    pub(crate) fn lease_fault(&mut self, fault: LeaseFault) {
        let sets = [600, 3_000, 100_000_000];
        let by = *self.rng.pick(&sets).unwrap_or(&600);
        match fault {
            LeaseFault::RestartRouter => {
                if let Some(host) = self.any_host() {
                    self.lose_lease(host);
                }
            }
            LeaseFault::RestartEdge => {
                if let Some(edge) = self.any_edge() {
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

    /// An edge dies and starts again under its name.
    fn restart_edge(&mut self, edge: usize) {
        self.kill_edge(edge);
        self.start_edge_as(self.edges[edge].node.name.clone());
    }

    /// A router dies, and with leases starts again under its name: so does one that learns that its slots
    /// were given to others.
    pub(crate) fn lose_lease(&mut self, host: usize) {
        let lives = self.hosts[host].life != Life::Dead;
        self.kill_host(host);
        if lives && self.leases.is_some() {
            self.start_host_as(self.hosts[host].node.name.clone());
        }
    }

    /// Edges whose leases have ended cut all connections, and start again under their names.
    pub(super) fn end_edges(&mut self) {
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
}
