//! A room whose owner died while the shadow did not have it: beyond what one fault may cost, so its
//! history, its subject and what was not sent to all are lost; but who is in it stays in it.
//!
//! Each session knows what the rooms told it of itself, and its edge holds that with its record.

use std::collections::BTreeSet;

use sestina_api::key::join;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::occupant::{RoomSession, from_standing};
use super::state::Room;
use crate::worker::core::Core;
use crate::worker::slot::Slot;

impl Slot {
    /// Makes rooms of this slot that nothing else knows.
    pub(crate) fn rooms_rebuild(&mut self, core: &mut Core, members: Vec<proto::RoomMembership>) {
        let mut rebuilt: BTreeSet<Jid> = BTreeSet::new();
        for membership in members {
            let room_jid = Jid::from_wire(&membership.room);
            let Some((nick, standing, me)) = member(membership) else {
                continue;
            };
            let known = self.rooms.contains_key(&room_jid) && !rebuilt.contains(&room_jid);
            if known || core.config.slot_of(&room_jid) != self.slot {
                continue;
            }
            let room = self
                .rooms
                .entry(room_jid.clone())
                .or_insert_with(|| Room::new(room_jid.clone(), self.slot));
            if !room.is_taken(&nick, &me.jid) {
                let (affiliation, role) = from_standing(standing);
                room.enter(&nick, affiliation, role, me);
                rebuilt.insert(room_jid);
            }
        }
        for room in rebuilt {
            let occupants = self.rooms.get(&room).map_or(0, Room::occupant_count);
            tracing::warn!(
                room = room.as_str(),
                occupants,
                "nobody had this room any more but those in it: it goes on without its history"
            );
            core.metrics.room_rebuilt();
            self.shadow_room(core, &room, Vec::new(), Vec::new(), None, None);
        }
    }
}

fn member(membership: proto::RoomMembership) -> Option<(String, u32, RoomSession)> {
    let member = membership.member?;
    let me = RoomSession {
        jid: Jid::from_wire(&membership.jid),
        session: join(membership.session_hi, membership.session_lo),
        slot: u16::try_from(membership.slot).ok()?,
        presence: Stanza::from(member.presence?),
    };
    Some((member.nick, member.standing, me))
}
