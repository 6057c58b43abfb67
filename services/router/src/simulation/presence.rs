//! Who is there, as a worker would tell others.

use super::{Worker, said};

/// Somebody in a room, as others see it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The room.
    pub room: String,
    /// The nick.
    pub nick: String,
    /// The session whose presence others see.
    pub main: u128,
    /// What that presence says.
    pub presence: String,
    /// All sessions under that nick.
    pub sessions: Vec<u128>,
}

/// A session that is available.
#[derive(Clone, Debug)]
pub struct Available {
    /// Its full JID.
    pub jid: String,
    /// Its identity.
    pub session: u128,
    /// What its last presence says.
    pub presence: String,
}

impl Worker {
    /// All who are in its rooms.
    pub fn seen(&self) -> Vec<Seen> {
        let rooms = self.rooms();
        let seen = rooms.flat_map(|room| {
            let name = room.jid().as_str();
            room.seen().map(move |occupant| Seen {
                room: name.to_owned(),
                nick: occupant.nick.clone(),
                main: occupant.main.session,
                presence: said(&occupant.main.presence.payload),
                sessions: occupant.all().collect(),
            })
        });
        seen.collect()
    }

    /// Its sessions that are available.
    pub fn available(&self) -> Vec<Available> {
        let sessions = self.0.slots.iter().flat_map(|slot| slot.sessions.values());
        let live = sessions.filter(|session| session.is_live());
        let available = live.filter_map(|session| {
            Some(Available {
                jid: session.jid.as_str().to_owned(),
                session: session.id,
                presence: said(&session.available.as_ref()?.stanza.payload),
            })
        });
        available.collect()
    }
}
