//! XEP-0160 v1.0.1: Best Practices for Handling Offline Messages, the rules only.

use super::hints::Hints;
use crate::ns;
use crate::stanza::{Kind, Stanza};

/// Whether the server stores a message if the addressed user has no reachable session (§3, XEP-0334 §4).
pub fn should_store(message: &Stanza) -> bool {
    if message.kind != Kind::Message {
        return false;
    }
    let hints = Hints::of(message);
    match message.type_.as_str() {
        "groupchat" | "error" => false,
        _ if hints.no_store => false,
        "headline" => hints.store,
        _ => hints.store || says_something(message),
    }
}

/// Whether a message has content besides chat states and elements that only accompany content.
fn says_something(message: &Stanza) -> bool {
    message.children().any(|child| match child.ns {
        ns::CHAT_STATES | ns::HINTS | ns::STANZA_ID | ns::DELAY => false,
        ns::CLIENT => child.name != "thread",
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::stanza;
    use super::*;

    fn stored(kind: &str, payload: &str) -> bool {
        should_store(&stanza(&format!(
            "<message type='{kind}'>{payload}</message>"
        )))
    }

    /// §3, type by type.
    #[test]
    fn types() {
        for kind in ["", "normal", "chat", "unknown"] {
            assert!(stored(kind, "<body>x</body>"), "{kind}");
        }
        for kind in ["groupchat", "headline", "error"] {
            assert!(!stored(kind, "<body>x</body>"), "{kind}");
        }
        assert!(!should_store(&stanza(
            "<presence><status>x</status></presence>"
        )));
    }

    #[test]
    fn only_chat_states() {
        let state = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
        assert!(!stored("chat", state));
        assert!(!stored("chat", &format!("{state}<thread>t</thread>")));
        assert!(!stored(
            "chat",
            &format!("{state}<origin-id xmlns='urn:xmpp:sid:0' id='1'/>")
        ));
        assert!(!stored(
            "chat",
            &format!("{state}<no-copy xmlns='urn:xmpp:hints'/>")
        ));
        assert!(!stored("chat", ""));
        assert!(stored("chat", &format!("{state}<body>x</body>")));
        assert!(stored(
            "chat",
            "<received xmlns='urn:xmpp:receipts' id='1'/>"
        ));
        assert!(stored("chat", "<subject>x</subject>"));
    }

    /// XEP-0334 §4.
    #[test]
    fn hints() {
        let store = "<store xmlns='urn:xmpp:hints'/>";
        let state = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
        assert!(!stored(
            "chat",
            "<body>x</body><no-store xmlns='urn:xmpp:hints'/>"
        ));
        assert!(!stored(
            "chat",
            &format!("{store}<no-store xmlns='urn:xmpp:hints'/>")
        ));
        assert!(stored(
            "chat",
            "<body>x</body><no-permanent-store xmlns='urn:xmpp:hints'/>"
        ));
        assert!(stored("chat", &format!("{state}{store}")));
        assert!(stored("headline", &format!("<body>x</body>{store}")));
        assert!(!stored("error", store) && !stored("groupchat", store));
    }
}
