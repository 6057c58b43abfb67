//! Requests to enter a room that are under way: their sessions are being told the occupants in parts.
//!
//! No copy of this state is kept: the request is not settled before the end, so a new owner of the room gets it again
//! and begins anew.

use sestina_xmpp::jid::Jid;

use super::owned::OwnedRoom;
use crate::domain::room::{Broadcast, Home};
use crate::worker::core::Core;
use crate::worker::operations::OperationId;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

/// A request to enter that is under way.
#[derive(Debug)]
pub(super) struct Joining {
    hand: InHand,
    /// The slot of the session.
    slot: u16,
    /// The event with the last part that was sent.
    part: u64,
}

impl OwnedRoom {
    /// The operations of requests to enter.
    pub(crate) fn joining_operations(&self) -> impl Iterator<Item = OperationId> {
        self.joining.values().map(|joining| joining.hand.operation)
    }

    /// Removes the requests of sessions that are not entering any more. Returns their operations.
    pub(super) fn joining_over(&mut self) -> Vec<OperationId> {
        let (room, mut over) = (&self.room, Vec::new());
        self.joining.retain(|session, joining| {
            let goes_on = room.is_entering(*session);
            if !goes_on {
                over.push(joining.hand.operation);
            }
            goes_on
        });
        over
    }

    /// Sessions whose last part was this event.
    pub(super) fn told_by(&self, event: u64) -> Vec<(u16, u128)> {
        let told = self.joining.iter();
        let told = told.filter(|(_, joining)| joining.part == event);
        told.map(|(session, joining)| (joining.slot, *session))
            .collect()
    }
}

impl Slot {
    /// Sends a session the first part of the occupants.
    pub(super) fn room_joins_in_parts(
        &mut self,
        core: &mut Core,
        hand: InHand,
        room: &Jid,
        (session, home): (u128, Home),
        first: Broadcast,
    ) {
        core.operations.part(hand.operation);
        if let Some(this) = self.rooms.get_mut(room) {
            let joining = Joining {
                hand,
                slot: home.0,
                part: 0,
            };
            if let Some(before) = this.joining.insert(session, joining) {
                core.part_done(before.hand.operation);
            }
        }
        self.room_sends_part(core, room, session, first);
    }

    fn room_sends_part(&mut self, core: &mut Core, room: &Jid, session: u128, part: Broadcast) {
        self.room_emit(core, room, part, None, None);
        if let Some(this) = self.rooms.get_mut(room)
            && let Some(joining) = this.joining.get_mut(&session)
        {
            joining.part = this.log.seq;
        }
    }

    /// Sends a session the next part; after the last one it is in.
    pub(super) fn room_tells_on(&mut self, core: &mut Core, room: &Jid, session: u128) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        if let Some(part) = this.room.next_part(session) {
            return self.room_sends_part(core, room, session, part);
        }
        let Some(joining) = this.joining.remove(&session) else {
            return;
        };
        self.room_decides(core, joining.hand, room, |room, environment| {
            room.enters_at_last(environment, session)
        });
        core.part_done(joining.hand.operation);
    }

    /// The slot is given away: requests to enter that are under way go to the next owner.
    pub(crate) fn rooms_refuse_joining(&mut self, core: &mut Core) {
        let rooms = self.rooms.values_mut();
        let joining = rooms.flat_map(|this| {
            this.room.entering.clear();
            std::mem::take(&mut this.joining).into_values()
        });
        for joining in joining.collect::<Vec<_>>() {
            core.operations.cancel(joining.hand.operation);
            self.refuse_open(core, joining.hand);
        }
    }
}

#[cfg(test)]
#[path = "joining_tests.rs"]
mod tests;
