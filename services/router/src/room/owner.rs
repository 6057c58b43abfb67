//! The owner's requests to a room (XEP-0045 §10): a bare room has no options, so that its owner can
//! take it as it is, or take it back while it is new. Rooms are not locked meanwhile.
//!
//! Left out: destroying a room later (§10.9), affiliation lists.

use sestina_xmpp::ext::muc::{self, Destroy, UserInfo};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::occupant::Occupant;
use super::state::{Broadcast, Room};
use crate::worker::core::Core;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

/// A request in the namespace of owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// Which options there are (§10.1.1, step 4).
    Options,
    /// The configuration is good as it is (steps 3 and 5).
    Accept,
    /// The owner does not want the configuration (step 6).
    Cancel,
    /// Options that the room does not have, and whatever else there is.
    Other,
}

impl Request {
    fn of(iq: &Stanza, query: &Element) -> Request {
        if iq.type_ == "get" {
            let empty = query.children().next().is_none();
            return if empty {
                Request::Options
            } else {
                Request::Other
            };
        }
        let Some(form) = query.child("x", ns::DATA_FORM) else {
            return Request::Other;
        };
        let names_form = |field: &Element| field.attr("var") == Some("FORM_TYPE");
        match form.attr("type") {
            Some("cancel") => Request::Cancel,
            Some("submit") if form.children().all(names_form) => Request::Accept,
            _ => Request::Other,
        }
    }
}

impl Slot {
    /// `query` is there if the owner asks.
    pub(super) fn room_owner(
        &mut self,
        core: &mut Core,
        hand: InHand,
        room_jid: &Jid,
        stanza: &Stanza,
        query: Option<&Element>,
    ) {
        let Some(query) = query else {
            let text = Some("only owners configure a room");
            return self.room_refuse(hand, stanza, Condition::Forbidden, text);
        };
        match Request::of(stanza, query) {
            Request::Options => {
                let none = Element::new("query", ns::MUC_OWNER);
                return self.answer_with(hand, stanza.result_reply(Some(&none)));
            }
            Request::Accept => self.room_accepted(core, hand, room_jid),
            Request::Cancel => self.room_cancelled(core, hand, room_jid),
            Request::Other => {
                let text = Some("this room has no options");
                return self.room_refuse(hand, stanza, Condition::FeatureNotImplemented, text);
            }
        }
        self.answer_with(hand, stanza.result_reply(None));
    }

    /// From now on the room stays, whatever its owner cancels.
    fn room_accepted(&mut self, core: &mut Core, hand: InHand, room_jid: &Jid) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        if std::mem::take(&mut room.unconfigured) {
            // An event without receivers writes it down.
            let broadcast = Broadcast::default();
            self.room_emit_for(core, hand, room_jid, broadcast);
        }
    }

    /// A new room that its owner does not want is destroyed, one that is in use stays as it is.
    fn room_cancelled(&mut self, core: &mut Core, hand: InHand, room_jid: &Jid) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        if !room.unconfigured {
            return;
        }
        let mut broadcast = Broadcast::default();
        let occupants = std::mem::take(&mut room.occupants);
        for occupant in occupants.values() {
            core.metrics.occupants(-1);
            broadcast.removed.push(Occupant::field_name(&occupant.nick));
            for session in occupant.sessions() {
                let gone = room.destroyed(occupant);
                broadcast.add_own(gone, occupant, session);
            }
        }
        room.by_session.clear();
        room.subject = None;
        let history = room.history.drain(..);
        broadcast
            .removed
            .extend(history.map(|(seq, ..)| format!("h:{seq}")));
        self.room_emit_for(core, hand, room_jid, broadcast);
    }
}

impl Room {
    /// An occupant's last presence in a room that is destroyed (§10.9).
    fn destroyed(&self, occupant: &Occupant) -> Stanza {
        let item = muc::Item::new(muc::Affiliation::None, muc::Role::None);
        let x = UserInfo {
            item: Some(item),
            statuses: vec![muc::status::SELF],
            destroy: Some(Destroy::default()),
        };
        let mut stanza = Stanza::new(Kind::Presence);
        stanza.type_ = "unavailable".to_owned();
        stanza.from = self.address(&occupant.nick);
        stanza.push_element(&x.to_element());
        stanza
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(type_: &str, children: &str) -> Request {
        let mut iq = Stanza::new(Kind::Iq);
        iq.type_ = type_.to_owned();
        let query = format!("<query xmlns='{}'>{children}</query>", ns::MUC_OWNER);
        Request::of(&iq, &Element::parse(query.as_bytes()).expect("an element"))
    }

    #[test]
    fn requests_of_owners() {
        let form = |type_: &str, fields: &str| {
            format!("<x xmlns='jabber:x:data' type='{type_}'>{fields}</x>")
        };
        let named = "<field var='FORM_TYPE'><value>x</value></field>";
        let option = "<field var='muc#roomconfig_roomname'><value>x</value></field>";
        assert_eq!(request("get", ""), Request::Options);
        assert_eq!(
            request("get", "<item affiliation='owner'/>"),
            Request::Other
        );
        assert_eq!(request("set", &form("submit", "")), Request::Accept);
        assert_eq!(request("set", &form("submit", named)), Request::Accept);
        assert_eq!(request("set", &form("submit", option)), Request::Other);
        assert_eq!(request("set", &form("cancel", "")), Request::Cancel);
        assert_eq!(request("set", &form("form", "")), Request::Other);
        assert_eq!(request("set", ""), Request::Other);
        assert_eq!(request("set", "<destroy/>"), Request::Other);
    }
}
