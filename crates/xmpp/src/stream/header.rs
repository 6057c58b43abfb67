//! Opening and closing a stream (RFC 6120 §4.7, §4.4; RFC 7395 §3.4, §3.6).

use crate::xml::escape::push_attribute;

/// The framing of elements on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One document (RFC 6120 §4).
    Tcp,
    /// One document for each message (RFC 7395 §3.3).
    WebSocket,
}

impl Framing {
    /// Whether each stanza must declare `jabber:client` itself, because there is no header around
    /// it.
    pub fn declares_content(self) -> bool {
        self == Framing::WebSocket
    }
}

/// The server's stream header. Empty attributes are not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header<'a> {
    /// The requested host.
    pub from: &'a str,
    /// The client's own address, as it gave it.
    pub to: &'a str,
    /// Unpredictable and unique (RFC 6120 §4.7.3).
    pub id: &'a str,
    /// Default language of the server's stream.
    pub lang: &'a str,
}

impl Header<'_> {
    /// Appends the header, version 1.0.
    pub fn write_to(&self, out: &mut Vec<u8>, framing: Framing) {
        out.extend_from_slice(match framing {
            Framing::Tcp => b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                  xmlns:stream='http://etherx.jabber.org/streams'"
                .as_slice(),
            Framing::WebSocket => b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'",
        });
        push_attribute(out, "version", "1.0");
        for (name, value) in [
            ("from", self.from),
            ("to", self.to),
            ("id", self.id),
            ("xml:lang", self.lang),
        ] {
            if !value.is_empty() {
                push_attribute(out, name, value);
            }
        }
        out.extend_from_slice(match framing {
            Framing::Tcp => b">".as_slice(),
            Framing::WebSocket => b"/>",
        });
    }
}

/// Appends the end of the stream. On a WebSocket it is a message of its own.
pub fn write_close(out: &mut Vec<u8>, framing: Framing) {
    out.extend_from_slice(match framing {
        Framing::Tcp => b"</stream:stream>".as_slice(),
        Framing::WebSocket => b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
    });
}
