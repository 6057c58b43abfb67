//! The tokens of the checker, as offsets into the element's bytes, and their receiver.

use super::scope::{Ns, Scope};

/// A qualified name, by offsets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Name {
    pub(crate) start: usize,
    pub(crate) local: usize,
    pub(crate) end: usize,
}

impl Name {
    /// The whole name as written.
    pub(crate) fn raw(self, unit: &[u8]) -> &[u8] {
        &unit[self.start..self.end]
    }

    /// The part after the colon.
    pub(crate) fn local(self, unit: &[u8]) -> &[u8] {
        &unit[self.local..self.end]
    }

    /// The part before the colon.
    pub(crate) fn prefix(self, unit: &[u8]) -> Option<&[u8]> {
        (self.local > self.start).then(|| &unit[self.start..self.local - 1])
    }
}

/// An attribute, by offsets; its value without the quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    pub(crate) name: Name,
    pub(crate) ns: Ns,
    /// Whether it is `xmlns` or `xmlns:…`.
    pub(crate) declaration: bool,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Attr {
    /// The prefix that the attribute declares, empty for the default namespace.
    pub(crate) fn declares(self, unit: &[u8]) -> Option<&[u8]> {
        if !self.declaration {
            return None;
        }
        Some(
            self.name
                .prefix(unit)
                .map_or(b"", |_| self.name.local(unit)),
        )
    }
}

/// Whether an attribute of this name declares a namespace.
pub(crate) fn is_declaration(name: &[u8]) -> bool {
    name.strip_prefix(b"xmlns")
        .is_some_and(|rest| rest.is_empty() || rest[0] == b':')
}

/// A valid start tag.
pub(crate) struct OpenTag<'a> {
    /// The element's bytes that have arrived.
    pub(crate) unit: &'a [u8],
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) name: Name,
    pub(crate) ns: Ns,
    pub(crate) attrs: &'a [Attr],
    /// The declarations that the tag's prefixes refer to, as a mask.
    pub(crate) used: u64,
    /// The number of open elements around it.
    pub(crate) depth: usize,
    /// The declarations in force inside, including those of the tag.
    pub(crate) scope: &'a Scope,
}

/// An end tag, or the end of an empty element's tag.
pub(crate) struct CloseTag<'a> {
    /// The end of the content.
    pub(crate) content_end: usize,
    pub(crate) end: usize,
    /// The number of open elements around it.
    pub(crate) depth: usize,
    /// The declarations in force inside.
    pub(crate) scope: &'a Scope,
}

/// Receives the tokens of the checker. Characters are checked when the element is complete, so
/// earlier tokens may turn out not to be UTF-8.
pub(crate) trait Sink {
    fn open(&mut self, tag: &OpenTag<'_>);
    fn text(&mut self, unit: &[u8], start: usize, end: usize, cdata: bool);
    fn close(&mut self, tag: &CloseTag<'_>);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The element is not complete.
    More,
    /// The element ends here.
    Done(usize),
}
