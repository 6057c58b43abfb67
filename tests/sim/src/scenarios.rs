//! Runs in which one thing goes wrong while all is at rest.

use std::collections::BTreeSet;

pub use sestina_router::simulation::Inside;
use sestina_router::simulation::Worker;

use super::world::{SHADOW_CHECK, World};

/// What the shadow has when all is at rest; the same a while after it was emptied, with nobody
/// doing anything.
pub fn flush_at_rest(seed: u64) -> (Vec<String>, Vec<String>) {
    let mut world = World::new(seed, false);
    world.come_to_rest();
    world.round(&[]);
    let before = world.shadow.objects();
    world.shadow.flush();
    let until = world.now + 2 * SHADOW_CHECK;
    while world.now < until {
        world.step();
    }
    (before, world.shadow.objects())
}

/// Who is in which room when all is at rest; the same after the shadow was emptied and, before it
/// was written again, a router died with its rooms.
pub fn flush_and_kill(seed: u64) -> (BTreeSet<Inside>, BTreeSet<Inside>) {
    let mut world = World::new(seed, false);
    world.come_to_rest();
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
    world.shadow.flush();
    world.whole_at = world.now + 2 * SHADOW_CHECK;
    world.kill_host(most);
    world.heal();
    world.come_to_rest();
    (before, inside(&world))
}

fn inside(world: &World) -> BTreeSet<Inside> {
    let running = world.hosts.iter().filter(|host| host.is_running());
    let workers = running.flat_map(|host| &host.workers);
    workers.flat_map(Worker::inside).collect()
}
