//! The server's answers during STARTTLS (RFC 6120 §5.4) and SASL (RFC 6120 §6.4).

use crate::sasl::SaslFailure;
use crate::sasl::wire::encode;
use crate::xml::escape::push_text;

/// Appends `<proceed/>`: TLS begins with the next byte (§5.4.2.3).
pub fn write_tls_proceed(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
}

/// Appends the `<failure/>` of STARTTLS; the stream is closed after it (§5.4.2.2).
pub fn write_tls_failure(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
}

/// Appends a `<challenge/>` with these bytes in base64 (§6.4.3). Without bytes it is empty: `=` has
/// a meaning only in elements whose content is optional, `<auth/>` and `<success/>`.
pub fn write_challenge(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(b"<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'");
    if data.is_empty() {
        return out.extend_from_slice(b"/>");
    }
    out.push(b'>');
    out.extend_from_slice(encode(data).as_bytes());
    out.extend_from_slice(b"</challenge>");
}

/// Appends a `<success/>` with the additional data, if there is any (§6.4.6).
pub fn write_success(out: &mut Vec<u8>, data: Option<&[u8]>) {
    out.extend_from_slice(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'");
    match data {
        None => out.extend_from_slice(b"/>"),
        Some(data) => {
            out.push(b'>');
            out.extend_from_slice(encode(data).as_bytes());
            out.extend_from_slice(b"</success>");
        }
    }
}

/// Appends a SASL `<failure/>` (§6.4.5), with a text if that is not empty.
pub fn write_failure(out: &mut Vec<u8>, failure: SaslFailure, text: &str) {
    out.extend_from_slice(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><");
    out.extend_from_slice(failure.name().as_bytes());
    out.extend_from_slice(b"/>");
    if !text.is_empty() {
        out.extend_from_slice(b"<text xml:lang='en'>");
        push_text(out, text);
        out.extend_from_slice(b"</text>");
    }
    out.extend_from_slice(b"</failure>");
}
