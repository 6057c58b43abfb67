//! XEP-0199 v2.0.1: XMPP Ping.

use crate::ns;
use crate::stanza::{Kind, Stanza};
use crate::xml::Element;

/// Whether a stanza is a ping (§4): an IQ of type get with `<ping/>`.
pub fn is_ping(stanza: &Stanza) -> bool {
    stanza.kind == Kind::Iq && stanza.type_ == "get" && stanza.child(ns::PING, "ping").is_some()
}

/// `<ping/>`, for a ping from the server.
pub fn ping() -> Element {
    Element::new("ping", ns::PING)
}

#[cfg(test)]
mod tests {
    use super::super::testing::stanza;
    use super::*;

    /// §4.2 and §4.4.
    #[test]
    fn pings() {
        let iq = |kind: &str, payload: &str| {
            is_ping(&stanza(&format!(
                "<iq from='juliet@capulet.lit/balcony' id='c2s1' type='{kind}'>{payload}</iq>"
            )))
        };
        assert!(iq("get", "<ping xmlns='urn:xmpp:ping'/>"));
        assert!(!iq("set", "<ping xmlns='urn:xmpp:ping'/>"));
        assert!(!iq("result", "<ping xmlns='urn:xmpp:ping'/>"));
        assert!(!iq("get", "<ping xmlns='urn:example:ping'/>"));
        assert!(ping().is("ping", ns::PING));
    }
}
