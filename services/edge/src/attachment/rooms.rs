//! Which sessions are in which rooms. A room's owner knows it, and so does the shadow; when both
//! are lost at once, edges tell a new owner.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::split;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::hands::{Hands, Lock as _};
use super::state::Session;

/// By handle.
type Sessions<H> = BTreeMap<u64, Arc<Session<H>>>;

/// By slot and bare JID of the room.
type Inside<H> = BTreeMap<(u16, String), Sessions<H>>;

/// See the module. Its lock comes after those of slots, and never together with a session's.
pub struct Rooms<H: Hands> {
    inside: H::Lock<Inside<H>>,
}

impl<H: Hands> Default for Rooms<H> {
    fn default() -> Rooms<H> {
        Rooms {
            inside: H::Lock::new(Inside::new()),
        }
    }
}

impl<H: Hands> Rooms<H> {
    /// The owner gave a session another record.
    pub fn changed(&self, hands: &H, session: &Arc<Session<H>>, before: &Bytes, now: &Bytes) {
        let (before, now) = (names(before), names(now));
        if before == now {
            return;
        }
        let key = |room: &String| (hands.slot_of_room(&Jid::from_wire(room)), room.clone());
        let mut inside = self.inside.lock();
        for room in before.iter().filter(|room| !now.contains(room)) {
            let key = key(room);
            if let Some(sessions) = inside.get_mut(&key) {
                sessions.remove(&session.handle);
                if sessions.is_empty() {
                    inside.remove(&key);
                }
            }
        }
        for room in now.iter().filter(|room| !before.contains(room)) {
            let sessions = inside.entry(key(room)).or_default();
            sessions.insert(session.handle, Arc::clone(session));
        }
    }

    /// Nobody is in any room.
    pub fn clear(&self) {
        self.inside.lock().clear();
    }

    /// The rooms of a slot in which somebody is.
    pub fn of_slot(&self, slot: u16) -> Vec<String> {
        let inside = self.inside.lock();
        inside
            .range((slot, String::new())..)
            .take_while(|((of, _), _)| *of == slot)
            .map(|((_, room), _)| room.clone())
            .collect()
    }

    /// Who is in these rooms of a slot, in parts.
    pub fn members(&self, hands: &H, slot: u16, rooms: Vec<String>) -> Vec<proto::RoomMembers> {
        let mut parts = Vec::new();
        let mut part = proto::RoomMembers {
            more: true,
            ..proto::RoomMembers::default()
        };
        let mut bytes = 0;
        for room in rooms {
            let key = (slot, room);
            let sessions: Vec<Arc<Session<H>>> = self
                .inside
                .lock()
                .get(&key)
                .map(|sessions| sessions.values().cloned().collect())
                .unwrap_or_default();
            for membership in sessions.iter().filter_map(|s| membership(s, &key.1)) {
                bytes += membership.encoded_len();
                part.members.push(membership);
                if bytes > hands.limits().members_part {
                    bytes = 0;
                    let members = std::mem::take(&mut part.members);
                    parts.push(proto::RoomMembers {
                        members,
                        more: true,
                    });
                }
            }
        }
        part.more = false;
        parts.push(part);
        parts
    }
}

/// The rooms that a record names.
fn names(record: &Bytes) -> Vec<String> {
    let rooms = proto::SessionRooms::decode(record.clone()).unwrap_or_default();
    rooms.joined.into_iter().map(|joined| joined.room).collect()
}

/// What a session knows of itself in a room; none if the room has not let it in.
fn membership<H: Hands>(session: &Session<H>, room: &str) -> Option<proto::RoomMembership> {
    let record = session.state.lock().record.clone();
    let state = proto::SessionState::decode(record).ok()?;
    let joined = state.joined.into_iter().find(|j| j.room == room)?;
    let (session_hi, session_lo) = split(session.nonce);
    Some(proto::RoomMembership {
        room: joined.room,
        member: Some(joined.member?),
        jid: session.jid.to_string(),
        session_hi,
        session_lo,
        slot: session.slot.into(),
    })
}
