//! Stream errors (RFC 6120 §4.9; RFC 7395 §3.5). The stream is closed after one.

use super::{Framing, StreamCondition};
use crate::ns;
use crate::xml::Element;
use crate::xml::escape::{push_attribute, push_text};

/// Appends a stream error with a descriptive text, if that is not empty.
pub fn write_error(out: &mut Vec<u8>, framing: Framing, condition: StreamCondition, text: &str) {
    write_error_with(out, framing, condition, "", text, None);
}

/// Appends a stream error with all its parts: the content of the condition element (the address of
/// `see-other-host`), a text, an application-specific condition.
pub fn write_error_with(
    out: &mut Vec<u8>,
    framing: Framing,
    condition: StreamCondition,
    content: &str,
    text: &str,
    app: Option<&Element>,
) {
    out.extend_from_slice(b"<stream:error");
    if framing == Framing::WebSocket {
        push_attribute(out, "xmlns:stream", ns::STREAM);
    }
    out.extend_from_slice(b"><");
    out.extend_from_slice(condition.name().as_bytes());
    push_attribute(out, "xmlns", ns::STREAM_ERRORS);
    if content.is_empty() {
        out.extend_from_slice(b"/>");
    } else {
        out.push(b'>');
        push_text(out, content);
        out.extend_from_slice(b"</");
        out.extend_from_slice(condition.name().as_bytes());
        out.push(b'>');
    }
    if !text.is_empty() {
        out.extend_from_slice(b"<text xml:lang='en'");
        push_attribute(out, "xmlns", ns::STREAM_ERRORS);
        out.push(b'>');
        push_text(out, text);
        out.extend_from_slice(b"</text>");
    }
    if let Some(app) = app {
        // The element declares its namespace, since no default namespace is assumed.
        app.write_to(out, "");
    }
    out.extend_from_slice(b"</stream:error>");
}
