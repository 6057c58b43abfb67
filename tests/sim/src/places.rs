//! Which sessions are in which rooms: the owner of a room, the owners of the sessions and the clients must
//! agree on that.

use std::collections::BTreeMap;

use super::client::Client;
use super::world::World;
use sestina_router::simulation::{Place, Worker};

/// The places of sessions in rooms.
type Places = BTreeMap<(String, u128), Place>;

fn places(world: &World, of: impl Fn(&Worker) -> Vec<((String, u128), Place)>) -> Places {
    world.running_workers().flat_map(of).collect()
}

/// Finds rooms, sessions and clients that do not agree.
pub(super) fn check(world: &World, wrong: &mut Vec<String>) {
    let inside = places(world, Worker::places);
    let believed = places(world, Worker::believed_places);
    for (at, place) in &inside {
        match believed.get(at) {
            Some(other) if other == place => {}
            other => wrong.push(format!(
                "{} has {} as {place:?}; the session says {other:?}",
                at.0,
                name(world, at.1)
            )),
        }
    }
    without(world, &inside, &believed, wrong);
    for client in world.clients.iter().filter(|c| c.is_online()) {
        client_knows(client, &inside, wrong);
    }
}

/// Lists the rooms that lack an occupant whose owner holds its session to be in.
pub(super) fn missed(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    let inside = places(world, Worker::places);
    let believed = places(world, Worker::believed_places);
    without(world, &inside, &believed, &mut wrong);
    wrong
}

fn without(world: &World, inside: &Places, believed: &Places, wrong: &mut Vec<String>) {
    for (at, place) in believed.iter().filter(|(at, _)| !inside.contains_key(at)) {
        wrong.push(format!(
            "{} does not have {}, whose session is in as {place:?}",
            at.0,
            name(world, at.1)
        ));
    }
}

fn client_knows(client: &Client, inside: &Places, wrong: &mut Vec<String>) {
    let at = format!("c{} ({:04x})", client.index, client.session & 0xffff);
    for room in client.login.rooms_inside() {
        match inside.get(&(room.clone(), client.session)) {
            None => wrong.push(format!("{at} is in {room}, which does not have it")),
            Some(place) if format!("{room}/{}", place.nick) != client.address_in(room) => {
                let address = client.address_in(room);
                wrong.push(format!("{at} is {address}, but {} there", place.nick));
            }
            Some(_) => {}
        }
    }
    let rooms = inside.keys().filter(|(_, s)| *s == client.session);
    for (room, _) in rooms.filter(|(room, _)| !client.login.rooms.contains_key(room)) {
        wrong.push(format!("{at} is not in {room}, which has it"));
    }
}

/// A session for people: its client, if that still has it.
fn name(world: &World, session: u128) -> String {
    let mut clients = world.clients.iter();
    match clients.find(|c| c.session == session) {
        Some(client) => format!("c{} ({:04x})", client.index, session & 0xffff),
        None => format!("{session:032x}, whose client is gone"),
    }
}
