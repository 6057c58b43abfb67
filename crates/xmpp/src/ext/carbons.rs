//! XEP-0280 v1.0.1: Message Carbons.
//!
//! Left out: checking whether an error answers an eligible message (§6.1), which the caller may
//! know.

use super::forward::write_forwarded;
use super::hints::Hints;
use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Kind, Stanza};
use crate::xml::Element;

/// The direction of the copied message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A message that one of the user's clients sent (§8).
    Sent,
    /// A message that came for the user (§7).
    Received,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Sent => "sent",
            Direction::Received => "received",
        }
    }
}

/// Reads a request (§4, §5): `Some(true)` to enable, `Some(false)` to disable.
pub fn parse_request(iq: &Stanza) -> Option<bool> {
    if iq.kind != Kind::Iq || iq.type_ != "set" {
        return None;
    }
    if iq.child(ns::CARBONS, "enable").is_some() {
        Some(true)
    } else {
        iq.child(ns::CARBONS, "disable").map(|_| false)
    }
}

/// Whether the user's other clients get copies of a message (§6.1).
///
/// `answers_eligible` is used for errors only: whether the error answers an eligible message.
pub fn is_eligible(message: &Stanza, direction: Direction, answers_eligible: bool) -> bool {
    if message.kind != Kind::Message || message.child(ns::CARBONS, "private").is_some() {
        return false;
    }
    match message.type_.as_str() {
        "groupchat" => return false,
        "error" => return answers_eligible,
        _ => {}
    }
    if Hints::of(message).no_copy {
        return false;
    }
    // Messages that a room sends itself, and private messages, have an <x/> of muc#user.
    if let Some(x) = message.element(ns::MUC_USER, "x") {
        let mediated_invite = x.child("invite", ns::MUC_USER).is_some();
        let occupant = match direction {
            Direction::Sent => &message.to,
            Direction::Received => &message.from,
        };
        if !mediated_invite && !Jid::from_wire(occupant).is_bare() {
            // Every client of the user in the room has got the occupant's message.
            return direction == Direction::Sent;
        }
        if mediated_invite {
            return true;
        }
    }
    message.type_ == "chat"
        || message.child(ns::MUC_DIRECT_INVITE, "x").is_some()
        || (is_normal(message) && message.child(ns::CLIENT, "body").is_some())
        || message
            .children()
            .any(|child| matches!(child.ns, ns::RECEIPTS | ns::CHAT_STATES | ns::MARKERS))
}

/// Type normal, also for an absent or unknown type (RFC 6121 §5.2.2).
pub(super) fn is_normal(message: &Stanza) -> bool {
    !matches!(
        message.type_.as_str(),
        "chat" | "groupchat" | "headline" | "error"
    )
}

/// The copy for one client of the user (§7, §8): `own_bare` is the user, `to` the client's full
/// JID.
pub fn wrap(direction: Direction, original: &Stanza, own_bare: &str, to: &str) -> Stanza {
    let name = direction.name();
    let mut xml = format!("<{name} xmlns='{}'>", ns::CARBONS).into_bytes();
    write_forwarded(&mut xml, original, None);
    xml.extend_from_slice(format!("</{name}>").as_bytes());
    let mut copy = Stanza::new(Kind::Message);
    copy.type_.clone_from(&original.type_);
    copy.from = own_bare.to_owned();
    copy.to = to.to_owned();
    copy.push_raw(&xml, name, ns::CARBONS);
    copy
}

/// `<enable/>` or `<disable/>`.
pub fn request(enable: bool) -> Element {
    Element::new(if enable { "enable" } else { "disable" }, ns::CARBONS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::forward::Forwarded;
    use super::super::testing::{reread, stanza};
    use super::*;

    /// §4 and §5.
    #[test]
    fn requests() {
        let iq = |kind: &str, payload: &str| {
            parse_request(&stanza(&format!("<iq type='{kind}' id='1'>{payload}</iq>")))
        };
        assert_eq!(
            iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>"),
            Some(true)
        );
        assert_eq!(
            iq("set", "<disable xmlns='urn:xmpp:carbons:2'/>"),
            Some(false)
        );
        assert_eq!(iq("get", "<enable xmlns='urn:xmpp:carbons:2'/>"), None);
        assert_eq!(iq("set", "<enable xmlns='urn:xmpp:sm:3'/>"), None);
        assert!(request(true).is("enable", ns::CARBONS));
        assert!(request(false).is("disable", ns::CARBONS));
    }

    fn eligible(direction: Direction, kind: &str, payload: &str) -> bool {
        let xml = format!("<message from='r@m/1' to='j@c/2' type='{kind}'>{payload}</message>");
        is_eligible(&stanza(&xml), direction, false)
    }

    /// §6.1, rule by rule.
    #[test]
    fn rules() {
        let both = |kind: &str, payload: &str| {
            let sent = eligible(Direction::Sent, kind, payload);
            assert_eq!(sent, eligible(Direction::Received, kind, payload));
            sent
        };
        let private = "<private xmlns='urn:xmpp:carbons:2'/>";
        assert!(both("chat", ""));
        assert!(both("chat", "<body>x</body>"));
        assert!(!both("chat", &format!("<body>x</body>{private}")));
        assert!(!both(
            "chat",
            "<body>x</body><no-copy xmlns='urn:xmpp:hints'/>"
        ));
        assert!(both("normal", "<body>x</body>"));
        assert!(both("", "<body>x</body>"));
        assert!(!both("normal", "<subject>x</subject>"));
        assert!(!both("normal", "<body xmlns='urn:x'>x</body>"));
        assert!(!both("headline", "<body>x</body>"));
        assert!(both(
            "normal",
            "<received xmlns='urn:xmpp:receipts' id='1'/>"
        ));
        assert!(both(
            "normal",
            "<paused xmlns='http://jabber.org/protocol/chatstates'/>"
        ));
        assert!(both(
            "normal",
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>"
        ));
        assert!(!both("groupchat", "<body>x</body>"));
        assert!(!both(
            "groupchat",
            "<received xmlns='urn:xmpp:receipts' id='1'/>"
        ));
        assert!(both(
            "normal",
            "<x xmlns='jabber:x:conference' jid='room@muc'/>"
        ));
    }

    #[test]
    fn errors() {
        let xml = "<message from='r@m/1' to='j@c/2' type='error'><body>x</body></message>";
        assert!(is_eligible(&stanza(xml), Direction::Received, true));
        assert!(!is_eligible(&stanza(xml), Direction::Received, false));
        assert!(!is_eligible(&stanza("<presence/>"), Direction::Sent, true));
    }

    #[test]
    fn rooms() {
        let x = "<x xmlns='http://jabber.org/protocol/muc#user'/>";
        let private_message = format!("<body>x</body>{x}");
        assert!(eligible(Direction::Sent, "chat", &private_message));
        assert!(!eligible(Direction::Received, "chat", &private_message));
        let invite = "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b'/></x>";
        assert!(eligible(Direction::Received, "normal", invite));
        // From the room itself: like any other message.
        let notice = format!("<message from='room@muc' to='j@c/2'>{x}</message>");
        assert!(!is_eligible(&stanza(&notice), Direction::Received, false));
    }

    /// §7 and §8.
    #[test]
    fn wrappers() {
        let original = stanza(
            "<message from='romeo@montague.example/home' to='juliet@capulet.example/balcony' \
             type='chat' id='m1'><body>Neither, fair saint</body>\
             <thread>0e3141cd80894871a68e6fe6b1ec56fa</thread></message>",
        );
        for (direction, name) in [(Direction::Sent, "sent"), (Direction::Received, "received")] {
            let copy = wrap(
                direction,
                &original,
                "romeo@montague.example",
                "romeo@montague.example/garden",
            );
            assert!(copy.child(ns::CARBONS, name).is_some());
            let copy = reread(&copy);
            assert_eq!(copy.attr("type"), Some("chat"));
            assert_eq!(copy.attr("from"), Some("romeo@montague.example"));
            assert_eq!(copy.attr("to"), Some("romeo@montague.example/garden"));
            assert_eq!(copy.attr("id"), None);
            let wrapper = copy.child(name, ns::CARBONS).unwrap();
            let forwarded = wrapper.child("forwarded", ns::FORWARD).unwrap();
            let inner = Forwarded::parse(forwarded).unwrap().stanza;
            assert_eq!(inner, reread(&original));
        }
    }
}
