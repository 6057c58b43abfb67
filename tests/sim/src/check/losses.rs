//! Losses are counted. After one fault nothing is given up. After two faults at once something may be
//! missing, but then a counter of what was given up has changed.

use sestina_edge::metrics::Count;

use super::super::world::World;

/// How often something was given up, by all processes, dead ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct GivenUp {
    /// Events that must not happen after one fault, in the order of [`NAMES`].
    never: [u64; 4],
    /// Events that may happen after one fault: a room sends without the state store, a session was unavailable for
    /// too long.
    beside: u64,
}

/// What `GivenUp::never` counts.
const NAMES: [&str; 4] = [
    "stanzas were lost",
    "rooms were rebuilt without their history",
    "queues overflowed",
    "sessions were not known to a new owner",
];

/// What all processes have counted until now.
pub(in super::super) fn given_up(world: &World) -> GivenUp {
    let mut all = GivenUp::default();
    for counters in world.hosts.iter().map(|host| &host.counters) {
        all.never[0] += counters.input_lost();
        all.never[1] += counters.rooms_rebuilt();
        all.never[2] += counters.overflows();
        all.beside += counters.uncommitted_events() + counters.sessions_unknown();
    }
    for edge in &world.edges {
        all.never[0] += edge.count(Count::InputLost);
        all.never[3] += edge.count(Count::NotRestored);
    }
    all
}

/// After one fault, nothing was given up since that was forgiven the last time.
pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    let now = given_up(world);
    let before = world.given_up;
    for ((now, before), what) in now.never.iter().zip(before.never).zip(NAMES) {
        if *now > before {
            wrong.push(format!("{}: {what}", now - before));
        }
    }
}

/// After two faults: the messages that are missing, if no counter has changed.
pub(in super::super) fn silent(world: &World) -> Vec<String> {
    let mut missing = Vec::new();
    super::messages(world, &mut missing);
    if !missing.is_empty() && given_up(world) == world.given_up {
        missing.push("nothing of this was counted".to_owned());
        return missing;
    }
    Vec::new()
}
