//! Rooms tell everybody everything: whoever was in a room from one rest to the next has got all that was
//! said there between, once and in one order; whoever came or went has got a piece of that without gaps,
//! what the room told a newcomer of its history first.

use std::collections::BTreeSet;

use super::super::client::Client;
use super::super::heard::Stay;
use super::super::world::World;

pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    for room in &world.rooms {
        let stays = |client: &Client| {
            client.settled_in && client.is_online() && client.rooms_settled.contains(room)
        };
        let of_all: Vec<(&Client, &Stay)> = world
            .clients
            .iter()
            .flat_map(|c| c.heard.stays.iter().map(move |stay| (c, stay)))
            .filter(|(_, stay)| stay.room == *room)
            .collect();
        let (whole, parts): (Vec<_>, Vec<_>) = of_all
            .into_iter()
            .partition(|(client, stay)| !stay.over && stays(client));
        let Some((first, stay)) = whole.first() else {
            continue;
        };
        let said = judged(world, &stay.said);
        for (client, stay) in &whole {
            let other = judged(world, &stay.said);
            if other != said {
                wrong.push(format!(
                    "{room}: c{} was there all the time and got {said:?}, c{} {other:?}",
                    first.index, client.index
                ));
            }
        }
        for (client, stay) in &parts {
            piece(world, client, stay, &said, wrong);
        }
        accepted(world, room, &said, wrong);
    }
}

/// What was said since the last rest.
fn judged(world: &World, said: &[u64]) -> Vec<u64> {
    let from = world.judged_from.max(world.round_from);
    said.iter().copied().filter(|n| *n >= from).collect()
}

/// A newcomer's piece goes on to the end; that of one who left ends somewhere.
fn piece(world: &World, client: &Client, stay: &Stay, whole: &[u64], wrong: &mut Vec<String>) {
    let mut heard = judged(world, &stay.history);
    heard.extend(judged(world, &stay.said));
    let stays = !stay.over;
    let fits = match stays {
        true => whole.ends_with(&heard),
        false => heard.is_empty() || whole.windows(heard.len()).any(|piece| piece == heard),
    };
    // All that was said is in the history, unless it is full.
    let full = stay.history.len() >= world.config.room_history;
    let lacks = stays && !full && heard.len() < whole.len();
    if !fits || lacks {
        wrong.push(format!(
            "{}: c{} was there for a part (over: {}) and got {heard:?} of {whole:?}",
            stay.room, client.index, stay.over
        ));
    }
}

/// What a client knows to be accepted was said.
fn accepted(world: &World, room: &str, whole: &[u64], wrong: &mut Vec<String>) {
    let said: BTreeSet<u64> = whole.iter().copied().collect();
    let from = world.judged_from.max(world.round_from);
    for (number, sent) in world.sent.range(from..) {
        let inside = sent.to == room && sent.accepted && !sent.cover.is_empty();
        if inside && !said.contains(number) && !super::bounced(world, *number, sent) {
            wrong.push(format!("{room}: m{number} {sent:?} was never said"));
        }
    }
}
