//! The owner's requests to a room (XEP-0045 §10): a bare room has no options, so that its owner can
//! take it as it is, or take it back while it is new. Rooms are not locked meanwhile.
//!
//! Left out: destroying a room later (§10.9), affiliation lists.

use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use crate::domain::room::Affiliation;
use crate::hooks::{Registrar, RoomContext, RoomIq, RoomReply};

pub(super) fn register(registrar: &mut Registrar<'_>) {
    for set in [false, true] {
        registrar.room_iq(set, ns::MUC_OWNER, "query", answer);
    }
}

fn answer(context: &RoomContext<'_>, iq: &RoomIq<'_>) -> RoomReply {
    if iq.asker.map(|asker| asker.affiliation) != Some(Affiliation::Owner) {
        let text = "only owners configure a room".to_owned();
        return RoomReply::Error(Condition::Forbidden, Some(text));
    }
    let is_new = context.room.is_unconfigured();
    match Request::of(iq.set, iq.payload) {
        Request::Options => RoomReply::Result(Some(Element::new("query", ns::MUC_OWNER))),
        // From now on the room stays, whatever its owner cancels.
        Request::Accept if is_new => RoomReply::Configured,
        // A new room that its owner does not want is destroyed, one that is in use stays as it is.
        Request::Cancel if is_new => RoomReply::Destroy,
        Request::Accept | Request::Cancel => RoomReply::Result(None),
        Request::Other => {
            let text = "this room has no options".to_owned();
            RoomReply::Error(Condition::FeatureNotImplemented, Some(text))
        }
    }
}

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
    fn of(set: bool, query: &Element) -> Request {
        if !set {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(type_: &str, children: &str) -> Request {
        let query = format!("<query xmlns='{}'>{children}</query>", ns::MUC_OWNER);
        Request::of(
            type_ == "set",
            &Element::parse(query.as_bytes()).expect("an element"),
        )
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
