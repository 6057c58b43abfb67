//! A client that never reads, and is sent much: its queues fill up to their bounds, and other clients do
//! not notice.

use super::client::What;
use super::setup::Settings;
use super::talk;
use super::world::World;

/// The client that does not read.
const HOARDER: usize = 6;
/// The clients that go on talking. One is in the slot of the hoarder, two are in its room.
const OTHERS: [usize; 5] = [0, 2, 3, 5, 8];
/// Messages from each of the others to the hoarder, before the others write to each other once.
const AT_ONCE: usize = 6;
/// How often all of that happens.
const TIMES: usize = 24;
/// How long a message among the others may take, in simulated milliseconds.
const WITHIN: u64 = 2000;

/// Bounds of a few kilobytes, so that all of them are met.
const SMALL: Settings = Settings {
    session_queue: 12 << 10,
    user_queue: 14 << 10,
    slot_queue: 40 << 10,
    output_queue: 4 << 10,
};

impl World {
    /// Goes on until all receivers of these messages have them, but for the hoarder. Returns what is
    /// wrong if that takes too long.
    fn expect(&mut self, numbers: std::ops::Range<u64>) -> Option<String> {
        let missing = |world: &World| {
            let missing = world.sent.range(numbers.clone()).filter(|(number, sent)| {
                let cover = sent.cover.iter().filter(|who| who.0 != HOARDER);
                let mut all = cover.map(|who| &world.clients[who.0]);
                all.any(|client| !client.got.contains(number))
            });
            let missing: Vec<u64> = missing.map(|(number, _)| *number).collect();
            (!missing.is_empty()).then_some(missing)
        };
        let missing = self.run_until(WITHIN, missing).err()?;
        Some(format!(
            "messages {missing:?} did not come within {WITHIN} ms"
        ))
    }
}

/// Returns what was wrong, and how many sessions ended because too much waited for them.
pub fn a_client_never_reads(seed: u64) -> (Vec<String>, u64) {
    let mut world = World::bounded(seed, false, false, &SMALL);
    let mut wrong = world.come_to_rest();
    let room = world.rooms[0].clone();
    for client in [HOARDER, 0, 3] {
        talk::enter(&mut world, client, &room);
    }
    wrong.extend(world.come_to_rest());
    world.clients[HOARDER].reads = false;
    for round in 0..TIMES {
        for from in OTHERS {
            for _ in 0..AT_ONCE {
                talk::say_to(&mut world, from, HOARDER);
            }
        }
        let first = world.last_number + 1;
        for (at, from) in OTHERS.into_iter().enumerate() {
            let to = OTHERS[(at + 1 + round % (OTHERS.len() - 1)) % OTHERS.len()];
            talk::say_to(&mut world, from, to);
        }
        talk::say_to_room(&mut world, 0, &room);
        talk::acknowledge_all(&mut world);
        let last = world.last_number + 1;
        wrong.extend(world.expect(first..last));
    }
    let overflows = world.hosts.iter().map(|host| host.counters.overflows());
    let overflows = overflows.sum();
    world.clients[HOARDER].reads = true;
    // Sessions of the hoarder have ended, as they should.
    world.given_up = super::check::given_up(&world);
    wrong.extend(world.come_to_rest());
    let said = world
        .sent
        .values()
        .filter(|sent| sent.what == What::Groupchat);
    if said.count() < TIMES {
        wrong.push("too little was said".to_owned());
    }
    (wrong, overflows)
}
