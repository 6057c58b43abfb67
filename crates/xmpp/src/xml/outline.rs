//! From a checked element to the envelope: attributes are read, children indexed, the payload
//! copied, and prefixes that children inherit are declared on them.

use std::ops::Range;

use bytes::Bytes;

use super::escape::{push_attr, unescape_attr};
use super::scope::{Ns, Scope};
use super::token::{Attr, CloseTag, Name, OpenTag, Sink};
use crate::jid::Jid;
use crate::ns;
use crate::stanza::error::Condition;
use crate::stanza::{Kind, Stanza};

/// The kind of the root element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Stanza(Kind),
    /// `<r/>` of stream management.
    SmRequest,
    /// `<a/>` of stream management.
    SmAck,
    Other,
}

/// The place of a child's namespace.
#[derive(Clone, Debug)]
enum Written {
    /// None: it is `jabber:client`.
    Client,
    /// In the child's own start tag.
    Own(Range<usize>),
    /// A declaration that must be added.
    Added(Ns),
}

#[derive(Clone, Debug)]
struct Child {
    start: usize,
    end: usize,
    name: Name,
    ns: Written,
    /// Declarations to add after the name, and the position of the child's namespace in them.
    added: Vec<u8>,
    added_ns: Range<usize>,
    /// The plain form of a namespace that is written with references or white space.
    plain: Option<Vec<u8>>,
    /// The child has no default namespace, while that of a stanza is `jabber:client`.
    undeclare: bool,
}

/// The attributes of the root that are read, in the order of [`Outline::values`].
const NAMES: [&[u8]; 5] = [b"type", b"id", b"from", b"to", b"h"];
const LANG: usize = NAMES.len();

/// Collects one element after the other; its buffers are reused.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    root: Root,
    values: [Option<Range<usize>>; NAMES.len() + 1],
    attrs: Vec<u8>,
    content: Range<usize>,
    children: Vec<Child>,
    /// How many declarations are in force at the root.
    outer: usize,
    /// Those declarations that the current child refers to.
    used: u64,
}

impl Default for Outline {
    fn default() -> Outline {
        Outline {
            root: Root::Other,
            values: Default::default(),
            attrs: Vec::new(),
            content: 0..0,
            children: Vec::new(),
            outer: 0,
            used: 0,
        }
    }
}

impl Sink for Outline {
    fn open(&mut self, tag: &OpenTag<'_>) {
        match tag.depth {
            0 => self.open_root(tag),
            1 => self.open_child(tag),
            _ => {}
        }
        if tag.depth > 0 {
            self.used |= tag.used & self.outer_mask();
        }
    }

    fn text(&mut self, _: &[u8], _: usize, _: usize, _: bool) {}

    fn close(&mut self, tag: &CloseTag<'_>) {
        match tag.depth {
            0 => self.content.end = tag.content_end,
            1 => self.close_child(tag),
            _ => {}
        }
    }
}

impl Outline {
    pub(crate) fn root(&self) -> Root {
        self.root
    }

    fn outer_mask(&self) -> u64 {
        1u64.checked_shl(self.outer as u32)
            .map_or(u64::MAX, |bit| bit - 1)
    }

    fn open_root(&mut self, tag: &OpenTag<'_>) {
        self.values = Default::default();
        self.attrs.clear();
        self.children.clear();
        self.content = tag.end..tag.end;
        self.outer = tag.scope.len();
        self.root = match (tag.scope.uri(tag.ns), tag.name.local(tag.unit)) {
            (ns::CLIENT, b"message") => Root::Stanza(Kind::Message),
            (ns::CLIENT, b"presence") => Root::Stanza(Kind::Presence),
            (ns::CLIENT, b"iq") => Root::Stanza(Kind::Iq),
            (ns::SM, b"r") => Root::SmRequest,
            (ns::SM, b"a") => Root::SmAck,
            _ => Root::Other,
        };
        if self.root == Root::Other {
            return;
        }
        let mut declared = 0;
        for attr in tag.attrs {
            if attr.declares(tag.unit).is_none() {
                self.root_attr(tag, attr, &mut declared);
            }
        }
    }

    fn root_attr(&mut self, tag: &OpenTag<'_>, attr: &Attr, declared: &mut u64) {
        let raw = attr.name.raw(tag.unit);
        let known = match attr.ns {
            Ns::None => NAMES.iter().position(|&name| name == raw),
            Ns::Xml => (raw == b"xml:lang").then_some(LANG),
            Ns::Bound(_) => None,
        };
        let ack = self.root == Root::SmAck;
        if let Some(known) =
            known.filter(|&known| ack || NAMES.get(known) != Some(&b"h".as_slice()))
        {
            self.values[known] = Some(attr.start..attr.end);
            return;
        }
        self.attrs.push(b' ');
        // From the name to the closing quote.
        self.attrs.extend_from_slice(raw);
        self.attrs.push(b'=');
        self.attrs
            .extend_from_slice(&tag.unit[attr.start - 1..attr.end + 1]);
        if let Ns::Bound(at) = attr.ns
            && *declared & attr.ns.bit() == 0
        {
            *declared |= attr.ns.bit();
            declare(&mut self.attrs, tag.scope, at);
        }
    }

    fn open_child(&mut self, tag: &OpenTag<'_>) {
        self.used = 0;
        let own = |wanted: &[u8]| {
            let mut attrs = tag.attrs.iter();
            attrs
                .find(|attr| attr.declares(tag.unit) == Some(wanted))
                .map(|a| a.start..a.end)
        };
        let mut undeclare = false;
        let own_default = own(b"");
        if own_default.is_none() {
            match tag.scope.default_ns() {
                Ns::None => undeclare = true,
                default if tag.scope.uri(default) == ns::CLIENT => {}
                default => self.used |= default.bit(),
            }
        }
        let written = match tag.name.prefix(tag.unit) {
            Some(prefix) => own(prefix).map_or(Written::Added(tag.ns), Written::Own),
            None => match own_default {
                Some(range) => Written::Own(range),
                None if tag.scope.uri(tag.ns) == ns::CLIENT => Written::Client,
                None => Written::Added(tag.ns),
            },
        };
        let plain = match &written {
            Written::Own(range) if tag.unit[range.clone()] != *tag.scope.uri(tag.ns).as_bytes() => {
                let mut plain = Vec::new();
                push_attr(&mut plain, tag.scope.uri(tag.ns));
                Some(plain)
            }
            _ => None,
        };
        self.children.push(Child {
            start: tag.start,
            end: tag.end,
            name: tag.name,
            ns: written,
            added: Vec::new(),
            added_ns: 0..0,
            plain,
            undeclare,
        });
    }

    fn close_child(&mut self, tag: &CloseTag<'_>) {
        let Some(child) = self.children.last_mut() else {
            return;
        };
        child.end = tag.end;
        if child.undeclare {
            child.added.extend_from_slice(b" xmlns='");
            child.added_ns = child.added.len()..child.added.len();
            child.added.push(b'\'');
        }
        let mut used = self.used;
        while used != 0 {
            let at = used.trailing_zeros() as usize;
            used &= used - 1;
            let value = declare(&mut child.added, tag.scope, at);
            if matches!(child.ns, Written::Added(ns) if ns == Ns::Bound(at)) {
                child.added_ns = value;
            }
        }
    }

    /// The value of an attribute of the root, by its index in [`NAMES`].
    fn value(&self, unit: &[u8], at: usize) -> Option<String> {
        let range = self.values.get(at)?.clone()?;
        let raw = std::str::from_utf8(unit.get(range)?).ok()?;
        Some(unescape_attr(raw).into_owned())
    }

    /// The `h` of an `<a/>`.
    pub(crate) fn handled(&self, unit: &[u8]) -> Option<u32> {
        let value = self.value(unit, 4)?;
        let digits = value.trim();
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    }

    /// The stanza, and the condition of an invalid address if there is one. `lang` is that of the
    /// stream.
    pub(crate) fn stanza(
        &self,
        kind: Kind,
        unit: &[u8],
        lang: &str,
    ) -> (Stanza, Option<Condition>) {
        let mut wrong = None;
        // The address, and its written form if that differs.
        let mut jid = |at: usize| match self.value(unit, at) {
            None => (String::new(), String::new()),
            Some(text) => match Jid::parse(&text) {
                Ok(jid) if jid.as_str() == text => (text, String::new()),
                Ok(jid) => (jid.into(), text),
                Err(_) => {
                    wrong = Some(Condition::JidMalformed);
                    (text, String::new())
                }
            },
        };
        let ((from, _), (to, written_to)) = (jid(2), jid(3));
        let (payload, index) = self.payload(unit);
        let stanza = Stanza {
            kind,
            type_: self.value(unit, 0).unwrap_or_default(),
            id: self.value(unit, 1).unwrap_or_default(),
            from,
            to,
            written_to,
            lang: self.value(unit, LANG).unwrap_or_else(|| lang.to_owned()),
            attrs: String::from_utf8_lossy(&self.attrs).into_owned(),
            payload,
            index,
        };
        (stanza, wrong)
    }

    fn payload(&self, unit: &[u8]) -> (Bytes, Vec<u32>) {
        let mut index = Vec::with_capacity(self.children.len() * 6);
        let untouched = |child: &Child| child.added.is_empty() && child.plain.is_none();
        if self.children.iter().all(untouched) {
            for child in &self.children {
                push_entry(&mut index, child, self.content.start);
            }
            return (Bytes::copy_from_slice(&unit[self.content.clone()]), index);
        }
        let mut payload = Vec::with_capacity(self.content.len() + 128);
        let mut copied = self.content.start;
        for child in &self.children {
            payload.extend_from_slice(&unit[copied..child.start]);
            // Nothing changes up to the end of the name; the declarations are added after it.
            let name_shift = |at: usize| at - child.start + payload.len();
            let (start, local) = (name_shift(child.start), name_shift(child.name.local));
            payload.extend_from_slice(&unit[child.start..child.name.end]);
            let added_at = payload.len();
            payload.extend_from_slice(&child.added);
            copied = child.name.end;
            let ns = match (&child.ns, &child.plain) {
                (Written::Client, _) => 0..0,
                (Written::Added(_), _) => {
                    added_at + child.added_ns.start..added_at + child.added_ns.end
                }
                (Written::Own(range), plain) => {
                    payload.extend_from_slice(&unit[copied..range.start]);
                    let at = payload.len();
                    match plain {
                        Some(plain) => payload.extend_from_slice(plain),
                        None => payload.extend_from_slice(&unit[range.clone()]),
                    }
                    copied = range.end;
                    at..payload.len()
                }
            };
            payload.extend_from_slice(&unit[copied..child.end]);
            copied = child.end;
            let local_len = child.name.end - child.name.local;
            let entry = [start, payload.len(), local, local_len, ns.start, ns.len()];
            index.extend(entry.map(|n| n as u32));
        }
        payload.extend_from_slice(&unit[copied..self.content.end]);
        (Bytes::from(payload), index)
    }
}

/// Appends the entry of a child that was copied unchanged; `base` is the start of the payload.
fn push_entry(index: &mut Vec<u32>, child: &Child, base: usize) {
    let (ns, ns_len) = match &child.ns {
        Written::Own(range) => (range.start - base, range.len()),
        Written::Client | Written::Added(_) => (0, 0),
    };
    let (start, end) = (child.start - base, child.end - base);
    let (local, local_len) = (child.name.local - base, child.name.end - child.name.local);
    index.extend([start, end, local, local_len, ns, ns_len].map(|n| n as u32));
}

/// Appends a declaration and returns the position of its value.
fn declare(out: &mut Vec<u8>, scope: &Scope, at: usize) -> Range<usize> {
    let prefix = scope.prefix(at);
    out.extend_from_slice(b" xmlns");
    if !prefix.is_empty() {
        out.push(b':');
        out.extend_from_slice(prefix.as_bytes());
    }
    out.extend_from_slice(b"='");
    let start = out.len();
    push_attr(out, scope.uri(Ns::Bound(at)));
    let range = start..out.len();
    out.push(b'\'');
    range
}
