//! Rooms deliver everything to all occupants. A client that was in a room from one rest to the next has
//! received all messages that were sent there between, once and in one order. A client that entered or
//! left meanwhile has received a part of them without gaps; the history that the room sends to a new
//! occupant is the first of that part.

use std::collections::BTreeSet;

use super::super::client::Client;
use super::super::heard::Stay;
use super::super::world::World;

pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    for room in &world.rooms {
        let stays = |client: &Client| {
            client.login.settled_in
                && client.is_online()
                && client.login.rooms_settled.contains(room)
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

/// The messages that were sent since the last rest, and are judged.
fn judged(world: &World, said: &[u64]) -> Vec<u64> {
    let from = world.judged_from.max(world.round_from);
    said.iter().copied().filter(|n| *n >= from).collect()
}

/// The part of a client that entered goes on to the end; that of a client that left may end anywhere.
fn piece(world: &World, client: &Client, stay: &Stay, whole: &[u64], wrong: &mut Vec<String>) {
    let mut heard = judged(world, &stay.history);
    heard.extend(judged(world, &stay.said));
    let stays = !stay.over;
    let fits = match stays {
        true => whole.ends_with(&heard),
        false => heard.is_empty() || whole.windows(heard.len()).any(|piece| piece == heard),
    };
    // Unless the history is full, it has everything from before the client entered.
    let full = stay.history.len() >= world.config.limits.room_history;
    let lacks = stays && !full && heard.len() < whole.len();
    if !fits || lacks {
        wrong.push(format!(
            "{}: c{} was there for a part (over: {}) and got {heard:?} of {whole:?}",
            stay.room, client.index, stay.over
        ));
    }
}

/// The room has sent every message whose acceptance its sender was told.
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
