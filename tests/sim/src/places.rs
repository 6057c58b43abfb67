//! Who is in which room: to the room's owner, to the owner of the session, and to the client. And what
//! is judged no more after more than one fault.

use std::collections::BTreeMap;

use super::client::Client;
use super::world::World;
use sestina_router::simulation::{Place, Worker};

impl World {
    /// What was said until now may have been lost, and what was asked may have no answer.
    pub(super) fn forgive(&mut self) {
        self.note(|| "== from here on all is judged".to_owned());
        self.judged_from = self.last_number + 1;
        self.trouble = super::check::silent(self);
        self.given_up = super::check::given_up(self);
        self.misjudged = super::check::misjudged(self);
        for client in &mut self.clients {
            client.asking.clear();
            client.pages.clear();
            client.rooms.retain(|_, inside| *inside);
        }
        for edge in &mut self.edges {
            edge.forgive();
        }
    }
}

/// By room and session.
type Places = BTreeMap<(String, u128), Place>;

fn places(world: &World, of: impl Fn(&Worker) -> Vec<((String, u128), Place)>) -> Places {
    let running = world.hosts.iter().filter(|host| host.is_running());
    running.flat_map(|h| &h.workers).flat_map(of).collect()
}

/// All must agree on who is in which room, and how.
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
    for (at, place) in believed.iter().filter(|(at, _)| !inside.contains_key(at)) {
        wrong.push(format!(
            "{} does not have {}, whose session is in as {place:?}",
            at.0,
            name(world, at.1)
        ));
    }
    for client in world.clients.iter().filter(|c| c.is_online()) {
        client_knows(client, &inside, wrong);
    }
}

fn client_knows(client: &Client, inside: &Places, wrong: &mut Vec<String>) {
    let at = format!("c{} ({:04x})", client.index, client.session & 0xffff);
    for (room, _) in client.rooms.iter().filter(|(_, inside)| **inside) {
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
    for (room, _) in rooms.filter(|(room, _)| !client.rooms.contains_key(room)) {
        wrong.push(format!("{at} is not in {room}, which has it"));
    }
}

fn name(world: &World, session: u128) -> String {
    let mut clients = world.clients.iter();
    match clients.find(|c| c.session == session) {
        Some(client) => format!("c{} ({:04x})", client.index, session & 0xffff),
        None => format!("{session:032x}, whose client is gone"),
    }
}
