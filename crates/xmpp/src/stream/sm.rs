//! The server's elements of stream management (XEP-0198).

use super::error::write_error_with;
use super::{Framing, StreamCondition};
use crate::ns;
use crate::xml::Element;
use crate::xml::escape::push_attribute;

/// Appends `<r/>` (§4).
pub fn write_request(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<r xmlns='urn:xmpp:sm:3'/>");
}

/// Appends `<a/>` (§4).
pub fn write_ack(out: &mut Vec<u8>, h: u32) {
    out.extend_from_slice(b"<a xmlns='urn:xmpp:sm:3'");
    push_number(out, "h", h);
    out.extend_from_slice(b"/>");
}

/// Appends `<enabled/>` (§3). `max` is in seconds; 0 leaves it out.
pub fn write_enabled(out: &mut Vec<u8>, id: Option<&str>, resume: bool, max: u32) {
    out.extend_from_slice(b"<enabled xmlns='urn:xmpp:sm:3'");
    if let Some(id) = id {
        push_attribute(out, "id", id);
    }
    if resume {
        push_attribute(out, "resume", "true");
        if max > 0 {
            push_number(out, "max", max);
        }
    }
    out.extend_from_slice(b"/>");
}

/// Appends `<resumed/>` (§5).
pub fn write_resumed(out: &mut Vec<u8>, previd: &str, h: u32) {
    out.extend_from_slice(b"<resumed xmlns='urn:xmpp:sm:3'");
    push_attribute(out, "previd", previd);
    push_number(out, "h", h);
    out.extend_from_slice(b"/>");
}

/// Appends `<failed/>` with a stanza error condition (§3, §5), and `h` if it is still known.
pub fn write_failed(out: &mut Vec<u8>, condition: &str, h: Option<u32>) {
    out.extend_from_slice(b"<failed xmlns='urn:xmpp:sm:3'");
    if let Some(h) = h {
        push_number(out, "h", h);
    }
    out.extend_from_slice(b"><");
    out.extend_from_slice(condition.as_bytes());
    push_attribute(out, "xmlns", ns::STANZA_ERRORS);
    out.extend_from_slice(b"/></failed>");
}

/// Appends the stream error for an `h` beyond the number of sent stanzas (§4).
pub fn write_handled_count_too_high(out: &mut Vec<u8>, framing: Framing, h: u32, sent: u32) {
    let app = Element::new("handled-count-too-high", ns::SM)
        .with_attr("h", h.to_string())
        .with_attr("send-count", sent.to_string());
    let text = format!("you acknowledged {h} stanzas, but only {sent} were sent");
    let condition = StreamCondition::UndefinedCondition;
    write_error_with(out, framing, condition, "", &text, Some(&app));
}

fn push_number(out: &mut Vec<u8>, name: &str, value: u32) {
    push_attribute(out, name, compact_str::format_compact!("{value}").as_str());
}
