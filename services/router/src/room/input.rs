//! Stanzas to a room of this slot: the room decides about each of them, and the slot does what the room has decided.

use sestina_runtime::failpoint;
use sestina_xmpp::ext::muc;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::owned::OwnedRoom;
use crate::domain::room::{Decision, Environment, Origin, Room};
use crate::hooks::IqTarget;
use crate::worker::core::Core;
use crate::worker::data::Asked;
use crate::worker::execute::Cause;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

impl Slot {
    /// A stanza for a room of this slot, or for one of its occupants.
    pub(crate) fn room_input(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        to: Jid,
        stanza: Stanza,
    ) {
        failpoint!("router.room_input");
        if to.local().is_none() {
            let refused = Decision::refused(&stanza, Condition::ServiceUnavailable, None);
            return self.room_performs(core, hand, &to.bare(), refused);
        }
        let is_private = stanza.kind == Kind::Message && stanza.type_ != "groupchat";
        if is_private && core.storage_backlogged() && !stanza.is_error() {
            // Its receiver has an archive.
            return self.storage_unavailable(hand, &stanza);
        }
        let room = to.bare();
        if !self.rooms.contains_key(&room) {
            return self.room_absent(core, hand, origin, &to, stanza);
        }
        self.room_takes(core, hand, &room, origin, &to, stanza);
    }

    /// A stanza to a room that does not exist; it may make the room.
    fn room_absent(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        to: &Jid,
        stanza: Stanza,
    ) {
        if stanza.kind != Kind::Presence {
            return self.room_performs(core, hand, &to.bare(), Room::absent(to, &stanza));
        }
        let joins = stanza.type_.is_empty() && stanza.child(ns::MUC, "x").is_some();
        if joins && self.rooms.len() >= core.config.limits.max_rooms_per_slot {
            let text = Some("too many rooms");
            let refused = Decision::refused(&stanza, Condition::ResourceConstraint, text);
            return self.room_performs(core, hand, &to.bare(), refused);
        }
        let room = to.bare();
        let new = OwnedRoom::new(room.clone(), self.slot, self.rooms_seq);
        self.rooms.insert(room.clone(), new);
        self.room_takes(core, hand, &room, origin, to, stanza);
        let is_used = |this: &OwnedRoom| !this.room.is_empty() || !this.is_flushed();
        if self.rooms.get(&room).is_some_and(is_used) {
            core.metrics.rooms(1);
        } else {
            self.rooms.remove(&room);
        }
    }

    fn room_takes(
        &mut self,
        core: &mut Core,
        hand: InHand,
        room: &Jid,
        origin: Origin,
        to: &Jid,
        stanza: Stanza,
    ) {
        let ended = origin.ended.then_some(origin.session);
        let decision = self.room_decision(core, room, |room, environment| {
            room.stanza(environment, origin, to, stanza)
        });
        if let Some(session) = ended
            && matches!(decision, Decision::Happens(..))
            && let Some(this) = self.rooms.get_mut(room)
        {
            this.log.last_sent.remove(&session);
        }
        self.room_performs(core, hand, room, decision);
    }

    /// Has a room decide, and does what it has decided.
    pub(super) fn room_decides(
        &mut self,
        core: &mut Core,
        hand: InHand,
        room: &Jid,
        decide: impl FnOnce(&mut Room, Environment<'_>) -> Decision,
    ) {
        let decision = self.room_decision(core, room, decide);
        self.room_performs(core, hand, room, decision);
    }

    /// Has a room decide; counts its occupants, and ends requests to enter of which nothing more comes.
    fn room_decision(
        &mut self,
        core: &mut Core,
        room: &Jid,
        decide: impl FnOnce(&mut Room, Environment<'_>) -> Decision,
    ) -> Decision {
        let Some(this) = self.rooms.get_mut(room) else {
            return Decision::Ignored;
        };
        let environment = Environment {
            seq: this.log.coming_seq(self.epoch),
            identity: this.log.identity,
            wall_ms: core.wall_ms,
            config: &core.config,
            pipeline: core.pipelines.of(room.domain()),
        };
        let before = this.occupant_count();
        let decision = decide(&mut this.room, environment);
        core.metrics
            .occupants_changed(before, this.occupant_count());
        for operation in this.joining_over() {
            core.part_done(operation);
        }
        decision
    }

    fn room_performs(&mut self, core: &mut Core, hand: InHand, room: &Jid, decision: Decision) {
        match decision {
            Decision::Ignored => {}
            Decision::Answered(stanza) => self.answer_with(hand, stanza),
            Decision::Happens(broadcast, answer) => {
                self.room_emit_for(core, hand, room, broadcast);
                if let Some(answer) = answer {
                    self.answer_with(hand, answer);
                }
            }
            Decision::Enters(session, first) => {
                self.room_joins_in_parts(core, hand, room, session, first);
            }
            Decision::Sends(from, stanzas) => {
                for stanza in stanzas {
                    self.pass_on(core, hand, &from, stanza);
                }
            }
            Decision::ForModules(from, stanza) => {
                let asked = Asked {
                    cause: Cause::Message(hand),
                    target: IqTarget::Room,
                    from,
                    to: room.clone(),
                    stanza,
                };
                self.ask_modules(core, asked);
            }
        }
    }

    /// Takes out a session that its owner does not have any more, or that is not in the room by what its owner knows.
    /// `own`: the status codes of its own unavailable presence, which it gets if [`muc::status::SELF`] is among them.
    pub(super) fn room_ghost(&mut self, core: &mut Core, room: &Jid, session: u128, own: &[u16]) {
        let mut left = None;
        self.room_decision(core, room, |room, _| {
            room.stops_entering(session);
            left = room.leaves(session, None, own);
            Decision::Ignored
        });
        let Some(left) = left else {
            return;
        };
        if !own.contains(&muc::status::SELF)
            && let Some(this) = self.rooms.get_mut(room)
        {
            this.log.last_sent.remove(&session);
        }
        self.room_emit(core, room, left, None, None);
    }
}
