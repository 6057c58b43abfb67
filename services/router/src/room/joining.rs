//! Entering a room with more presences than are sent to a newcomer at once. The presences of the
//! occupants are sent in parts, each when the owner of the session has passed on the part before
//! it.
//!
//! The session is in after the last part. Until then it gets changes of the occupants, but no
//! messages. No copy of this state is kept: the request is not settled before the end, so a new
//! owner of the room gets it again and begins anew.

use std::ops::Bound;

use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::input::Origin;
use super::occupant::{Role, RoomSession};
use super::state::{Broadcast, Room};
use crate::worker::core::Core;
use crate::worker::operations::OperationId;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

/// Bytes of presences that are sent at once.
const PART_BYTES: usize = 256 << 10;

/// A session that is entering and is sent the occupants in parts.
#[derive(Debug)]
pub(crate) struct Joining {
    hand: InHand,
    origin: Origin,
    nick: String,
    stanza: Stanza,
    /// As a receiver of events.
    me: RoomSession,
    /// Occupants up to this nick were sent.
    after: Option<String>,
    /// The event with the last part.
    part: u64,
}

impl Joining {
    /// Whether it is that session that enters.
    pub(super) fn is_of(&self, session: u128) -> bool {
        self.me.session == session
    }
}

impl Room {
    /// Whether the presences of the others are more than is sent at once.
    pub(super) fn is_told_in_parts(&self, nick: &str) -> bool {
        let others = self.occupants.values().filter(|o| o.nick != nick);
        let bytes: usize = others.map(|o| o.main.presence.payload.len()).sum();
        bytes > PART_BYTES
    }

    /// Sessions that are not in, and hear what changes among the occupants.
    pub(super) fn newcomers(&self) -> impl Iterator<Item = &RoomSession> {
        let all = self.joining.iter().map(|joining| &joining.me);
        all.filter(|me| !self.by_session.contains_key(&me.session))
    }

    /// Whether a session is being sent the occupants before it is in.
    pub(super) fn is_joining(&self, session: u128) -> bool {
        self.joining.iter().any(|j| j.me.session == session)
    }

    /// The operations of requests to enter.
    pub(crate) fn joining_operations(&self) -> impl Iterator<Item = OperationId> {
        self.joining.iter().map(|joining| joining.hand.operation)
    }

    /// Sessions whose last part was this event.
    pub(super) fn told_by(&self, event: u64) -> Vec<(u16, u128)> {
        let told = self.joining.iter().filter(|joining| joining.part == event);
        told.map(|joining| (joining.me.slot, joining.me.session))
            .collect()
    }

    /// The next part of the occupants for a session; none if it was sent all.
    fn next_part(&mut self, session: u128) -> Option<Broadcast> {
        let at = self.joining.iter().position(|j| j.me.session == session)?;
        let joining = self.joining.get(at)?;
        let known = self.occupants.get(&joining.nick);
        let moderator = known.is_some_and(|o| o.role == Role::Moderator);
        let after = joining.after.as_deref();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut broadcast = Broadcast::default();
        let (mut bytes, mut last) = (0, None);
        let rest = self.occupants.range::<str, _>((after, Bound::Unbounded));
        for (_, other) in rest.filter(|(nick, _)| **nick != joining.nick) {
            let presence = self.presence_of(other, &other.main, moderator, &[]);
            bytes += presence.payload.len();
            broadcast.add(presence, [&joining.me]);
            last = Some(other.nick.clone());
            if bytes >= PART_BYTES {
                break;
            }
        }
        self.joining.get_mut(at)?.after = Some(last?);
        Some(broadcast)
    }
}

impl Slot {
    /// Begins to send a session the occupants, before it is in itself.
    pub(super) fn room_joins_in_parts(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        room_jid: &Jid,
        nick: String,
        stanza: Stanza,
    ) {
        self.room_joining_ends(core, room_jid, origin.session);
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        core.operations.part(hand.operation);
        let session = origin.session;
        let me = RoomSession {
            jid: origin.jid.clone(),
            session,
            slot: origin.slot,
            presence: Stanza::new(stanza.kind),
            seq: 0,
        };
        room.joining.push(Joining {
            hand,
            origin,
            nick,
            stanza,
            me,
            after: None,
            part: 0,
        });
        self.room_tells_on(core, room_jid, session);
    }

    /// Sends a session the next part; after the last one it is in.
    pub(super) fn room_tells_on(&mut self, core: &mut Core, room_jid: &Jid, session: u128) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        if let Some(broadcast) = room.next_part(session) {
            self.room_emit(core, room_jid, broadcast, None, None);
            if let Some(room) = self.rooms.get_mut(room_jid) {
                let mut joining = room.joining.iter_mut();
                if let Some(joining) = joining.find(|j| j.me.session == session) {
                    joining.part = room.seq;
                }
            }
            return;
        }
        let Some(at) = room.joining.iter().position(|j| j.me.session == session) else {
            return;
        };
        let Joining {
            hand,
            origin,
            nick,
            stanza,
            ..
        } = room.joining.remove(at);
        self.room_enters(core, hand, origin, room_jid, nick, stanza, true);
        core.part_done(hand.operation);
    }

    /// A session that was being sent the occupants does not enter any more, or is gone.
    pub(super) fn room_joining_ends(&mut self, core: &mut Core, room_jid: &Jid, session: u128) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        for joining in room.joining.extract_if(.., |j| j.me.session == session) {
            core.part_done(joining.hand.operation);
        }
    }

    /// The slot is given away: requests to enter that are under way go to the next owner.
    pub(crate) fn rooms_refuse_joining(&mut self, core: &mut Core) {
        let rooms = self.rooms.values_mut();
        let joining: Vec<Joining> = rooms.flat_map(|r| std::mem::take(&mut r.joining)).collect();
        for joining in joining {
            core.operations.cancel(joining.hand.operation);
            self.refuse_open(core, joining.hand);
        }
    }
}

#[cfg(test)]
#[path = "joining_tests.rs"]
mod tests;
