//! Cuts a TCP stream into events.

use super::chars::{is_space, space_end};
use super::check::Checker;
use super::event::of_unit;
use super::outline::Outline;
use super::token::Progress;
use super::tree::{Discard, stream_header};
use super::{Limits, StreamEvent, StreamFault, StreamHeader, XmlError, prolog};
use crate::ns;
use crate::stream::StreamCondition;

/// A buffer larger than this is freed when it is empty.
const KEEP: usize = 4 * 1024;
/// White space tolerated inside the closing tag.
const CLOSE_SPACE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// After a restart: white space still belongs to the previous stream (RFC 6120 §11.7).
    Restart,
    /// Before the header; an XML declaration can only come first.
    Prolog {
        first: bool,
    },
    Header,
    Between,
    Unit,
    Closing,
    Ended,
}

/// Parses one direction of an XML stream (RFC 6120 §4). It does no I/O: the caller pushes the
/// received bytes ([`push`](Self::push)), then takes events with [`next`](Self::next) until there
/// is none.
///
/// Each byte is scanned a fixed number of times, however the stream is cut. After a fault only that
/// fault is returned.
#[derive(Clone, Debug)]
pub struct StreamParser {
    checker: Checker,
    outline: Outline,
    buffer: Vec<u8>,
    /// The bytes before it have become events.
    start: usize,
    phase: Phase,
    /// The header's qualified name, for the closing tag.
    root: Vec<u8>,
    lang: String,
    fault: Option<StreamFault>,
}

impl StreamParser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> StreamParser {
        StreamParser {
            checker: Checker::new(limits),
            outline: Outline::default(),
            buffer: Vec::new(),
            start: 0,
            phase: Phase::Prolog { first: true },
            root: Vec::new(),
            lang: String::new(),
            fault: None,
        }
    }

    /// Changes the limits for bytes that are not parsed yet.
    pub fn set_limits(&mut self, limits: Limits) {
        self.checker.set_limits(limits);
    }

    /// Bytes that are not part of an event yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Expects a new stream header, as after SASL. The buffered bytes are its beginning, except
    /// white space: some clients end each element with a line feed, and that of the last element
    /// before the restart must not come before the new XML declaration.
    pub fn reset(&mut self) {
        self.checker.scope.truncate(0);
        self.checker.restart(true);
        self.phase = Phase::Restart;
        self.root.clear();
        self.lang.clear();
        self.fault = None;
    }

    /// Expects a new stream header on a stream that has just become secure, and drops the buffered
    /// bytes, which were not encrypted and may come from an attacker. Returns their number; a peer
    /// that sends some violates RFC 6120 §5.3.4.
    pub fn reset_for_tls(&mut self) -> usize {
        let dropped = self.buffered();
        self.buffer = Vec::new();
        self.start = 0;
        self.reset();
        self.phase = Phase::Prolog { first: true };
        dropped
    }

    /// Takes bytes from the peer. The caller takes all events before it pushes more; then the
    /// parser holds at most one element within the limits, and this input.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.phase == Phase::Ended || self.fault.is_some() {
            return;
        }
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
            self.buffer.shrink_to(KEEP);
        } else if self.start >= self.buffer.len() / 2 {
            // At most as many bytes are moved as were consumed since the last time.
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, if it is complete.
    #[allow(
        clippy::should_implement_trait,
        reason = "a stream that waits is not an iterator"
    )]
    pub fn next(&mut self) -> Result<Option<StreamEvent>, StreamFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.advance().inspect_err(|fault| {
            self.fault = Some(fault.clone());
            self.buffer = Vec::new();
            self.start = 0;
        })
    }

    fn advance(&mut self) -> Result<Option<StreamEvent>, StreamFault> {
        loop {
            let rest = &self.buffer[self.start..];
            match self.phase {
                Phase::Ended => return Ok(None),
                Phase::Restart => match space_end(rest, 0) {
                    len if len == rest.len() => {
                        self.enter(Phase::Restart, len);
                        return Ok(None);
                    }
                    len => self.enter(Phase::Prolog { first: true }, len),
                },
                Phase::Prolog { first } => match *rest {
                    [] | [b'<'] => return Ok(None),
                    [b'<', b'?', ..] if first => match prolog::declaration(rest)? {
                        None => return Ok(None),
                        Some(len) => self.enter(Phase::Prolog { first: false }, len),
                    },
                    [b'<', ..] => {
                        self.checker.restart(true);
                        self.enter(Phase::Header, 0);
                    }
                    [byte, ..] if is_space(byte) => {
                        let len = space_end(rest, 0);
                        self.enter(Phase::Prolog { first: false }, len);
                    }
                    _ => return Err(XmlError::syntax("the stream does not start with a header")),
                },
                Phase::Header => {
                    let Progress::Done(len) = self.checker.run(rest, &mut Discard)? else {
                        return Ok(None);
                    };
                    let header = self.header(len)?;
                    return Ok(Some(StreamEvent::Open(header)));
                }
                Phase::Between => match *rest {
                    [] | [b'<'] => return Ok(None),
                    [b'<', b'/', ..] => self.enter(Phase::Closing, 0),
                    [b'<', ..] => {
                        self.checker.restart(false);
                        self.enter(Phase::Unit, 0);
                    }
                    [byte, ..] if is_space(byte) => {
                        let len = space_end(rest, 0);
                        self.enter(Phase::Between, len);
                        return Ok(Some(StreamEvent::Whitespace));
                    }
                    _ => return Err(bad_format("text outside of a stanza")),
                },
                Phase::Unit => {
                    let Progress::Done(len) = self.checker.run(rest, &mut self.outline)? else {
                        return Ok(None);
                    };
                    let event = of_unit(
                        &mut self.outline,
                        &mut self.checker,
                        &rest[..len],
                        &self.lang,
                    )?;
                    self.enter(Phase::Between, len);
                    return Ok(Some(event));
                }
                Phase::Closing => {
                    if !closes(&rest[2..], &self.root)? {
                        return Ok(None);
                    }
                    self.enter(Phase::Ended, 0);
                    self.buffer = Vec::new();
                    self.start = 0;
                    return Ok(Some(StreamEvent::Close));
                }
            }
        }
    }

    fn enter(&mut self, phase: Phase, consumed: usize) {
        self.phase = phase;
        self.start += consumed;
    }

    /// Handles the complete start tag of the stream (RFC 6120 §4.7, §4.8).
    fn header(&mut self, len: usize) -> Result<StreamHeader, StreamFault> {
        let unit = &self.buffer[self.start..self.start + len];
        let name = self.checker.name();
        let element = stream_header(unit)?;
        if unit.ends_with(b"/>") {
            return Err(bad_format("the stream header is an empty element"));
        }
        if element.name != "stream" {
            return Err(bad_format("the stream header must be <stream:stream>"));
        }
        if element.ns != ns::STREAM {
            let text = "the stream namespace is not supported";
            return Err(XmlError::new(StreamCondition::InvalidNamespace, text));
        }
        if name.prefix(unit) != Some(b"stream") {
            let text = "the prefix of the stream namespace must be stream";
            return Err(XmlError::new(StreamCondition::BadNamespacePrefix, text));
        }
        if self.checker.scope.uri(self.checker.scope.default_ns()) != ns::CLIENT {
            let text = "the content namespace must be jabber:client";
            return Err(XmlError::new(StreamCondition::InvalidNamespace, text));
        }
        self.root = name.raw(unit).to_vec();
        let header = StreamHeader::read(&element)?;
        self.lang.clone_from(&header.lang);
        self.enter(Phase::Between, len);
        Ok(header)
    }
}

/// Whether the bytes after `</` close the stream; false if they are not complete.
fn closes(rest: &[u8], root: &[u8]) -> Result<bool, StreamFault> {
    let known = rest.len().min(root.len());
    if rest[..known] != root[..known] {
        return Err(XmlError::syntax("an end tag does not match its start tag"));
    }
    let after = &rest[known..];
    let space = space_end(after, 0);
    match after.get(space) {
        _ if space > CLOSE_SPACE => Err(XmlError::limit("the closing tag is too long")),
        Some(b'>') => Ok(true),
        Some(_) => Err(XmlError::syntax("an end tag is malformed")),
        None => Ok(false),
    }
}

fn bad_format(text: &'static str) -> XmlError {
    XmlError::new(StreamCondition::BadFormat, text)
}
