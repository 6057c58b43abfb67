//! XEP-0313 v1.1.3 §6.1.1 with XEP-0334 v1.0.0: the messages of a user's archive.
//!
//! These are conversations and changes to them: a message with a body, and without one a receipt, a
//! marker, an encrypted payload, a reaction, a retraction or an invitation. Left out: groupchat
//! messages, which are in the room's archive.

use super::hints::Hints;
use crate::ns;
use crate::stanza::{Child, Kind, Stanza};

/// XEP-0384 before version 0.4.
const OMEMO_OLD: &str = "eu.siacs.conversations.axolotl";
/// XEP-0384.
const OMEMO: &str = "urn:xmpp:omemo:2";
/// XEP-0373.
const OPENPGP: &str = "urn:xmpp:openpgp:0";
/// XEP-0444.
const REACTIONS: &str = "urn:xmpp:reactions:0";
/// XEP-0424.
const RETRACT: &str = "urn:xmpp:message-retract:1";

/// Whether a message is archived for its sender and for its recipient.
pub fn should_archive(message: &Stanza) -> bool {
    if message.kind != Kind::Message || matches!(message.type_.as_str(), "error" | "groupchat") {
        return false;
    }
    let hints = Hints::of(message);
    if hints.no_store || hints.no_permanent_store {
        return false;
    }
    if hints.store {
        return true;
    }
    if message.type_ == "headline" {
        return false;
    }
    message.children().any(|child| is_content(&child)) || holds_invite(message)
}

fn is_content(child: &Child<'_>) -> bool {
    match child.ns {
        ns::CLIENT => child.name == "body",
        ns::RECEIPTS => child.name == "received",
        ns::MARKERS => matches!(child.name, "received" | "displayed" | "acknowledged"),
        OMEMO | OMEMO_OLD => child.name == "encrypted",
        OPENPGP => child.name == "openpgp",
        REACTIONS => child.name == "reactions",
        RETRACT => child.name == "retract",
        ns::MUC_DIRECT_INVITE => child.name == "x",
        _ => false,
    }
}

/// A mediated invitation (XEP-0045 §7.8.2).
fn holds_invite(message: &Stanza) -> bool {
    message
        .element(ns::MUC_USER, "x")
        .is_some_and(|x| x.child("invite", ns::MUC_USER).is_some())
}

#[cfg(test)]
mod tests {
    use super::super::testing::stanza;
    use super::*;

    fn archived(kind: &str, payload: &str) -> bool {
        should_archive(&stanza(&format!(
            "<message type='{kind}'>{payload}</message>"
        )))
    }

    #[test]
    fn types() {
        for kind in ["", "normal", "chat"] {
            assert!(archived(kind, "<body>x</body>"), "{kind}");
        }
        for kind in ["groupchat", "headline", "error"] {
            assert!(!archived(kind, "<body>x</body>"), "{kind}");
        }
        assert!(!should_archive(&stanza(
            "<presence><body>x</body></presence>"
        )));
    }

    #[test]
    fn content() {
        for yes in [
            "<received xmlns='urn:xmpp:receipts' id='1'/>",
            "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
            "<encrypted xmlns='eu.siacs.conversations.axolotl'/>",
            "<encrypted xmlns='urn:xmpp:omemo:2'/>",
            "<openpgp xmlns='urn:xmpp:openpgp:0'/>",
            "<reactions xmlns='urn:xmpp:reactions:0' id='1'/>",
            "<retract xmlns='urn:xmpp:message-retract:1' id='1'/>",
            "<x xmlns='jabber:x:conference' jid='room@muc'/>",
            "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b'/></x>",
        ] {
            assert!(archived("chat", yes), "{yes}");
            assert!(!archived("headline", yes), "{yes}");
        }
        for no in [
            "",
            "<subject>x</subject>",
            "<thread>x</thread>",
            "<body xmlns='urn:x'>x</body>",
            "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
            "<request xmlns='urn:xmpp:receipts'/>",
            "<markable xmlns='urn:xmpp:chat-markers:0'/>",
            "<x xmlns='http://jabber.org/protocol/muc#user'/>",
        ] {
            assert!(!archived("chat", no), "{no}");
        }
    }

    /// XEP-0334 §4.
    #[test]
    fn hints() {
        let hint = |name: &str| format!("<{name} xmlns='urn:xmpp:hints'/>");
        for name in ["no-store", "no-permanent-store"] {
            assert!(!archived("chat", &format!("<body>x</body>{}", hint(name))));
            assert!(!archived("chat", &(hint("store") + &hint(name))));
        }
        assert!(archived("chat", &hint("store")));
        assert!(archived("headline", &hint("store")));
        assert!(!archived("error", &hint("store")));
        assert!(!archived("groupchat", &hint("store")));
        assert!(archived(
            "chat",
            &format!("<body>x</body>{}", hint("no-copy"))
        ));
    }
}
