//! Which sessions are in which rooms. A room's owner knows it, and so does the state store; but what the
//! state store has may be old, or lost: so edges tell a new owner of all rooms that their sessions are in.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{join, split};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::hands::{Hands, Lock as _};
use super::state::{Phase, Session};

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
        if before == now {
            return;
        }
        let (before, now) = (names(before), names(now));
        let key = |room: &String| (hands.slot_of_room(&Jid::from_wire(room)), room.clone());
        let mut inside = self.inside.lock();
        for room in before.difference(&now) {
            let key = key(room);
            if let Some(sessions) = inside.get_mut(&key) {
                sessions.remove(&session.handle);
                if sessions.is_empty() {
                    inside.remove(&key);
                }
            }
        }
        for room in now.difference(&before) {
            let sessions = inside.entry(key(room)).or_default();
            sessions.insert(session.handle, Arc::clone(session));
        }
    }

    /// Forgets all rooms of all sessions.
    pub fn clear(&self) {
        self.inside.lock().clear();
    }

    /// Which sessions are in rooms of a slot, without their presences: in parts, behind which more
    /// is to come.
    pub fn of_slot(&self, hands: &H, slot: u16) -> Vec<proto::RoomMembers> {
        let mut sessions: BTreeMap<u64, (Arc<Session<H>>, Vec<String>)> = BTreeMap::new();
        {
            let inside = self.inside.lock();
            let rooms = inside.range((slot, String::new())..);
            for ((_, room), here) in rooms.take_while(|((of, _), _)| *of == slot) {
                for (handle, session) in here {
                    let known = sessions.entry(*handle);
                    let (_, rooms) = known.or_insert_with(|| (Arc::clone(session), Vec::new()));
                    rooms.push(room.clone());
                }
            }
        }
        let memberships = sessions.values().flat_map(|(session, rooms)| {
            let mut all = memberships(session, rooms);
            for membership in &mut all {
                let member = membership.member.as_mut();
                let presence = member.and_then(|member| member.presence.take());
                membership.presence_hash = presence.map_or(0, |presence| presence.hash());
            }
            all
        });
        let mut parts = parts(hands, memberships);
        parts.retain(|part| !part.members.is_empty());
        for part in &mut parts {
            part.more = true;
        }
        parts
    }

    /// What these sessions know of themselves in rooms of a slot, in parts.
    pub fn members(
        &self,
        hands: &H,
        slot: u16,
        asked: Vec<proto::AskedMember>,
    ) -> Vec<proto::RoomMembers> {
        let memberships = asked.into_iter().flat_map(|asked| {
            let nonce = join(asked.session_hi, asked.session_lo);
            let key = (slot, asked.room);
            let inside = self.inside.lock();
            let here = inside.get(&key).into_iter().flat_map(BTreeMap::values);
            let of: Vec<Arc<Session<H>>> = here.filter(|s| s.nonce == nonce).cloned().collect();
            drop(inside);
            let rooms = [key.1];
            let all = of.iter().flat_map(|session| memberships(session, &rooms));
            all.collect::<Vec<_>>()
        });
        parts(hands, memberships)
    }
}

/// Cuts memberships into parts of bounded size.
fn parts<H: Hands>(
    hands: &H,
    memberships: impl Iterator<Item = proto::RoomMembership>,
) -> Vec<proto::RoomMembers> {
    let mut parts = Vec::new();
    let (mut members, mut bytes) = (Vec::new(), 0);
    for membership in memberships {
        bytes += membership.encoded_len();
        members.push(membership);
        if bytes > hands.limits().members_part {
            bytes = 0;
            let members = std::mem::take(&mut members);
            parts.push(proto::RoomMembers {
                members,
                more: true,
            });
        }
    }
    parts.push(proto::RoomMembers {
        members,
        more: false,
    });
    parts
}

/// The rooms that a record names.
fn names(record: &Bytes) -> HashSet<String> {
    let rooms = proto::SessionRooms::decode(record.clone()).unwrap_or_default();
    rooms.joined.into_iter().map(|joined| joined.room).collect()
}

/// What a session knows of itself in some rooms: in those that have let it in.
fn memberships<H: Hands>(session: &Session<H>, rooms: &[String]) -> Vec<proto::RoomMembership> {
    let state = session.state.lock();
    let (record, over) = (state.record.clone(), state.phase == Phase::Closed);
    drop(state);
    let Ok(state) = proto::SessionState::decode(record) else {
        return Vec::new();
    };
    let joined = state.joined.into_iter();
    let asked = joined.filter(|joined| rooms.contains(&joined.room));
    let membership = |joined: proto::JoinedRoom| {
        let (session_hi, session_lo) = split(session.nonce);
        Some(proto::RoomMembership {
            room: joined.room,
            member: Some(joined.member?),
            jid: session.jid.to_string(),
            session_hi,
            session_lo,
            slot: session.slot.into(),
            presence_hash: 0,
            nick: joined.nick,
            over,
        })
    };
    asked.filter_map(membership).collect()
}
