//! The checker: one pass over one element, well-formed by XML 1.0 and Namespaces in XML, within
//! RFC 6120 §11.1 and the [`Limits`].
//! It can stop at any byte and continue when more bytes have arrived, without scanning bytes twice:
//! each state keeps only its position. Tokens go to a [`Sink`] as offsets into the element's bytes.

use memchr::{memchr, memchr3};

use super::chars::{check_chars, is_name, local_start, name_end, space_end};
use super::escape::reference;
use super::scope::{Ns, Scope};
use super::token::{Attr, CloseTag, Name, Progress, Sink, is_declaration};
use super::{Limits, XmlError};
use crate::stream::StreamCondition;

/// Longest reference, from `&` to `;`: a character's number with many leading zeros.
const REFERENCE: usize = 32;

#[derive(Clone, Copy, Debug)]
enum State {
    Root,
    Text,
    Markup,
    OpenName,
    InTag { space: bool },
    AttrName,
    Equals,
    Quote,
    Value { quote: u8 },
    EmptyEnd,
    CloseName,
    CloseEnd,
    Bang,
    CData,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) scope: usize,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    pub(super) limits: Limits,
    pub(crate) scope: Scope,
    pub(super) stack: Vec<Open>,
    pub(super) attrs: Vec<Attr>,
    state: State,
    at: usize,
    /// Start of the text or CDATA content that is being scanned.
    text: usize,
    /// Start of the tag that is being scanned.
    pub(super) tag: usize,
    pub(super) name: Name,
    attr: Name,
    value: usize,
    /// Only the start tag of the root is scanned: a stream header.
    pub(super) header: bool,
}

impl Checker {
    pub(crate) fn new(limits: Limits) -> Checker {
        let mut checker = Checker {
            limits,
            scope: Scope::default(),
            stack: Vec::new(),
            attrs: Vec::new(),
            state: State::Root,
            at: 0,
            text: 0,
            tag: 0,
            name: Name::default(),
            attr: Name::default(),
            value: 0,
            header: false,
        };
        checker.set_limits(limits);
        checker
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.limits.namespaces = limits.namespaces.min(Limits::MAX_NAMESPACES);
    }

    /// Prepares for the next element. The present declarations stay in force.
    pub(crate) fn restart(&mut self, header: bool) {
        self.stack.clear();
        self.state = State::Root;
        self.at = 0;
        self.header = header;
    }

    /// The name of the last start tag.
    pub(crate) fn name(&self) -> Name {
        self.name
    }

    /// Continues with an element whose bytes so far are `unit`, always from its first byte on. An
    /// element longer than the limit is refused when that many bytes have been checked.
    pub(crate) fn run(&mut self, unit: &[u8], sink: &mut impl Sink) -> Result<Progress, XmlError> {
        let view = unit.get(..self.limits.bytes).unwrap_or(unit);
        if view.len() < self.at {
            // The limit was lowered meanwhile.
            return Err(XmlError::limit("the stanza is too long"));
        }
        match self.scan(view, sink)? {
            Progress::More if unit.len() > view.len() => {
                Err(XmlError::limit("the stanza is too long"))
            }
            Progress::More => Ok(Progress::More),
            Progress::Done(end) => {
                check_chars(&view[..end])?;
                Ok(Progress::Done(end))
            }
        }
    }

    fn scan(&mut self, unit: &[u8], sink: &mut impl Sink) -> Result<Progress, XmlError> {
        let len = unit.len();
        let mut at = self.at;
        macro_rules! more {
            ($state:expr) => {{
                self.state = $state;
                self.at = at;
                return Ok(Progress::More);
            }};
        }
        let mut state = self.state;
        loop {
            match state {
                State::Root => match unit.first() {
                    None => more!(state),
                    Some(b'<') => {
                        self.tag = 0;
                        at = 1;
                        state = State::Markup;
                    }
                    Some(_) => return Err(bad_format("an element must start with <")),
                },
                State::Text => {
                    let Some(found) = memchr3(b'<', b'&', b'>', &unit[at..]) else {
                        at = len;
                        more!(state);
                    };
                    at += found;
                    match unit[at] {
                        b'<' => {
                            if at > self.text {
                                sink.text(unit, self.text, at, false);
                            }
                            self.tag = at;
                            at += 1;
                            state = State::Markup;
                        }
                        b'&' => match reference_len(&unit[at..])? {
                            Some(len) => at += len,
                            None => more!(state),
                        },
                        _ => {
                            if at >= self.text + 2 && &unit[at - 2..at] == b"]]" {
                                return Err(XmlError::syntax("]]> in text"));
                            }
                            at += 1;
                        }
                    }
                }
                State::Markup => {
                    let Some(&byte) = unit.get(at) else {
                        more!(state)
                    };
                    match byte {
                        b'/' if !self.stack.is_empty() => {
                            at += 1;
                            self.name.start = at;
                            state = State::CloseName;
                        }
                        b'!' => {
                            at += 1;
                            state = State::Bang;
                        }
                        b'?' => return Err(XmlError::restricted("a processing instruction")),
                        byte if is_name(byte) => {
                            self.name.start = at;
                            state = State::OpenName;
                        }
                        _ => return Err(XmlError::syntax("a name must follow <")),
                    }
                }
                State::OpenName => {
                    at = name_end(unit, at);
                    self.check_name(at - self.name.start)?;
                    if at == len {
                        more!(state);
                    }
                    let start = self.name.start;
                    let local = start + local_start(&unit[start..at])?;
                    self.name = Name {
                        start,
                        local,
                        end: at,
                    };
                    if self.stack.len() >= self.limits.depth {
                        return Err(XmlError::limit("elements are nested too deeply"));
                    }
                    self.attrs.clear();
                    state = State::InTag { space: false };
                }
                State::InTag { space } => {
                    let end = space_end(unit, at);
                    let space = space || end > at;
                    at = end;
                    let Some(&byte) = unit.get(at) else {
                        more!(State::InTag { space })
                    };
                    match byte {
                        b'>' => {
                            at += 1;
                            self.open(unit, at, false, sink)?;
                            if self.header {
                                return Ok(self.done(at));
                            }
                            self.text = at;
                            state = State::Text;
                        }
                        b'/' => {
                            at += 1;
                            state = State::EmptyEnd;
                        }
                        byte if space && is_name(byte) => {
                            if self.attrs.len() >= self.limits.attributes {
                                return Err(XmlError::limit("an element has too many attributes"));
                            }
                            self.attr.start = at;
                            state = State::AttrName;
                        }
                        _ => return Err(XmlError::syntax("a start tag is malformed")),
                    }
                }
                State::AttrName => {
                    at = name_end(unit, at);
                    self.check_name(at - self.attr.start)?;
                    if at == len {
                        more!(state);
                    }
                    let start = self.attr.start;
                    let local = start + local_start(&unit[start..at])?;
                    self.attr = Name {
                        start,
                        local,
                        end: at,
                    };
                    state = State::Equals;
                }
                State::Equals => {
                    at = space_end(unit, at);
                    match unit.get(at) {
                        None => more!(state),
                        Some(b'=') => {
                            at += 1;
                            state = State::Quote;
                        }
                        Some(_) => return Err(XmlError::syntax("an attribute has no value")),
                    }
                }
                State::Quote => {
                    at = space_end(unit, at);
                    match unit.get(at) {
                        None => more!(state),
                        Some(&quote @ (b'\'' | b'"')) => {
                            at += 1;
                            self.value = at;
                            state = State::Value { quote };
                        }
                        Some(_) => return Err(XmlError::syntax("a value must be quoted")),
                    }
                }
                State::Value { quote } => {
                    let Some(found) = memchr3(quote, b'<', b'&', &unit[at..]) else {
                        at = len;
                        more!(state);
                    };
                    at += found;
                    match unit[at] {
                        b'<' => return Err(XmlError::syntax("< in an attribute value")),
                        b'&' => match reference_len(&unit[at..])? {
                            Some(len) => at += len,
                            None => more!(state),
                        },
                        _ => {
                            let (start, end) = (self.value, at);
                            self.attrs.push(Attr {
                                name: self.attr,
                                ns: Ns::None,
                                declaration: is_declaration(self.attr.raw(unit)),
                                start,
                                end,
                            });
                            at += 1;
                            state = State::InTag { space: false };
                        }
                    }
                }
                State::EmptyEnd => match unit.get(at) {
                    None => more!(state),
                    Some(b'>') => {
                        at += 1;
                        let scope = self.scope.len();
                        self.open(unit, at, true, sink)?;
                        if self.header {
                            return Ok(self.done(at));
                        }
                        let depth = self.stack.len();
                        let scoped = &self.scope;
                        sink.close(&CloseTag {
                            content_end: at,
                            end: at,
                            depth,
                            scope: scoped,
                        });
                        self.scope.truncate(scope);
                        if depth == 0 {
                            return Ok(self.done(at));
                        }
                        self.text = at;
                        state = State::Text;
                    }
                    Some(_) => return Err(XmlError::syntax("a start tag is malformed")),
                },
                State::CloseName => {
                    at = name_end(unit, at);
                    self.check_name(at - self.name.start)?;
                    if at == len {
                        more!(state);
                    }
                    let open = self.stack.last();
                    let matches =
                        open.is_some_and(|o| unit[o.start..o.end] == unit[self.name.start..at]);
                    if !matches {
                        return Err(XmlError::syntax("an end tag does not match its start tag"));
                    }
                    state = State::CloseEnd;
                }
                State::CloseEnd => {
                    at = space_end(unit, at);
                    match unit.get(at) {
                        None => more!(state),
                        Some(b'>') => at += 1,
                        Some(_) => return Err(XmlError::syntax("an end tag is malformed")),
                    }
                    let scope = self.stack.pop().map_or(0, |open| open.scope);
                    sink.close(&CloseTag {
                        content_end: self.tag,
                        end: at,
                        depth: self.stack.len(),
                        scope: &self.scope,
                    });
                    self.scope.truncate(scope);
                    if self.stack.is_empty() {
                        return Ok(self.done(at));
                    }
                    self.text = at;
                    state = State::Text;
                }
                State::Bang => {
                    const CDATA: &[u8] = b"[CDATA[";
                    let rest = &unit[at..];
                    let known = rest.len().min(CDATA.len());
                    if self.stack.is_empty() && rest.first() == Some(&b'[') {
                        return Err(bad_format("cdata outside of an element"));
                    }
                    if rest[..known] != CDATA[..known] {
                        return Err(match rest[0] {
                            b'-' => XmlError::restricted("a comment"),
                            b'D' | b'E' | b'A' | b'N' => XmlError::restricted("a dtd"),
                            _ => XmlError::syntax("<! starts nothing that is known"),
                        });
                    }
                    if known < CDATA.len() {
                        more!(state);
                    }
                    at += CDATA.len();
                    self.text = at;
                    state = State::CData;
                }
                State::CData => {
                    let Some(found) = memchr(b'>', &unit[at..]) else {
                        at = len;
                        more!(state);
                    };
                    at += found;
                    if at >= self.text + 2 && &unit[at - 2..at] == b"]]" {
                        sink.text(unit, self.text, at - 2, true);
                        self.text = at + 1;
                        state = State::Text;
                    }
                    at += 1;
                }
            }
        }
    }

    fn done(&mut self, at: usize) -> Progress {
        self.at = at;
        self.state = State::Root;
        Progress::Done(at)
    }

    fn check_name(&self, len: usize) -> Result<(), XmlError> {
        if len > self.limits.name {
            return Err(XmlError::limit("a name is too long"));
        }
        Ok(())
    }
}

fn bad_format(text: &'static str) -> XmlError {
    XmlError::new(StreamCondition::BadFormat, text)
}

/// The length of the reference at the start, if it is complete and allowed.
fn reference_len(bytes: &[u8]) -> Result<Option<usize>, XmlError> {
    let window = &bytes[1..bytes.len().min(REFERENCE)];
    let Some(len) = window
        .iter()
        .position(|b| !b.is_ascii_alphanumeric() && *b != b'#')
    else {
        if bytes.len() >= REFERENCE {
            return Err(XmlError::limit("a reference is too long"));
        }
        return Ok(None);
    };
    let name = &window[..len];
    if window[len] != b';' || name.is_empty() {
        return Err(XmlError::syntax("& starts no reference"));
    }
    if reference(name).is_some() {
        Ok(Some(len + 2))
    } else if name.starts_with(b"#") {
        Err(XmlError::syntax(
            "a reference to a character that is not allowed",
        ))
    } else {
        Err(XmlError::restricted(
            "a reference to an entity that is not predefined",
        ))
    }
}
