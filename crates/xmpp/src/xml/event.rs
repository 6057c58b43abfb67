//! The events of a stream.

use super::check::Checker;
use super::escape::line_ends_of;
use super::outline::{Outline, Root};
use super::{Element, StreamFault, XmlError, tree};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::Stanza;
use crate::stanza::error::Condition;
use crate::stream::StreamCondition;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The stream was opened.
    Open(StreamHeader),
    /// A stanza with valid addresses.
    Stanza(Stanza),
    /// A stanza with an invalid address, which is kept as it was written, so that the answer comes
    /// from it (RFC 6120 §8.3.1). The stream goes on; the answer, unless the stanza is an error
    /// itself, is an error with this condition.
    BadStanza {
        /// The stanza.
        stanza: Stanza,
        /// The condition of the answer (RFC 6120 §8.3.3.8).
        condition: Condition,
    },
    /// Another element: negotiation, or something unknown.
    Nonza(Element),
    /// XEP-0198 `<r/>`.
    SmRequest,
    /// XEP-0198 `<a h='…'/>`.
    SmAck(u32),
    /// White space between elements: a keepalive (RFC 6120 §4.6.1).
    Whitespace,
    /// The stream was closed. No event follows.
    Close,
}

/// The opening of a stream (RFC 6120 §4.7, RFC 7395 §3.4), checked. Absent attributes are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// Normalised JID.
    pub to: String,
    /// Normalised JID.
    pub from: String,
    /// Major and minor; the major is 1 or more.
    pub version: (u32, u32),
    /// `xml:lang`.
    pub lang: String,
    /// Stream id; clients send none.
    pub id: String,
    /// The content namespace.
    pub xmlns: String,
}

impl StreamHeader {
    /// Reads the attributes of `<stream:stream>` or `<open/>`.
    pub(crate) fn read(element: &Element) -> Result<StreamHeader, XmlError> {
        let jid = |name: &str| match element.attr(name) {
            None => Ok(String::new()),
            Some(text) => Jid::parse(text).map(String::from).map_err(|_| {
                XmlError::new(
                    StreamCondition::ImproperAddressing,
                    "an address of the stream header is not a jid",
                )
            }),
        };
        let text = |name: &str| element.attr(name).unwrap_or_default().to_owned();
        let version = element.attr("version").and_then(|version| {
            let (major, minor) = version.split_once('.')?;
            Some((number(major)?, number(minor)?))
        });
        let version = version.filter(|&(major, _)| major >= 1).ok_or_else(|| {
            XmlError::new(
                StreamCondition::UnsupportedVersion,
                "the version must be 1.0 or later",
            )
        })?;
        Ok(StreamHeader {
            to: jid("to")?,
            from: jid("from")?,
            version,
            lang: text("xml:lang"),
            id: text("id"),
            xmlns: ns::CLIENT.to_owned(),
        })
    }
}

fn number(digits: &str) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The event of a complete element that is not a stream header.
pub(crate) fn of_unit(
    outline: &mut Outline,
    checker: &mut Checker,
    unit: &[u8],
    lang: &str,
) -> Result<StreamEvent, StreamFault> {
    if memchr::memchr(b'\r', unit).is_none() {
        return of_plain(outline, checker, unit, lang);
    }
    // Line ends are normalised first (XML 1.0 §2.11). Some parsers of recipients do not do that, so
    // forwarded XML has only line feeds.
    let unit = line_ends_of(unit);
    checker.restart(false);
    checker.run(&unit, outline)?;
    of_plain(outline, checker, &unit, lang)
}

fn of_plain(
    outline: &Outline,
    checker: &Checker,
    unit: &[u8],
    lang: &str,
) -> Result<StreamEvent, StreamFault> {
    Ok(match outline.root() {
        Root::Stanza(kind) => match outline.stanza(kind, unit, lang) {
            (stanza, None) => StreamEvent::Stanza(stanza),
            (stanza, Some(condition)) => StreamEvent::BadStanza { stanza, condition },
        },
        Root::SmRequest => StreamEvent::SmRequest,
        Root::SmAck => StreamEvent::SmAck(outline.handled(unit).ok_or_else(|| {
            XmlError::new(StreamCondition::BadFormat, "an <a/> needs a number in h")
        })?),
        Root::Other => {
            // The checker has just accepted it, with the declarations of the stream.
            StreamEvent::Nonza(tree::read(unit, &checker.scope)?)
        }
    })
}
