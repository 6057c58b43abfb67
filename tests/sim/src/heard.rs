//! What a client has been told of others: who is there, with which presence, and what was said in rooms.

use std::collections::BTreeMap;

use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;

use super::client::Came;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The last presence from each address that is there.
    pub(super) presences: BTreeMap<String, String>,
    /// Its times in rooms, in order.
    pub(super) stays: Vec<Stay>,
}

/// A client's time in a room, from when the room let it in.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) room: String,
    pub(super) over: bool,
    /// What the room had in its history.
    pub(super) history: Vec<u64>,
    /// What was said since.
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

/// What a presence says of its sender, without what rooms and servers add.
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
    fn stay(&mut self, room: &str) -> Option<&mut Stay> {
        let mut stays = self.stays.iter_mut().rev();
        stays.find(|stay| stay.room == room && !stay.over)
    }

    /// A presence came; `own` is the client's own in a room, `renamed` if it goes on there under another
    /// nick.
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
                    self.presences.retain(|from, _| room_of(from) != room);
                    if let Some(stay) = self.stay(&room) {
                        stay.over = true;
                    }
                }
            }
            _ => {}
        }
    }

    /// A room has said something.
    pub(super) fn said(&mut self, from: &str, number: u64, came: Came) {
        let room = room_of(from);
        let history = came == Came::History;
        // Who enters again is told again what was said before.
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
