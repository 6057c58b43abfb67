//! Messages from the offline store come in the order in which they were stored, and in which each sender
//! has sent them, whichever session of the user receives them.
//!
//! The second part is judged for messages to the bare JID only. A session that has not sent its first
//! presence receives messages to its full JID at once, before the stored ones. Those that it does not
//! acknowledge are stored later, behind others that were stored meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use super::super::client::{Came, Client, Received, What, number_in};
use super::super::world::World;

/// A sender, its session, and the address that the messages are for.
type Stream<'a> = (usize, u32, &'a str);

pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    for client in &world.clients {
        within_sessions(world, client, wrong);
        let others = world.clients.iter().filter(|c| c.bare == client.bare);
        if others.count() == 1 {
            across_sessions(world, client, wrong);
        }
    }
}

/// The messages of a client's log that are judged: not those that the database has lost, or whose delivery
/// it has forgotten, because these may come again in any order.
fn judged<'a>(world: &'a World, client: &'a Client) -> impl Iterator<Item = &'a Received> {
    let commits = &world.storage.commits;
    let log = client.log.iter();
    log.filter(move |r| {
        let lost = commits.delivered.contains(&r.number) || commits.stored.contains(&r.number);
        r.what == What::Message && r.number >= world.judged_from && !lost
    })
}

fn stream<'a>(world: &'a World, received: &Received) -> Option<Stream<'a>> {
    let sent = world.sent.get(&received.number)?;
    Some((sent.from, sent.session, sent.to.as_str()))
}

fn is_to_bare((_, _, to): Stream<'_>) -> bool {
    !to.contains('/')
}

/// Within a session, messages from the store come in the order of the store, and those of one sender in
/// the order in which they were sent.
fn within_sessions(world: &World, client: &Client, wrong: &mut Vec<String>) {
    let places = world.storage.offline_places(&client.bare);
    let mut last: BTreeMap<(u32, Stream<'_>), ((u64, u64), u64)> = BTreeMap::new();
    for received in judged(world, client).filter(|r| r.came == Came::Stored) {
        let number = received.number;
        let Some(place) = places.get(&number) else {
            wrong.push(format!(
                "c{}: m{number} came from the store, which has never had it",
                client.index
            ));
            continue;
        };
        let Some(stream) = stream(world, received) else {
            continue;
        };
        let before = last.entry((received.session, stream)).or_default();
        let overtaken = is_to_bare(stream) && number < before.1;
        if *place < before.0 || overtaken {
            wrong.push(format!(
                "c{}: stored m{number} at {place:?} came after m{} at {:?}",
                client.index, before.1, before.0
            ));
        }
        *before = (*before).max((*place, number));
    }
}

/// Over all sessions of a user with one resource, messages come in the order in which they were sent. A
/// message that a session did not acknowledge comes again, and so do all later ones: of each, only the
/// last time counts.
fn across_sessions(world: &World, client: &Client, wrong: &mut Vec<String>) {
    // What waits in the store will come again.
    let stored = world.storage.offline_all(&client.bare);
    let waits: BTreeSet<u64> = stored
        .filter_map(|row| number_in(row.stanza.as_ref()))
        .collect();
    let mut last: BTreeMap<u64, &Received> = BTreeMap::new();
    for received in judged(world, client).filter(|r| !waits.contains(&r.number)) {
        last.insert(received.number, received);
    }
    let mut in_order: Vec<&Received> = last.into_values().collect();
    in_order.sort_by_key(|received| received.when.step);
    let unread = world.storage.unread.contains(&client.bare);
    let mut newest: BTreeMap<(Stream<'_>, bool), u64> = BTreeMap::new();
    for received in in_order {
        let stream = stream(world, received);
        let Some(stream) = stream.filter(|stream| is_to_bare(*stream)) else {
            continue;
        };
        // When the store could not be read, new messages go to the session before stored ones.
        let apart = unread && received.came == Came::Stored;
        let newest = newest.entry((stream, apart)).or_default();
        if received.number < *newest {
            wrong.push(format!(
                "c{}: m{} ({:?}) was given for the last time after m{newest}",
                client.index, received.number, received.came
            ));
        }
        *newest = received.number.max(*newest);
    }
}
