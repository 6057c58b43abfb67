//! What a client has been told of others: their presences, and the messages of rooms.

use std::collections::{BTreeMap, BTreeSet};

use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;

use super::client::Came;
use super::world::MUC;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The last presence from each address that is available.
    pub(super) presences: BTreeMap<String, String>,
    /// Its stays in rooms, in order.
    pub(super) stays: Vec<Stay>,
}

/// A stay of a client in a room, from when the room has let it in.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) room: String,
    pub(super) over: bool,
    /// The numbers of messages that came from the room's history.
    pub(super) history: Vec<u64>,
    /// The numbers of messages that were sent since.
    pub(super) said: Vec<u64>,
}

impl Stay {
    fn new(room: &str) -> Stay {
        Stay {
            room: room.to_owned(),
            over: false,
            history: Vec::new(),
            said: Vec::new(),
        }
    }
}

/// The elements of a presence that its sender has put into it.
pub(super) fn says(presence: &Stanza) -> String {
    let own = presence
        .children()
        .filter(|child| ![ns::MUC, ns::MUC_USER, ns::DELAY].contains(&child.ns));
    own.map(|child| String::from_utf8_lossy(child.xml).into_owned())
        .collect()
}

fn room_of(address: &str) -> &str {
    address.split('/').next().unwrap_or(address)
}

impl Heard {
    /// The present stay in a room.
    fn stay(&mut self, room: &str) -> Option<&mut Stay> {
        let mut stays = self.stays.iter_mut().rev();
        stays.find(|stay| stay.room == room && !stay.over)
    }

    /// Takes a presence. `own`: it is the client's own in a room. `renamed`: the client stays there under
    /// another nick.
    pub(super) fn presence(&mut self, stanza: &Stanza, own: bool, renamed: bool) {
        let room = room_of(&stanza.from).to_owned();
        match stanza.type_.as_str() {
            "" => {
                self.presences.insert(stanza.from.clone(), says(stanza));
                if own && self.stay(&room).is_none() {
                    self.stays.push(Stay::new(&room));
                }
            }
            "unavailable" => {
                self.presences.remove(&stanza.from);
                if own && !renamed {
                    self.leaves(&room);
                }
            }
            _ => {}
        }
    }

    /// It is not in the room any more.
    fn leaves(&mut self, room: &str) {
        self.presences.retain(|from, _| room_of(from) != room);
        if let Some(stay) = self.stay(room) {
            stay.over = true;
        }
    }

    /// It is in these rooms: the answers to a client that has left others were lost.
    pub(super) fn is_only_in(&mut self, rooms: &BTreeMap<String, bool>) {
        let of_presences = self.presences.keys().map(|from| room_of(from));
        let of_stays = self.stays.iter().map(|stay| stay.room.as_str());
        let known = of_presences.filter(|room| room.ends_with(MUC));
        let known: BTreeSet<String> = known.chain(of_stays).map(str::to_owned).collect();
        for room in known.iter().filter(|room| !rooms.contains_key(*room)) {
            self.leaves(room);
        }
    }

    /// Takes a message of a room.
    pub(super) fn said(&mut self, from: &str, number: u64, came: Came) {
        let room = room_of(from);
        let history = came == Came::History;
        // A history after other messages, or for the second time, begins a new stay.
        let again =
            |stay: &Stay| history && (stay.history.contains(&number) || !stay.said.is_empty());
        if let Some(stay) = self.stay(room).filter(|stay| again(stay)) {
            stay.over = true;
            self.stays.push(Stay::new(room));
        }
        match self.stay(room) {
            Some(stay) if history => stay.history.push(number),
            Some(stay) => stay.said.push(number),
            None => {}
        }
    }

    /// The session is over.
    pub(super) fn forget(&mut self) {
        self.presences.clear();
        for stay in &mut self.stays {
            stay.over = true;
        }
    }
}
