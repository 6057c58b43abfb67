//! An element as an owned tree, for elements that a module reads or makes; stanzas that only pass
//! through have none.

use std::io;

use compact_str::CompactString;
use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

use super::XmlError;
use super::escape::{escape_attr, escape_text};

/// An element with its attributes and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: CompactString,
    /// Namespace; empty for none.
    pub ns: CompactString,
    /// Attributes in order. The key is the plain name, `xml:lang` (any `xml:` attribute), or
    /// `{namespace}local`. Namespace declarations are not among them.
    pub attrs: Vec<(CompactString, String)>,
    /// Content in order; two texts are never neighbours after parsing.
    pub nodes: Vec<Node>,
}

/// One piece of an element's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Text, unescaped.
    Text(String),
}

impl Element {
    /// An empty element. Name and namespace come from the program, so they are not checked.
    pub fn new(name: &str, ns: &str) -> Element {
        Element {
            name: name.into(),
            ns: ns.into(),
            attrs: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Parses exactly one element, strictly. Its default namespace is `jabber:client` unless it
    /// declares another. Bounded by [`Limits::trusted`](super::Limits::trusted).
    pub fn parse(xml: &[u8]) -> Result<Element, XmlError> {
        super::tree::parse(xml, crate::ns::CLIENT)
    }

    /// The value of an attribute.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Sets an attribute, replacing its present value.
    pub fn set_attr(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.attrs.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.attrs.push((name.into(), value)),
        }
    }

    /// The same element with an attribute set.
    #[must_use]
    pub fn with_attr(mut self, name: &str, value: impl Into<String>) -> Element {
        self.set_attr(name, value);
        self
    }

    /// The same element with one more child.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Element {
        self.push(child);
        self
    }

    /// The same element with more text.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Element {
        self.push_text(text.into());
        self
    }

    /// Appends a child.
    pub fn push(&mut self, child: Element) {
        self.nodes.push(Node::Element(child));
    }

    /// Appends text, to the last node if that is text.
    pub fn push_text(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        match self.nodes.last_mut() {
            Some(Node::Text(last)) => last.push_str(&text),
            _ => self.nodes.push(Node::Text(text)),
        }
    }

    /// The first child with this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children().find(|child| child.is(name, ns))
    }

    /// The child elements in order.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The text directly inside, concatenated.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            if let Node::Text(text) = node {
                out.push_str(text);
            }
        }
        out
    }

    /// Whether it has this name and namespace.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }

    /// Appends the element in its form inside a parent whose default namespace is `parent_ns`.
    pub fn write_to(&self, out: &mut Vec<u8>, parent_ns: &str) {
        // Writing into memory does not fail.
        self.write(&mut Writer::new(out), parent_ns).ok();
    }

    fn write(&self, writer: &mut Writer<&mut Vec<u8>>, parent_ns: &str) -> io::Result<()> {
        let tag = BytesStart::from_content(self.start_tag(parent_ns), self.name.len());
        if self.nodes.is_empty() {
            return writer.write_event(Event::Empty(tag));
        }
        writer.write_event(Event::Start(tag))?;
        for node in &self.nodes {
            match node {
                Node::Element(child) => child.write(writer, &self.ns)?,
                Node::Text(text) => {
                    let text = BytesText::from_escaped(escape_text(text));
                    writer.write_event(Event::Text(text))?;
                }
            }
        }
        writer.write_event(Event::End(BytesEnd::new(self.name.as_str())))
    }

    /// The content of the angle brackets. Values are between apostrophes, as is usual in XMPP;
    /// quick-xml itself would write quotation marks.
    fn start_tag(&self, parent_ns: &str) -> String {
        let mut tag = self.name.to_string();
        let mut push = |name: &str, value: &str| {
            for part in [" ", name, "='", &escape_attr(value), "'"] {
                tag.push_str(part);
            }
        };
        if self.ns != parent_ns {
            push("xmlns", &self.ns);
        }
        let mut prefixes = 0;
        for (key, value) in &self.attrs {
            match key.strip_prefix('{').and_then(|rest| rest.rsplit_once('}')) {
                Some((ns, local)) => {
                    prefixes += 1;
                    push(&format!("xmlns:a{prefixes}"), ns);
                    push(&format!("a{prefixes}:{local}"), value);
                }
                None => push(key, value),
            }
        }
        tag
    }

    /// The element in its form inside a parent whose default namespace is `parent_ns`.
    pub fn to_bytes(&self, parent_ns: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.write_to(&mut out, parent_ns);
        out
    }
}
