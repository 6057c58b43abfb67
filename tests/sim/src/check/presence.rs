//! Each client knows exactly those sessions of its user and occupants of its rooms that are available,
//! with the last presence of each.

use std::collections::BTreeMap;

use sestina_router::simulation::{Seen, Worker};

use super::super::client::Client;
use super::super::world::{MUC, World};
use super::bare;

/// A client, its login, and the address whose presence it is wrong about.
pub(in super::super) type Misjudged = (usize, u32, String);

/// What presences say, by address.
type Presences = BTreeMap<String, String>;

/// Everything that clients are wrong about, unless it is forgiven; each with a text.
pub(super) fn wrong(world: &World) -> Vec<(Misjudged, String)> {
    let mut all = misjudged(world);
    all.retain(|(misjudged, _)| !world.misjudged.contains(misjudged));
    all
}

/// The same with what is forgiven.
pub(super) fn misjudged(world: &World) -> Vec<(Misjudged, String)> {
    let rooms: Vec<Seen> = world.running_workers().flat_map(Worker::seen).collect();
    let mut all = Vec::new();
    for client in world.clients.iter().filter(|c| c.is_online()) {
        let mut right = of_user(world, client);
        right.extend(in_rooms(client, &rooms));
        compare(client, &right, &rooms, &mut all);
    }
    said_last(world, &rooms, &mut all);
    all
}

/// What a client should know of its user's sessions, its own among them (RFC 6121 §4.2.2): nothing before
/// it is available.
fn of_user(world: &World, client: &Client) -> Presences {
    let all: Vec<_> = world
        .running_workers()
        .flat_map(Worker::available)
        .collect();
    if !all.iter().any(|other| other.session == client.session) {
        return Presences::new();
    }
    let own = all
        .into_iter()
        .filter(|other| bare(&other.jid) == client.bare);
    own.map(|other| (other.jid, other.presence)).collect()
}

/// What a client should know of the occupants of rooms that it is in.
fn in_rooms(client: &Client, rooms: &[Seen]) -> Presences {
    let mine = |room: &str| {
        let mut there = rooms.iter().filter(|seen| seen.room == room);
        there.any(|seen| seen.sessions.contains(&client.session))
    };
    let seen = rooms.iter().filter(|seen| mine(&seen.room));
    seen.map(|seen| {
        let address = format!("{}/{}", seen.room, seen.nick);
        (address, seen.presence.clone())
    })
    .collect()
}

/// Compares what a client believes with what is `right`.
fn compare(client: &Client, right: &Presences, rooms: &[Seen], all: &mut Vec<(Misjudged, String)>) {
    let at = |address: &String| (client.index, client.session_no, address.clone());
    let believed = &client.heard.presences;
    for (address, presence) in right {
        // Several sessions under its own nick: the client may have been told the presence of another one.
        let shared = rooms.iter().any(|seen| {
            let own = seen.sessions.len() > 1 && seen.sessions.contains(&client.session);
            own && *address == format!("{}/{}", seen.room, seen.nick)
        });
        let other = match believed.get(address) {
            Some(other) if other == presence || shared => continue,
            other => other,
        };
        let text = format!(
            "c{}: {address} is there with {presence:?}, and it was told {other:?}",
            client.index
        );
        all.push((at(address), text));
    }
    for (address, presence) in believed {
        // What it was told of a room that it has left does not count.
        let room = bare(address);
        let stranger = room.ends_with(MUC) && !client.login.rooms.contains_key(room);
        if !right.contains_key(address) && !stranger {
            let text = format!(
                "c{}: {address} is not there, and it was told {presence:?}",
                client.index
            );
            all.push((at(address), text));
        }
    }
}

/// Compares the presences that rooms and owners of sessions show with those that clients sent last.
fn said_last(world: &World, rooms: &[Seen], all: &mut Vec<(Misjudged, String)>) {
    let available: Vec<_> = world
        .running_workers()
        .flat_map(Worker::available)
        .collect();
    for client in world.clients.iter().filter(|c| c.is_online()) {
        let own = available.iter().filter(|a| a.session == client.session);
        let own = own.map(|a| (String::new(), &a.presence));
        let inside = rooms.iter().filter(|seen| seen.main == client.session);
        let inside = inside.map(|seen| (seen.room.clone(), &seen.presence));
        for (place, presence) in own.chain(inside) {
            let last = client.login.shows.get(&place);
            if last != Some(presence) {
                let text = format!(
                    "c{} is shown in {place:?} with {presence:?}; it said {last:?} last",
                    client.index
                );
                let at = format!("says {place}");
                all.push(((client.index, client.session_no, at), text));
            }
        }
    }
}
