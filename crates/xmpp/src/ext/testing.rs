//! Stanzas of the examples in the specifications.
#![allow(clippy::unwrap_used)]

use crate::ns;
use crate::stanza::{Kind, Stanza};
use crate::xml::Element;

/// Reads one element.
pub(crate) fn element(xml: &str) -> Element {
    Element::parse(xml.as_bytes()).unwrap()
}

/// Parses a stanza; text between the children is left out.
pub(crate) fn stanza(xml: &str) -> Stanza {
    let element = element(xml);
    let kind = match element.name.as_str() {
        "message" => Kind::Message,
        "presence" => Kind::Presence,
        "iq" => Kind::Iq,
        other => panic!("{other} is no stanza"),
    };
    let attribute = |name| element.attr(name).unwrap_or("").to_owned();
    let mut stanza = Stanza::new(kind);
    stanza.type_ = attribute("type");
    stanza.id = attribute("id");
    stanza.from = attribute("from");
    stanza.to = attribute("to");
    for child in element.children() {
        stanza.push_element(child);
    }
    stanza
}

/// The stanza as an element, in the form that a client gets.
pub(crate) fn reread(stanza: &Stanza) -> Element {
    let mut xml = Vec::new();
    stanza.write_to(&mut xml, None, true);
    Element::parse(&xml).unwrap()
}

/// The element as text, for comparing with examples.
pub(crate) fn text(element: &Element) -> String {
    String::from_utf8(element.to_bytes(ns::CLIENT)).unwrap()
}
