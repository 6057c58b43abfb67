//! Stanzas of occupants to their room: messages to all, messages to one, and refusals.

use sestina_runtime::failpoint;
use sestina_xmpp::ext::muc;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::occupant::Role;
use super::state::{Broadcast, Room};
use crate::worker::core::Core;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

/// Whose stanza it is.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The session.
    pub(crate) session: u128,
    /// Its slot.
    pub(crate) slot: u16,
    /// Its full JID.
    pub(crate) jid: Jid,
}

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
            return self.room_refuse(hand, &stanza, Condition::ServiceUnavailable, None);
        }
        match stanza.kind {
            Kind::Presence => self.room_presence(core, hand, origin, to, stanza),
            Kind::Message if stanza.type_ == "groupchat" => {
                self.room_groupchat(core, hand, origin, to, stanza);
            }
            Kind::Message => self.room_private(core, hand, origin, to, stanza),
            Kind::Iq => self.room_iq(core, hand, origin, to, stanza),
        }
    }

    /// Answers with an error, unless the stanza is one.
    pub(super) fn room_refuse(
        &mut self,
        hand: InHand,
        stanza: &Stanza,
        condition: Condition,
        text: Option<&str>,
    ) {
        if !stanza.is_error() {
            self.answer_with(hand, stanza.error_reply(condition, text));
        }
    }

    /// XEP-0045 §7.4 and §8.1: a message to all, or a change of the subject.
    fn room_groupchat(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        to: Jid,
        stanza: Stanza,
    ) {
        if to.resource().is_some() {
            return self.room_refuse(
                hand,
                &stanza,
                Condition::BadRequest,
                Some("groupchat goes to the room"),
            );
        }
        let room_jid = to.bare();
        let Some(room) = self.rooms.get_mut(&room_jid) else {
            return self.room_refuse(hand, &stanza, Condition::ItemNotFound, None);
        };
        let Some(occupant) = room.occupant_of(origin.session).cloned() else {
            let text = Some("only occupants can speak here");
            return self.room_refuse(hand, &stanza, Condition::NotAcceptable, text);
        };
        let is_subject = stanza.child(ns::CLIENT, "subject").is_some()
            && stanza.child(ns::CLIENT, "body").is_none()
            && stanza.child(ns::CLIENT, "thread").is_none();
        if is_subject && occupant.role != Role::Moderator {
            let text = Some("only moderators change the subject");
            return self.room_refuse(hand, &stanza, Condition::Forbidden, text);
        }
        let has_body = stanza.child(ns::CLIENT, "body").is_some();
        let mut said = stanza;
        said.from = room.address(&occupant.nick);
        said.to = String::new();
        said.retain_children(|c| c.ns != ns::DELAY && !muc::is_said_by_rooms(c, room_jid.as_str()));
        let mut broadcast = Broadcast::default();
        let seq = room.coming_seq(self.epoch);
        if is_subject {
            room.subject = Some(said.clone());
            room.subject_at_ms = core.wall_ms;
        } else if has_body && core.config.limits.room_history > 0 {
            if core.config.state_store {
                broadcast
                    .fields
                    .push(Room::history_field(seq, &said, core.wall_ms));
            }
            room.history.push_back((seq, said.clone(), core.wall_ms));
            while room.history.len() > core.config.limits.room_history {
                if let Some((old, ..)) = room.history.pop_front() {
                    broadcast.removed.push(format!("h:{old}"));
                }
            }
        }
        broadcast.add(said, room.sessions());
        self.room_emit_for(core, hand, &room_jid, broadcast);
    }

    /// §7.5: a message to one occupant, on all its sessions (§7.2.8).
    fn room_private(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        to: Jid,
        mut stanza: Stanza,
    ) {
        if core.storage_backlogged() && !stanza.is_error() {
            // Its receiver has an archive.
            return self.storage_unavailable(hand, &stanza);
        }
        let room_jid = to.bare();
        let Some(room) = self.rooms.get(&room_jid) else {
            return self.room_refuse(hand, &stanza, Condition::ItemNotFound, None);
        };
        let Some(sender) = room.occupant_of(origin.session) else {
            let text = Some("only occupants can speak here");
            return self.room_refuse(hand, &stanza, Condition::NotAcceptable, text);
        };
        let Some(nick) = to.resource() else {
            // Invitations and forms to the room itself are not part of a bare room.
            return self.room_refuse(hand, &stanza, Condition::NotAcceptable, None);
        };
        let Some(receiver) = room.occupants.get(nick) else {
            return self.room_refuse(hand, &stanza, Condition::ItemNotFound, None);
        };
        stanza.from = room.address(&sender.nick);
        stanza.to = String::new();
        stanza.retain_children(|c| !muc::is_said_by_rooms(c, room_jid.as_str()));
        if !stanza.is_error() {
            stanza.push_element(&Element::new("x", ns::MUC_USER));
        }
        let mut broadcast = Broadcast::default();
        broadcast.add(stanza, receiver.sessions());
        self.room_emit_for(core, hand, &room_jid, broadcast);
    }

    /// Takes out a session that its owner does not have any more, or that is not in the room by what its owner knows.
    /// `own`: the status codes of its own unavailable presence, which it gets if [`muc::status::SELF`] is among them.
    pub(super) fn room_ghost(&mut self, core: &mut Core, room: &Jid, session: u128, own: &[u16]) {
        self.room_joining_ends(core, room, session);
        self.room_leaves(core, room, session, None, None, None, own);
    }
}
