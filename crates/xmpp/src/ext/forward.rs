//! XEP-0297 v1.0: Stanza Forwarding.

use super::delay::Delay;
use crate::ns;
use crate::stanza::Stanza;
use crate::xml::Element;

/// Appends `<forwarded/>` with the unchanged stanza (§3.1); its payload is copied without parsing.
pub fn write_forwarded(out: &mut Vec<u8>, stanza: &Stanza, delay: Option<&Delay>) {
    out.extend_from_slice(b"<forwarded xmlns='urn:xmpp:forward:0'>");
    if let Some(delay) = delay {
        delay.to_element().write_to(out, ns::FORWARD);
    }
    stanza.write_to(out, None, true);
    out.extend_from_slice(b"</forwarded>");
}

/// The content of `<forwarded/>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// When the stanza was sent first.
    pub delay: Option<Delay>,
    /// The stanza.
    pub stanza: Element,
}

impl Forwarded {
    /// Reads `<forwarded/>`; `None` if it does not hold exactly one stanza.
    pub fn parse(element: &Element) -> Option<Forwarded> {
        if !element.is("forwarded", ns::FORWARD) {
            return None;
        }
        let is_stanza = |child: &&Element| {
            child.ns == ns::CLIENT && matches!(child.name.as_str(), "message" | "presence" | "iq")
        };
        let mut stanzas = element.children().filter(is_stanza);
        let (Some(stanza), None) = (stanzas.next(), stanzas.next()) else {
            return None;
        };
        Some(Forwarded {
            delay: element.child("delay", ns::DELAY).and_then(Delay::parse),
            stanza: stanza.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::testing::{element, stanza};
    use super::*;

    /// After §3.1, example 2: a written element can be parsed.
    #[test]
    fn both_ways() {
        let message = stanza(
            "<message from='romeo@montague.lit/orchard' id='0202197' \
             to='juliet@capulet.lit/balcony' type='chat'><body>Yet &lt; I</body>\
             <mood xmlns='http://jabber.org/protocol/mood'><amorous/></mood></message>",
        );
        let delay = Delay::new(Some("montague.lit"), 1_278_803_305_000);
        let mut xml = Vec::new();
        write_forwarded(&mut xml, &message, Some(&delay));
        let read = Forwarded::parse(&Element::parse(&xml).unwrap()).unwrap();
        assert_eq!(read.delay, Some(delay));
        assert!(read.stanza.is("message", ns::CLIENT));
        assert_eq!(read.stanza.attr("to"), Some("juliet@capulet.lit/balcony"));
        assert_eq!(
            read.stanza.child("body", ns::CLIENT).unwrap().text(),
            "Yet < I"
        );
        let mood = read
            .stanza
            .child("mood", "http://jabber.org/protocol/mood")
            .unwrap();
        assert!(
            mood.child("amorous", "http://jabber.org/protocol/mood")
                .is_some()
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "<forwarded xmlns='urn:xmpp:forward:0'/>",
            "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='urn:x'/></forwarded>",
            "<forwarded xmlns='urn:x'><message xmlns='jabber:client'/></forwarded>",
            "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'/>\
             <iq xmlns='jabber:client'/></forwarded>",
        ] {
            assert_eq!(Forwarded::parse(&element(bad)), None, "{bad}");
        }
    }
}
