//! Stream features (RFC 6120 §4.3.2).

use super::Framing;
use crate::ns;
use crate::xml::escape::{push_attribute, push_text};

/// The features that the server offers at this point of the stream. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features<'a> {
    /// STARTTLS (RFC 6120 §5.4.1), and whether it is required. Not over WebSocket (RFC 7395 §3.9).
    pub starttls: Option<StartTls>,
    /// SASL mechanisms, the preferred one first (RFC 6120 §6.4.1).
    pub mechanisms: &'a [&'a str],
    /// Channel-binding types (XEP-0440), the preferred one first; only with mechanisms.
    pub channel_bindings: &'a [&'a str],
    /// Resource binding (RFC 6120 §7.4).
    pub bind: bool,
    /// The old session establishment, marked as optional (RFC 6121, appendix E).
    pub session: bool,
    /// Stream management (XEP-0198 §3).
    pub sm: bool,
}

/// Whether a client may continue without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    /// TLS is optional.
    Optional,
    /// TLS is required.
    Required,
}

impl Features<'_> {
    /// Appends `<stream:features/>`.
    pub fn write_to(&self, out: &mut Vec<u8>, framing: Framing) {
        out.extend_from_slice(b"<stream:features");
        if framing == Framing::WebSocket {
            push_attribute(out, "xmlns:stream", ns::STREAM);
        }
        out.push(b'>');
        match self.starttls {
            Some(_) if framing == Framing::WebSocket => {}
            Some(StartTls::Required) => {
                open(out, "starttls", ns::TLS);
                out.extend_from_slice(b"<required/></starttls>");
            }
            Some(StartTls::Optional) => empty(out, "starttls", ns::TLS),
            None => {}
        }
        if !self.mechanisms.is_empty() {
            open(out, "mechanisms", ns::SASL);
            for mechanism in self.mechanisms {
                out.extend_from_slice(b"<mechanism>");
                push_text(out, mechanism);
                out.extend_from_slice(b"</mechanism>");
            }
            out.extend_from_slice(b"</mechanisms>");
            if !self.channel_bindings.is_empty() {
                open(out, "sasl-channel-binding", ns::SASL_CB);
                for binding in self.channel_bindings {
                    out.extend_from_slice(b"<channel-binding");
                    push_attribute(out, "type", binding);
                    out.extend_from_slice(b"/>");
                }
                out.extend_from_slice(b"</sasl-channel-binding>");
            }
        }
        if self.bind {
            empty(out, "bind", ns::BIND);
        }
        if self.session {
            open(out, "session", ns::SESSION);
            out.extend_from_slice(b"<optional/></session>");
        }
        if self.sm {
            empty(out, "sm", ns::SM);
        }
        out.extend_from_slice(b"</stream:features>");
    }
}

/// Appends a start tag with its namespace.
fn open(out: &mut Vec<u8>, name: &str, ns: &str) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    push_attribute(out, "xmlns", ns);
    out.push(b'>');
}

/// Appends an empty element with its namespace.
fn empty(out: &mut Vec<u8>, name: &str, ns: &str) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    push_attribute(out, "xmlns", ns);
    out.extend_from_slice(b"/>");
}
