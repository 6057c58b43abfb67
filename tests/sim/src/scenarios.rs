//! Runs in which the state store loses everything while the cluster is at rest.

use std::collections::BTreeSet;

pub use sestina_router::simulation::Inside;
use sestina_router::simulation::Worker;

use super::world::{STATE_STORE_CHECK, World};

/// The state store loses everything. Returns the objects that it had, and those that it has some time
/// later, though no client did anything.
pub fn flush_at_rest(seed: u64) -> (Vec<String>, Vec<String>) {
    let mut world = World::at_rest(seed);
    world.round(&[]);
    let before = world.state_store.objects();
    world.state_store.flush();
    let until = world.now + 2 * STATE_STORE_CHECK;
    while world.now < until {
        world.step();
    }
    (before, world.state_store.objects())
}

/// The state store loses everything, and before the objects are written again, the router with the most
/// rooms dies. Returns the occupants of all rooms before and after that.
pub fn flush_and_kill(seed: u64) -> (BTreeSet<Inside>, BTreeSet<Inside>) {
    let mut world = World::at_rest(seed);
    world.round(&[]);
    let before = inside(&world);
    let rooms = |world: &World, host: usize| {
        let workers = world.hosts[host].workers.iter();
        workers.map(Worker::room_count).sum::<usize>()
    };
    let running = (0..world.hosts.len()).filter(|host| world.hosts[*host].is_running());
    let Some(most) = running.max_by_key(|host| rooms(&world, *host)) else {
        return (before, BTreeSet::new());
    };
    world.state_store.flush();
    world.redundant_at = world.now + 2 * STATE_STORE_CHECK;
    world.kill_host(most);
    world.heal();
    world.come_to_rest();
    (before, inside(&world))
}

fn inside(world: &World) -> BTreeSet<Inside> {
    world.running_workers().flat_map(Worker::inside).collect()
}
