//! XEP-0359 v0.7.0: Unique and Stable Stanza IDs.
//!
//! Left out: `<referenced-stanza/>` (§4), which only clients use.

use crate::jid::Jid;
use crate::ns;
use crate::stanza::{Child, Stanza};
use crate::xml::Element;

/// The longest `origin-id` that is read.
const MAX_ID_LEN: usize = 1024;

/// `<stanza-id/>`.
pub fn stanza_id(by: &str, id: &str) -> Element {
    Element::new("stanza-id", ns::STANZA_ID)
        .with_attr("by", by)
        .with_attr("id", id)
}

/// Removes every `<stanza-id/>` that claims to be by this address (§3, rule 2), and those without
/// an address (rule 5). Addresses are compared normalised.
pub fn strip(stanza: &mut Stanza, by: &str) {
    stanza.retain_children(|child| !is_void(child, by));
}

/// Whether the stanza has any `<stanza-id/>`.
pub fn has_any(stanza: &Stanza) -> bool {
    stanza.child(ns::STANZA_ID, "stanza-id").is_some()
}

/// Whether [`strip`] removes a child of a stanza from outside.
pub fn is_void(child: &Child<'_>, by: &str) -> bool {
    if child.name != "stanza-id" || child.ns != ns::STANZA_ID {
        return false;
    }
    let claimed = Element::parse(child.xml)
        .ok()
        .and_then(|element| Jid::parse(element.attr("by")?).ok());
    claimed.is_none_or(|claimed| claimed.as_str() == by)
}

/// Adds the id, and removes all forged ones.
pub fn assign(stanza: &mut Stanza, by: &str, id: &str) {
    strip(stanza, by);
    stanza.push_element(&stanza_id(by, id));
}

/// The id that this address assigned.
pub fn assigned(stanza: &Stanza, by: &str) -> Option<String> {
    let element = stanza
        .children()
        .filter(|child| child.ns == ns::STANZA_ID && child.name == "stanza-id")
        .filter_map(|child| Element::parse(child.xml).ok())
        .find(|element| element.attr("by") == Some(by))?;
    element.attr("id").map(str::to_owned)
}

/// The id that the sending client gave (§2.2).
pub fn origin_id(stanza: &Stanza) -> Option<String> {
    let element = stanza.element(ns::STANZA_ID, "origin-id")?;
    element
        .attr("id")
        .filter(|id| (1..=MAX_ID_LEN).contains(&id.len()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::testing::stanza;
    use super::*;

    fn ids(stanza: &Stanza) -> Vec<String> {
        let ids = stanza.children().filter(|child| child.name == "stanza-id");
        ids.filter_map(|c| Element::parse(c.xml).ok()?.attr("id").map(str::to_owned))
            .collect()
    }

    /// §3, rules 2 to 5.
    #[test]
    fn forged_ids_go() {
        let mut message = stanza(
            "<message to='juliet@capulet.lit'><body>x</body>\
             <stanza-id xmlns='urn:xmpp:sid:0' by='juliet@capulet.lit' id='forged'/>\
             <stanza-id xmlns='urn:xmpp:sid:0' by='Juliet@CAPULET.lit' id='forged-2'/>\
             <stanza-id xmlns='urn:xmpp:sid:0' id='nobody'/>\
             <stanza-id xmlns='urn:xmpp:sid:0' by='' id='nobody-2'/>\
             <stanza-id xmlns='urn:x' by='juliet@capulet.lit' id='another-element'/>\
             <stanza-id xmlns='urn:xmpp:sid:0' by='room@muc.example.org' id='room'/>\
             <origin-id xmlns='urn:xmpp:sid:0' id='de305d54'/></message>",
        );
        strip(&mut message, "juliet@capulet.lit");
        assert_eq!(ids(&message), ["another-element", "room"]);
        assert_eq!(message.text_of(ns::CLIENT, "body").as_deref(), Some("x"));
        assert_eq!(origin_id(&message).as_deref(), Some("de305d54"));
        assert_eq!(assigned(&message, "juliet@capulet.lit"), None);
        assign(&mut message, "juliet@capulet.lit", "one");
        assign(&mut message, "juliet@capulet.lit", "two");
        assert_eq!(ids(&message), ["another-element", "room", "two"]);
        assert_eq!(
            assigned(&message, "juliet@capulet.lit").as_deref(),
            Some("two")
        );
        assert_eq!(
            assigned(&message, "room@muc.example.org").as_deref(),
            Some("room")
        );
    }

    #[test]
    fn no_origin_id() {
        assert_eq!(origin_id(&stanza("<message/>")), None);
        let empty = stanza("<message><origin-id xmlns='urn:xmpp:sid:0' id=''/></message>");
        assert_eq!(origin_id(&empty), None);
    }
}
