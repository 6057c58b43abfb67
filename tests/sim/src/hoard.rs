//! A client that never reads, and is sent much: it fills what it may fill, and harms nobody.

use super::client::What;
use super::talk;
use super::world::{Settings, World};

/// The client that does not read.
const HOARDER: usize = 6;
/// Those who go on talking. One of them has its slot, one is in the same rooms.
const OTHERS: [usize; 5] = [0, 2, 3, 5, 8];
/// Messages for the hoarder from each of the others, between two messages among these.
const AT_ONCE: usize = 6;
/// How often.
const TIMES: usize = 24;
/// What the others say to each other arrives within so many simulated milliseconds.
const WITHIN: u64 = 2000;

/// What is held is a few kilobytes, so that all bounds are met.
const SMALL: Settings = Settings {
    session_queue: 12 << 10,
    user_queue: 14 << 10,
    slot_queue: 40 << 10,
    output_queue: 4 << 10,
};

impl World {
    /// Runs until these messages have come to whom they were for; says which did not, in time.
    fn expect(&mut self, numbers: std::ops::Range<u64>) -> Vec<String> {
        let end = self.now + WITHIN;
        loop {
            let missing = self.sent.range(numbers.clone()).filter(|(number, sent)| {
                let cover = sent.cover.iter().filter(|who| who.0 != HOARDER);
                let mut all = cover.map(|who| &self.clients[who.0]);
                all.any(|client| !client.got.contains(number))
            });
            let missing: Vec<u64> = missing.map(|(number, _)| *number).collect();
            if missing.is_empty() {
                return Vec::new();
            }
            if self.now > end {
                return vec![format!(
                    "messages {missing:?} did not come within {WITHIN} ms"
                )];
            }
            self.step();
        }
    }
}

/// What was wrong, and how many sessions ended because too much waited for them.
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
    // Its sessions have ended, as they should.
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
