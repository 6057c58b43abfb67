//! The occupants of rooms and the available sessions, with the presences that a worker sends to others.

use super::{Worker, said};

/// An occupant of a room, as other occupants see it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The JID of the room.
    pub room: String,
    /// The nick of the occupant.
    pub nick: String,
    /// The identity of the session whose presence other occupants see.
    pub main: u128,
    /// The payload of that presence.
    pub presence: String,
    /// The identities of all sessions under that nick.
    pub sessions: Vec<u128>,
}

/// A session that is available.
#[derive(Clone, Debug)]
pub struct Available {
    /// Its full JID.
    pub jid: String,
    /// Its identity.
    pub session: u128,
    /// The payload of its last presence.
    pub presence: String,
}

impl Worker {
    /// All occupants of its rooms.
    pub fn seen(&self) -> Vec<Seen> {
        let rooms = self.rooms();
        let seen = rooms.flat_map(|room| {
            let name = room.jid().as_str();
            room.room().seen().map(move |occupant| Seen {
                room: name.to_owned(),
                nick: occupant.nick.clone(),
                main: occupant.main.session,
                presence: said(&occupant.main.presence.payload),
                sessions: occupant.all().collect(),
            })
        });
        seen.collect()
    }

    /// Those of its sessions that are available.
    pub fn available(&self) -> Vec<Available> {
        let available = self.live_sessions().filter_map(|session| {
            Some(Available {
                jid: session.channel.jid.as_str().to_owned(),
                session: session.channel.id,
                presence: said(&session.client.available.as_ref()?.stanza.payload),
            })
        });
        available.collect()
    }
}
