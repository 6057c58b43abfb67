//! Changes stanzas, writes them, and answers them.

use bytes::Bytes;
use memchr::memmem;

use super::error::{Condition, StanzaError};
use super::{Child, Kind, Stanza};
use crate::ns;
use crate::xml::Element;
use crate::xml::escape::push_attribute;

/// The number of index entries for one child.
const ENTRY: usize = 6;

impl Stanza {
    /// Appends a child element.
    pub fn push_element(&mut self, element: &Element) {
        let mut payload = self.take_payload();
        let start = payload.len();
        element.write_to(&mut payload, ns::CLIENT);
        let name_at = start + 1;
        let (ns_at, ns_len) = if element.ns == ns::CLIENT {
            (0, 0)
        } else {
            let at = name_at + element.name.len() + " xmlns='".len();
            let len = payload[at..]
                .iter()
                .position(|&byte| byte == b'\'')
                .unwrap_or(0);
            (at, len)
        };
        self.set_payload(payload, [start, name_at, element.name.len(), ns_at, ns_len]);
    }

    /// Appends a child element that is already serialised. It must be one well-formed element with
    /// this name and namespace, and must declare all prefixes that it uses.
    pub fn push_raw(&mut self, xml: &[u8], name: &str, ns: &str) {
        let start = self.payload.len();
        let tag_name = xml.get(1..).unwrap_or(&[]);
        let prefix = tag_name
            .iter()
            .take_while(|byte| !b":/> \t\r\n".contains(byte))
            .count();
        let local = if tag_name.get(prefix) == Some(&b':') {
            prefix + 2
        } else {
            1
        };
        let (ns_at, ns_len) = if ns == ns::CLIENT {
            (0, 0)
        } else if ns.is_empty() {
            // Length 0 with an offset means "no namespace"; any offset except 0 is possible.
            (start + 1, 0)
        } else {
            match memmem::find(xml, ns.as_bytes()) {
                Some(at) => (start + at, ns.len()),
                // The namespace is written with references: the element is written anew.
                None => match Element::parse(xml) {
                    Ok(element) => return self.push_element(&element),
                    Err(_) => return,
                },
            }
        };
        let mut payload = self.take_payload();
        payload.extend_from_slice(xml);
        self.set_payload(payload, [start, start + local, name.len(), ns_at, ns_len]);
    }

    fn take_payload(&mut self) -> Vec<u8> {
        Vec::from(std::mem::take(&mut self.payload))
    }

    fn set_payload(&mut self, payload: Vec<u8>, entry: [usize; ENTRY - 1]) {
        let [start, rest @ ..] = entry;
        let offset = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.index.extend([offset(start), offset(payload.len())]);
        self.index.extend(rest.map(offset));
        self.payload = Bytes::from(payload);
    }

    /// Keeps the child elements for which `keep` is true, and text between them. Nothing is copied
    /// if all are kept.
    pub fn retain_children(&mut self, mut keep: impl FnMut(&Child<'_>) -> bool) {
        let kept: Vec<bool> = self.children().map(|child| keep(&child)).collect();
        if kept.iter().all(|&kept| kept) {
            return;
        }
        let mut payload = Vec::with_capacity(self.payload.len());
        let mut index = Vec::with_capacity(self.index.len());
        let mut copied = 0usize;
        let mut removed = 0u32;
        for (entry, kept) in self.index.chunks_exact(ENTRY).zip(kept) {
            let &[start, end, name_at, name_len, ns_at, ns_len] = entry else {
                continue;
            };
            if kept {
                let ns_at = if ns_at == 0 { 0 } else { ns_at - removed };
                let shifted = [start - removed, end - removed, name_at - removed];
                index.extend(shifted);
                index.extend([name_len, ns_at, ns_len]);
            } else {
                payload.extend_from_slice(&self.payload[copied..start as usize]);
                copied = end as usize;
                removed += end - start;
            }
        }
        payload.extend_from_slice(&self.payload[copied..]);
        self.payload = Bytes::from(payload);
        self.index = index;
    }

    /// The text of the first child with this namespace and name, unescaped.
    pub fn text_of(&self, ns: &str, name: &str) -> Option<String> {
        self.element(ns, name).map(|element| element.text())
    }

    /// The first child with this namespace and name, parsed.
    pub fn element(&self, ns: &str, name: &str) -> Option<Element> {
        Element::parse(self.child(ns, name)?.xml).ok()
    }

    /// Appends the stanza in its form for the wire. `to` is the recipient of a stanza that names
    /// none; a named one is kept (RFC 6121 §8.5.2.1.1: a stanza to a bare JID arrives with the bare
    /// JID). `declare_ns` writes `xmlns='jabber:client'`, which WebSocket frames and forwarded
    /// copies need.
    pub fn write_to(&self, out: &mut Vec<u8>, to: Option<&str>, declare_ns: bool) {
        let name = self.kind.name();
        out.reserve(self.payload.len() + self.from.len() + self.attrs.len() + 128);
        out.push(b'<');
        out.extend_from_slice(name.as_bytes());
        if declare_ns {
            out.extend_from_slice(b" xmlns='jabber:client'");
        }
        let to = match to {
            Some(to) if self.to.is_empty() => to,
            _ => &self.to,
        };
        for (attribute, value) in [
            ("from", self.from.as_str()),
            ("to", to),
            ("type", &self.type_),
            ("id", &self.id),
            ("xml:lang", &self.lang),
        ] {
            if !value.is_empty() {
                push_attribute(out, attribute, value);
            }
        }
        out.extend_from_slice(self.attrs.as_bytes());
        if self.payload.is_empty() {
            out.extend_from_slice(b"/>");
        } else {
            out.push(b'>');
            out.extend_from_slice(&self.payload);
            out.extend_from_slice(b"</");
            out.extend_from_slice(name.as_bytes());
            out.push(b'>');
        }
    }

    /// The error answer: same kind and id, swapped addresses, without the payload. Errors must not
    /// be answered with errors (RFC 6120 §8.3.1), so the caller checks
    /// [`is_error`](Stanza::is_error) first.
    pub fn error_reply(&self, condition: Condition, text: Option<&str>) -> Stanza {
        let mut error = StanzaError::new(condition);
        error.text = text.map(str::to_owned);
        self.error_reply_with(&error)
    }

    /// [`error_reply`](Stanza::error_reply) with all parts of an error.
    pub fn error_reply_with(&self, error: &StanzaError) -> Stanza {
        let mut reply = self.reply(self.kind, "error");
        reply.push_element(&error.to_element());
        reply
    }

    /// The IQ result: same id, swapped addresses, with or without a payload.
    pub fn result_reply(&self, payload: Option<&Element>) -> Stanza {
        let mut reply = self.reply(Kind::Iq, "result");
        if let Some(payload) = payload {
            reply.push_element(payload);
        }
        reply
    }

    fn reply(&self, kind: Kind, type_: &str) -> Stanza {
        let mut reply = Stanza::new(kind);
        reply.type_ = type_.to_owned();
        reply.id.clone_from(&self.id);
        let written = !self.written_to.is_empty();
        reply
            .from
            .clone_from(if written { &self.written_to } else { &self.to });
        reply.to.clone_from(&self.from);
        reply
    }

    /// The error of an error stanza.
    pub fn error(&self) -> Option<StanzaError> {
        self.element(ns::CLIENT, "error")
            .map(|element| StanzaError::from_element(&element))
    }
}
