//! Liveness: some time after the last fault is over, all slots are served and all clients are back. Runs
//! with faults of the network are not judged, because there leases take longer to end.

use super::super::client::Mode;
use super::super::host::Life;
use super::super::world::World;

/// How long that may take, in simulated milliseconds: a lease ends, other routers take its slots, and
/// clients log in.
const SERVED_WITHIN: u64 = 5000;

impl World {
    /// Called now and then while the cluster comes to rest: judges whether all slots and clients are served.
    /// The last fault is not over while a process is suspended or a client stays unavailable.
    pub(in super::super) fn look_at_service(&mut self) {
        if self.leases.is_some() {
            return;
        }
        let suspended = self.hosts.iter().filter_map(|host| match host.life {
            Life::Suspended { until } => Some(until),
            Life::Running | Life::Late { .. } | Life::Dead => None,
        });
        let away = self.clients.iter().filter_map(|client| match client.mode {
            Mode::Broken { until } => Some(until),
            Mode::Offline | Mode::Binding | Mode::Resuming | Mode::Online => None,
        });
        let last = suspended.chain(away).max().unwrap_or(0);
        self.calm_from = self.calm_from.max(last);
        let unserved = self.unserved();
        if unserved.is_empty() {
            self.served_at = self.served_at.max(self.calm_from);
        } else if self.now > self.calm_from + SERVED_WITHIN && self.served_at < self.calm_from {
            self.served_at = self.calm_from;
            self.trouble.push(format!(
                "{SERVED_WITHIN} ms after the last fault is over, not served: {unserved:?}"
            ));
        }
    }

    /// The slots that no router serves, and the clients that are not back.
    fn unserved(&self) -> Vec<String> {
        let served = |slot: u16| self.running_workers().any(|worker| worker.serves(slot));
        let slots = self.slots.iter().filter(|slot| !served(**slot));
        let clients = self.clients.iter();
        let clients = clients.filter(|client| client.wanted && !client.is_online());
        slots
            .map(|slot| format!("slot {slot}"))
            .chain(clients.map(|client| format!("c{}", client.index)))
            .collect()
    }
}
