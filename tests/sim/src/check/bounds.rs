//! Memory: no process holds more than its bounds allow, at any time. When nothing is under way, nothing
//! that was needed for it is left.

use std::collections::BTreeSet;

use super::super::world::World;

impl World {
    /// Called after each turn of a worker: notes what exceeds its bounds.
    pub(in super::super) fn look_at_bounds(&mut self, host: usize, worker: usize) {
        if let Some(worker) = self.hosts[host].workers.get(worker) {
            let over = worker.over_bounds();
            self.trouble.extend(over);
        }
    }
}

/// Finds what is left at rest, and gauges that are wrong.
pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    let online = world.clients.iter().filter(|c| c.is_online());
    let online: BTreeSet<u128> = online.map(|c| c.session).collect();
    for host in world.running_hosts() {
        let name = &host.node.name;
        let (mut sessions, mut rooms, mut occupants) = (0, 0, 0);
        for worker in &host.workers {
            wrong.extend(worker.leftovers(name));
            for (session, jid) in worker.sessions() {
                sessions += 1;
                if !online.contains(&session) {
                    wrong.push(format!(
                        "{name}: {jid} ({:04x}) has no client",
                        session & 0xffff
                    ));
                }
            }
            rooms += worker.room_count() as i64;
            occupants += worker.seen().len() as i64;
        }
        let gauges = host.counters.gauges();
        if gauges != (sessions, rooms, occupants) {
            wrong.push(format!(
                "{name} has {sessions} sessions, {rooms} rooms, {occupants} occupants, counted as {gauges:?}"
            ));
        }
    }
    for edge in world.edges.iter().filter(|edge| edge.alive) {
        wrong.extend(edge.leftovers(&online));
    }
}
