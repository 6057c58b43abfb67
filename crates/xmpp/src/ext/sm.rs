//! XEP-0198 v1.6.3: Stream Management.
//!
//! Internally, stanzas are counted in 64 bits; on the wire `h` is that number modulo 2^32 (§4).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::dataform::parse_boolean;
use crate::ns;
use crate::stanza::error::Condition;
use crate::xml::Element;

/// Bytes of the authentication code in an id.
const MAC_LEN: usize = 16;

/// A prefix of the authenticated bytes, so that the key can serve other purposes.
const MAC_CONTEXT: &[u8] = b"sestina sm-id 1\0";

/// Bytes before the JID in an id: slot and nonce.
const FIXED_LEN: usize = 2 + 16;

/// An element of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nonza {
    /// `<enable/>` (§3).
    Enable {
        /// Whether the session should be resumable.
        resume: bool,
        /// The requested time in seconds, if the client gives one.
        max_s: Option<u32>,
    },
    /// `<resume/>` (§5).
    Resume {
        /// The count of stanzas that the client received.
        h: u32,
        /// The id of the session.
        previd: String,
    },
    /// `<r/>` (§4).
    Request,
    /// `<a/>` (§4).
    Ack {
        /// The count of stanzas that the peer received.
        h: u32,
    },
}

/// An element of this namespace that is unknown or lacks a mandatory attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed stream management element")]
pub struct MalformedNonza;

impl Nonza {
    /// Reads an element; `None` if it is of another namespace.
    pub fn parse(element: &Element) -> Option<Result<Nonza, MalformedNonza>> {
        (element.ns == ns::SM).then(|| Nonza::read(element).ok_or(MalformedNonza))
    }

    fn read(element: &Element) -> Option<Nonza> {
        let h = || unsigned(element.attr("h")?);
        match element.name.as_str() {
            "enable" => Some(Nonza::Enable {
                resume: match element.attr("resume") {
                    Some(resume) => parse_boolean(resume)?,
                    None => false,
                },
                max_s: match element.attr("max") {
                    Some(max) => Some(unsigned(max)?),
                    None => None,
                },
            }),
            "resume" => Some(Nonza::Resume {
                h: h()?,
                previd: element.attr("previd")?.to_owned(),
            }),
            "r" => Some(Nonza::Request),
            "a" => Some(Nonza::Ack { h: h()? }),
            _ => None,
        }
    }
}

/// xs:unsignedInt without a sign.
fn unsigned(text: &str) -> Option<u32> {
    let text = text.trim();
    (!text.starts_with('+'))
        .then(|| text.parse().ok())
        .flatten()
}

/// The stream feature.
pub fn feature() -> Element {
    Element::new("sm", ns::SM)
}

/// `<enabled/>` (§3). With an id the session is resumable, for `max_s` seconds; `location` is the
/// address for reconnecting.
pub fn enabled(id: Option<&str>, max_s: Option<u32>, location: Option<&str>) -> Element {
    let mut element = Element::new("enabled", ns::SM);
    if let Some(id) = id {
        element.set_attr("resume", "true");
        element.set_attr("id", id);
        if let Some(max_s) = max_s {
            element.set_attr("max", max_s.to_string());
        }
        if let Some(location) = location {
            element.set_attr("location", location);
        }
    }
    element
}

/// `<resumed/>` (§5).
pub fn resumed(previd: &str, h: u32) -> Element {
    Element::new("resumed", ns::SM)
        .with_attr("previd", previd)
        .with_attr("h", h.to_string())
}

/// `<failed/>` (§5, §6), with the number of stanzas received in the lost session, if that is known.
pub fn failed(condition: Condition, h: Option<u32>) -> Element {
    let mut element = Element::new("failed", ns::SM);
    if let Some(h) = h {
        element.set_attr("h", h.to_string());
    }
    element.with_child(Element::new(condition.name(), ns::STANZA_ERRORS))
}

/// `<r/>`.
pub fn request() -> Element {
    Element::new("r", ns::SM)
}

/// `<a/>`.
pub fn ack(h: u32) -> Element {
    Element::new("a", ns::SM).with_attr("h", h.to_string())
}

/// The content of the stream error undefined-condition when the peer acknowledged too much (§6).
pub fn handled_count_too_high(error: HandledTooHigh) -> Element {
    Element::new("handled-count-too-high", ns::SM)
        .with_attr("h", error.h.to_string())
        .with_attr("send-count", error.sent.to_string())
}

/// The peer acknowledged more stanzas than it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("acknowledged {h} stanzas, but only {sent} were sent")]
pub struct HandledTooHigh {
    /// The acknowledged count.
    pub h: u32,
    /// The sent count, modulo 2^32.
    pub sent: u32,
}

/// Counts the stanzas that are sent in a session, and those that the peer has acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmCounter {
    sent: u64,
    acked: u64,
}

impl SmCounter {
    /// A counter of a session with these counts (`acked` is not higher than `sent`).
    pub fn new(sent: u64, acked: u64) -> SmCounter {
        SmCounter {
            sent,
            acked: acked.min(sent),
        }
    }

    /// How many stanzas were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many of them are acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// How many of them are not acknowledged.
    pub fn unacked(&self) -> u64 {
        self.sent - self.acked
    }

    /// Counts one more sent stanza; returns its number.
    pub fn send(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// Handles an `h` of the peer; returns how many stanzas it newly acknowledges. Nothing changes
    /// if it is too high. A lower `h` than before counts as too high, since `h` never decreases.
    pub fn acknowledge(&mut self, h: u32) -> Result<u64, HandledTooHigh> {
        let newly = distance(wire(self.acked), h);
        if newly > self.unacked() {
            return Err(HandledTooHigh {
                h,
                sent: wire(self.sent),
            });
        }
        self.acked += newly;
        Ok(newly)
    }
}

/// A count in its form for the wire: modulo 2^32.
pub fn wire(count: u64) -> u32 {
    count as u32
}

/// The distance forward from one `h` to another.
pub fn distance(from: u32, to: u32) -> u64 {
    u64::from(to.wrapping_sub(from))
}

/// The id of a resumable session. It names the session's slot and user, so that any process can
/// find the owner before authentication ends, and it cannot be forged without the cluster's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmId {
    /// Slot of the user's bare JID.
    pub slot: u16,
    /// The session's identity.
    pub nonce: u128,
    /// The user of the session: a normalised bare JID.
    pub bare: String,
}

impl SmId {
    /// The id for the client: base64url of slot, nonce, bare JID and their code.
    pub fn encode(&self, key: &[u8]) -> String {
        let mut bytes = Vec::with_capacity(FIXED_LEN + self.bare.len() + MAC_LEN);
        bytes.extend_from_slice(&self.slot.to_be_bytes());
        bytes.extend_from_slice(&self.nonce.to_be_bytes());
        bytes.extend_from_slice(self.bare.as_bytes());
        let code = code(key, &bytes);
        bytes.extend_from_slice(&code);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Parses an id that was made with this key; `None` for any other. The code is compared in
    /// constant time.
    pub fn decode(id: &str, key: &[u8]) -> Option<SmId> {
        let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (signed, given) = bytes.split_last_chunk::<MAC_LEN>()?;
        if !bool::from(code(key, signed).ct_eq(given)) {
            return None;
        }
        let (slot, rest) = signed.split_first_chunk::<2>()?;
        let (nonce, bare) = rest.split_first_chunk::<16>()?;
        Some(SmId {
            slot: u16::from_be_bytes(*slot),
            nonce: u128::from_be_bytes(*nonce),
            bare: std::str::from_utf8(bare)
                .ok()
                .filter(|bare| !bare.is_empty())?
                .to_owned(),
        })
    }
}

fn code(key: &[u8], signed: &[u8]) -> [u8; MAC_LEN] {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(MAC_CONTEXT);
    mac.update(signed);
    let mut code = [0; MAC_LEN];
    code.copy_from_slice(&mac.finalize().into_bytes()[..MAC_LEN]);
    code
}

#[cfg(test)]
#[path = "sm_tests.rs"]
mod tests;
