//! Liveness: some time after the last fault all slots are served, and all clients are back. Not judged
//! are faults of the network, where leases take their time to end.

use super::super::client::Mode;
use super::super::host::Life;
use super::super::world::World;

/// So long it may take, from when the last fault is over, in simulated milliseconds: a lease ends, its
/// slots are taken, and clients log in.
const SERVED_WITHIN: u64 = 5000;

impl World {
    /// While nobody makes anything happen any more: looks whether all are served that should be. A
    /// suspended process and a client that stays away are faults for as long as that lasts.
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

    /// Slots without an owner, and clients that are not back.
    fn unserved(&self) -> Vec<String> {
        let workers = || {
            let running = self.hosts.iter().filter(|host| host.is_running());
            running.flat_map(|host| &host.workers)
        };
        let slots = self.slots.iter();
        let slots = slots.filter(|slot| !workers().any(|worker| worker.serves(**slot)));
        let clients = self.clients.iter();
        let clients = clients.filter(|client| client.wanted && !client.is_online());
        slots
            .map(|slot| format!("slot {slot}"))
            .chain(clients.map(|client| format!("c{}", client.index)))
            .collect()
    }
}
