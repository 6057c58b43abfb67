//! Sends stanzas of a bound session from any task, with requests for acknowledgements.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::login::SM;
use super::sm::Counters;
use crate::net::link::Link;
use crate::net::ws;

const REQUEST: &[u8] = b"<r xmlns='urn:xmpp:sm:3'/>";

/// A bound session's sending side. Numbering and writing happen under one lock, so the server
/// counts stanzas in the same order.
#[derive(Debug)]
pub struct Handle {
    link: Arc<Link>,
    websocket: bool,
    ask_every: u32,
    state: Mutex<State>,
    asked: AtomicU64,
}

#[derive(Debug)]
struct State {
    counters: Counters,
    since_request: u32,
}

/// The kind of an incoming element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    Message,
    /// A presence.
    Presence,
    /// An IQ.
    Iq,
    /// An acknowledgement, with the tags of the newly acknowledged stanzas.
    Ack(Vec<u32>),
    /// A request for an acknowledgement, answered already.
    Request,
    /// Any other element: stream errors, the closing frame of a WebSocket.
    Other,
}

impl Handle {
    /// A handle that asks for an acknowledgement with every `ask_every`th stanza (0: never).
    #[must_use]
    pub fn new(link: Arc<Link>, websocket: bool, ask_every: u32, counters: Counters) -> Self {
        Self {
            link,
            websocket,
            ask_every,
            state: Mutex::new(State {
                counters,
                since_request: 0,
            }),
            asked: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the server has asked for an acknowledgement.
    #[must_use]
    pub fn requests_answered(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// The connection.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Gives access to the counters.
    pub fn counters<T>(&self, look: impl FnOnce(&Counters) -> T) -> T {
        look(&self.state().counters)
    }

    /// Takes the counters out, for a resumption on another connection.
    #[must_use]
    pub fn take_counters(&self) -> Counters {
        std::mem::take(&mut self.state().counters)
    }

    /// Sends a stanza, and in the same write a request if one is due.
    ///
    /// # Errors
    /// When the connection is gone; the stanza counts as sent all the same.
    pub fn send(&self, stanza: &[u8], tag: Option<u32>) -> io::Result<()> {
        let mut state = self.state();
        state.counters.sent(stanza, tag);
        state.since_request += 1;
        if self.ask_every == 0 || state.since_request < self.ask_every {
            return self.write(&[stanza]);
        }
        state.since_request = 0;
        self.write(&[stanza, REQUEST])
    }

    /// Asks for an acknowledgement now.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn request(&self) -> io::Result<()> {
        let mut state = self.state();
        state.since_request = 0;
        self.write(&[REQUEST])
    }

    /// After a resumption, drops the stanzas that the server handled and sends the others again, in
    /// order. Returns the tags that the server acknowledged, or `None` when it acknowledges too
    /// much.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn resumed(&self, handled: u32) -> io::Result<Option<Vec<u32>>> {
        let mut state = self.state();
        let Some(tags) = state.counters.ack(handled) else {
            return Ok(None);
        };
        let again: Vec<&[u8]> = state
            .counters
            .unacked()
            .map(|unacked| unacked.stanza.as_slice())
            .collect();
        if !again.is_empty() {
            self.write(&again)?;
            self.write(&[REQUEST])?;
        }
        Ok(Some(tags))
    }

    /// Sends an acknowledgement without a request.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn acknowledge(&self) -> io::Result<()> {
        let state = self.state();
        let count = format!("<a xmlns='{SM}' h='{}'/>", state.counters.received);
        self.write(&[count.as_bytes()])
    }

    /// Ends the stream in order, so that the server ends the session at once.
    pub fn close(&self) {
        let end: &[u8] = if self.websocket {
            b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"
        } else {
            b"</stream:stream>"
        };
        // A connection that is gone needs no end.
        drop(self.write(&[end]));
        self.link.close_notify();
    }

    fn write(&self, elements: &[&[u8]]) -> io::Result<()> {
        if !self.websocket
            && let [element] = elements
        {
            return self.link.send(element);
        }
        let mut out = Vec::with_capacity(elements.iter().map(|e| e.len() + 14).sum());
        for element in elements {
            if self.websocket {
                ws::text(element, &mut out);
            } else {
                out.extend_from_slice(element);
            }
        }
        self.link.send(&out)
    }

    /// Counts an incoming element, and answers a request for an acknowledgement.
    ///
    /// # Errors
    /// When the connection is gone, or the server acknowledges stanzas that were never sent.
    pub fn incoming(&self, element: &[u8]) -> io::Result<Kind> {
        let name = local_name(element);
        let stanza = match name {
            b"message" => Kind::Message,
            b"presence" => Kind::Presence,
            b"iq" => Kind::Iq,
            b"r" => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                let state = self.state();
                let answer = format!("<a xmlns='{SM}' h='{}'/>", state.counters.received);
                self.write(&[answer.as_bytes()])?;
                return Ok(Kind::Request);
            }
            b"a" => {
                let h = number_attribute(element, b" h=").ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "an <a/> without a count")
                })?;
                return self.state().counters.ack(h).map(Kind::Ack).ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the server acknowledged more than was sent",
                    )
                });
            }
            _ => return Ok(Kind::Other),
        };
        let mut state = self.state();
        state.counters.received = state.counters.received.wrapping_add(1);
        Ok(stanza)
    }
}

fn local_name(element: &[u8]) -> &[u8] {
    let tag = &element[1.min(element.len())..];
    let end = tag
        .iter()
        .position(|b| matches!(b, b' ' | b'>' | b'/' | b'\t' | b'\r' | b'\n'));
    let name = &tag[..end.unwrap_or(tag.len())];
    memchr::memchr(b':', name).map_or(name, |colon| &name[colon + 1..])
}

fn number_attribute(element: &[u8], prefix: &[u8]) -> Option<u32> {
    let at = memchr::memmem::find(element, prefix)? + prefix.len() + 1;
    let digits = &element[at.min(element.len())..];
    let end = digits.iter().position(|b| !b.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_counts_are_found_in_any_spelling() {
        assert_eq!(local_name(b"<sm:r/>"), b"r");
        assert_eq!(local_name(b"<message\n to='x'>"), b"message");
        assert_eq!(number_attribute(b"<a h='17' xmlns='x'/>", b" h="), Some(17));
        assert_eq!(
            number_attribute(b"<a xmlns='x' h=\"4294967295\"/>", b" h="),
            Some(u32::MAX)
        );
        assert_eq!(number_attribute(b"<a/>", b" h="), None);
        assert_eq!(number_attribute(b"<a h=", b" h="), None);
    }
}
