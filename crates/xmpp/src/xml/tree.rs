//! Trees from checked bytes.

use compact_str::CompactString;

use super::check::Checker;
use super::escape::{line_ends, unescape_attr, unescape_text};
use super::scope::{Ns, Scope};
use super::token::{CloseTag, OpenTag, Progress, Sink};
use super::{Element, Limits, XmlError};

/// Parses exactly one element whose default namespace, where undeclared, is `default`.
pub(crate) fn parse(xml: &[u8], default: &str) -> Result<Element, XmlError> {
    let mut scope = Scope::default();
    scope.declare("", default);
    build(xml, scope, Limits::trusted())
}

/// Parses exactly one element under the declarations of its surroundings.
pub(crate) fn build(xml: &[u8], scope: Scope, limits: Limits) -> Result<Element, XmlError> {
    let mut checker = Checker::new(limits);
    checker.scope = scope;
    let mut tree = Tree::default();
    match checker.run(xml, &mut tree)? {
        Progress::Done(end) if end == xml.len() => tree
            .take()
            .ok_or_else(|| XmlError::syntax("there is no element")),
        Progress::Done(_) => Err(XmlError::syntax("something follows the element")),
        Progress::More => Err(XmlError::syntax("the element is not complete")),
    }
}

/// Makes a tree of what the checker finds.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    open: Vec<Element>,
    done: Option<Element>,
}

impl Tree {
    /// The element: the complete one, or else the root as far as it was read.
    pub(crate) fn take(&mut self) -> Option<Element> {
        let open = std::mem::take(&mut self.open);
        self.done.take().or_else(|| open.into_iter().next())
    }
}

impl Sink for Tree {
    fn open(&mut self, tag: &OpenTag<'_>) {
        let mut element = Element {
            name: CompactString::from_utf8_lossy(tag.name.local(tag.unit)),
            ns: tag.scope.uri(tag.ns).into(),
            attrs: Vec::new(),
            nodes: Vec::new(),
        };
        for attr in tag.attrs {
            if attr.declares(tag.unit).is_some() {
                continue;
            }
            let local = String::from_utf8_lossy(attr.name.local(tag.unit));
            let key = match attr.ns {
                Ns::None => CompactString::from(local),
                Ns::Xml => compact_str::format_compact!("xml:{local}"),
                bound => compact_str::format_compact!("{{{}}}{local}", tag.scope.uri(bound)),
            };
            let raw = String::from_utf8_lossy(&tag.unit[attr.start..attr.end]);
            element.attrs.push((key, unescape_attr(&raw).into_owned()));
        }
        self.open.push(element);
    }

    fn text(&mut self, unit: &[u8], start: usize, end: usize, cdata: bool) {
        let raw = String::from_utf8_lossy(&unit[start..end]);
        let text = if cdata {
            line_ends(&raw)
        } else {
            unescape_text(&raw)
        };
        if let Some(element) = self.open.last_mut() {
            element.push_text(text.into_owned());
        }
    }

    fn close(&mut self, _: &CloseTag<'_>) {
        let Some(element) = self.open.pop() else {
            return;
        };
        match self.open.last_mut() {
            Some(parent) => parent.push(element),
            None => self.done = Some(element),
        }
    }
}
