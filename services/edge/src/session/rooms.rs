//! Which sessions are in which rooms. A room's owner knows it, and so does the shadow; when both
//! are lost at once, edges tell a new owner.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use sestina_api::key::split;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::state::Session;

/// Bytes of one part of an answer.
const PART: usize = 256 * 1024;

/// By handle.
type Sessions = HashMap<u64, Arc<Session>>;

/// See the module. Its lock comes after those of slots, and never together with a session's.
#[derive(Default)]
pub(crate) struct Rooms {
    /// By slot and bare JID of the room.
    inside: Mutex<BTreeMap<(u16, String), Sessions>>,
}

impl Rooms {
    /// The owner gave a session another record.
    pub(crate) fn changed(
        &self,
        session: &Arc<Session>,
        before: &Bytes,
        now: &Bytes,
        slot_of: impl Fn(&Jid) -> u16,
    ) {
        let (before, now) = (names(before), names(now));
        if before == now {
            return;
        }
        let key = |room: &String| (slot_of(&Jid::from_wire(room)), room.clone());
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

    /// The rooms of a slot in which somebody is.
    pub(crate) fn of_slot(&self, slot: u16) -> Vec<String> {
        let inside = self.inside.lock();
        inside
            .range((slot, String::new())..)
            .take_while(|((of, _), _)| *of == slot)
            .map(|((_, room), _)| room.clone())
            .collect()
    }

    /// Who is in these rooms of a slot, in parts.
    pub(crate) fn members(&self, slot: u16, rooms: Vec<String>) -> Vec<proto::RoomMembers> {
        let mut parts = Vec::new();
        let mut part = proto::RoomMembers {
            more: true,
            ..proto::RoomMembers::default()
        };
        let mut bytes = 0;
        for room in rooms {
            let key = (slot, room);
            let sessions: Vec<Arc<Session>> = self
                .inside
                .lock()
                .get(&key)
                .map(|sessions| sessions.values().cloned().collect())
                .unwrap_or_default();
            for membership in sessions.iter().filter_map(|s| membership(s, &key.1)) {
                bytes += membership.encoded_len();
                part.members.push(membership);
                if bytes > PART {
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
fn membership(session: &Session, room: &str) -> Option<proto::RoomMembership> {
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
