//! The stanzas that clients send, and the numbers and ids in those that they receive.
//!
//! Each message carries a number in its body, so that a check can follow it through the cluster.

use sestina_proto as proto;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

/// Every so many messages one is large: about a third of the bytes that may be on their way to a session
/// at once (`session_credit_bytes`).
const LARGE: u64 = 5;

/// A message with a number in it.
pub(crate) fn message(to: &str, type_: &str, number: u64) -> Stanza {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.to = to.to_owned();
    stanza.type_ = type_.to_owned();
    stanza.id = format!("m{number}");
    let body = format!("<body>m{number}</body>");
    stanza.push_raw(body.as_bytes(), "body", ns::CLIENT);
    if number.is_multiple_of(LARGE) {
        let pad = format!("<pad xmlns='urn:example:pad'>{:600}</pad>", "");
        stanza.push_raw(pad.as_bytes(), "pad", "urn:example:pad");
    }
    stanza
}

/// A message to a room that invites a user (XEP-0045 §7.8.2), with a number in its reason.
pub(crate) fn invite(room: &str, user: &str, number: u64) -> Stanza {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.to = room.to_owned();
    stanza.id = format!("m{number}");
    let body = Element::new("body", ns::MUC_USER).with_text(format!("m{number}"));
    let reason = Element::new("reason", ns::MUC_USER).with_child(body);
    let invite = Element::new("invite", ns::MUC_USER).with_attr("to", user);
    let invite = invite.with_child(reason);
    stanza.push_element(&Element::new("x", ns::MUC_USER).with_child(invite));
    stanza
}

/// A presence to an occupant's address; of type "" it enters the room (XEP-0045 §7.2).
pub(crate) fn room_presence(to: &str, type_: &str) -> Stanza {
    let mut stanza = Stanza::new(Kind::Presence);
    stanza.to = to.to_owned();
    stanza.type_ = type_.to_owned();
    if type_.is_empty() {
        stanza.push_element(&Element::new("x", ns::MUC));
    }
    stanza
}

/// An IQ with a number in its id.
pub(crate) fn iq(to: &str, type_: &str, number: u64, child: &Element) -> Stanza {
    let mut stanza = Stanza::new(Kind::Iq);
    stanza.to = to.to_owned();
    stanza.type_ = type_.to_owned();
    stanza.id = format!("i{number}");
    stanza.push_element(child);
    stanza
}

/// The number in the body of an archived or stored message.
pub(crate) fn number_in(stanza: Option<&proto::Stanza>) -> Option<u64> {
    body_number(&String::from_utf8_lossy(&stanza?.payload))
}

/// The number in the body of a message.
pub(super) fn body_number(payload: &str) -> Option<u64> {
    let at = payload.find("<body>m")? + 7;
    let rest = &payload[at..];
    rest[..rest.find('<')?].parse().ok()
}

/// The text between two others.
pub(super) fn part(text: &str, from: &str, to: &str) -> Option<String> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0.to_owned())
}

/// The id of the stanza in its receiver's archive (XEP-0359).
pub(super) fn stanza_id(payload: &str) -> Option<String> {
    let at = payload.find("urn:xmpp:sid:0")?;
    let start = payload[..at].rfind('<')?;
    let tag = &payload[start..];
    let id = tag
        .find("id='")
        .map(|i| i + 4)
        .or_else(|| tag.find(" id=\"").map(|i| i + 5))?;
    let rest = &tag[id..];
    let end = rest.find('\'').or_else(|| rest.find('"'))?;
    Some(rest[..end].to_owned())
}
