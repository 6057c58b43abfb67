//! Trees: quick-xml parses them from bytes that the checker has accepted. The checker decides
//! whether they are well-formed and within the limits; input about which quick-xml is more lenient
//! never reaches it.

use compact_str::CompactString;
use quick_xml::NsReader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, NamespaceResolver, PrefixDeclaration, ResolveResult};

use super::check::Checker;
use super::escape::{push_attr, unescape_attr};
use super::scope::Scope;
use super::token::{CloseTag, OpenTag, Progress, Sink};
use super::{Element, Limits, XmlError};
use crate::ns;

/// Parses exactly one element whose default namespace is `default` unless it declares another.
pub(crate) fn parse(xml: &[u8], default: &str) -> Result<Element, XmlError> {
    let mut checker = Checker::new(Limits::trusted());
    checker.scope.declare("", default);
    match checker.run(xml, &mut Discard)? {
        Progress::Done(end) if end == xml.len() => read(xml, &checker.scope),
        Progress::Done(_) => Err(XmlError::syntax("something follows the element")),
        Progress::More => Err(incomplete()),
    }
}

/// The tree of one element that the checker has accepted with these declarations.
pub(crate) fn read(xml: &[u8], scope: &Scope) -> Result<Element, XmlError> {
    let mut reader = reader(xml, scope)?;
    let mut open: Vec<Element> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|_| unreadable())?;
        let done = match event {
            Event::Start(tag) => {
                open.push(start(reader.resolver(), &tag)?);
                continue;
            }
            Event::Empty(tag) => start(reader.resolver(), &tag)?,
            Event::End(_) => open.pop().ok_or_else(unreadable)?,
            Event::Eof => return Err(incomplete()),
            content => {
                let parent = open.last_mut().ok_or_else(unreadable)?;
                parent.push_text(text(&content)?);
                continue;
            }
        };
        match open.last_mut() {
            Some(parent) => parent.push(done),
            None => return Ok(done),
        }
    }
}

/// The start tag of a stream, accepted by the checker, as an element without content.
pub(crate) fn stream_header(tag: &[u8]) -> Result<Element, XmlError> {
    let mut reader = reader(tag, &Scope::default())?;
    match reader.read_event().map_err(|_| unreadable())? {
        Event::Start(tag) | Event::Empty(tag) => start(reader.resolver(), &tag),
        _ => Err(unreadable()),
    }
}

/// A reader at the start of `xml`, inside of the declarations of `scope`.
fn reader<'a>(xml: &'a [u8], scope: &Scope) -> Result<NsReader<&'a [u8]>, XmlError> {
    let xml =
        std::str::from_utf8(xml).map_err(|_| XmlError::encoding("the stream is not utf-8"))?;
    let mut reader = NsReader::from_str(xml);
    let resolver = reader.resolver_mut();
    // The checker bounds their number.
    resolver.set_max_namespace_bindings(usize::MAX);
    let mut value = Vec::new();
    for at in 0..scope.len() {
        // The resolver stores values in their escaped form.
        value.clear();
        push_attr(&mut value, scope.uri(super::scope::Ns::Bound(at)));
        let value = std::str::from_utf8(&value).map_err(|_| unreadable())?;
        let prefix = match scope.prefix(at) {
            "" => PrefixDeclaration::Default,
            prefix => PrefixDeclaration::Named(prefix),
        };
        let added = resolver.add(prefix, Namespace(value));
        added.map_err(|_| unreadable())?;
    }
    Ok(reader)
}

fn start(resolver: &NamespaceResolver, tag: &BytesStart<'_>) -> Result<Element, XmlError> {
    let (namespace, name) = resolver.resolve_element(tag.name());
    let mut element = Element::new(name.into_inner(), &uri(&namespace)?);
    // The checker has refused duplicate attributes.
    for attribute in tag.attributes().with_checks(false) {
        let attribute = attribute.map_err(|_| unreadable())?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (namespace, local) = resolver.resolve_attribute(attribute.key);
        let (namespace, local) = (uri(&namespace)?, local.into_inner());
        let key = match &*namespace {
            "" => CompactString::from(local),
            ns::XML => compact_str::format_compact!("xml:{local}"),
            other => compact_str::format_compact!("{{{other}}}{local}"),
        };
        let value = unescape_attr(&attribute.value).into_owned();
        element.attrs.push((key, value));
    }
    Ok(element)
}

/// The name of a namespace; empty for none.
fn uri<'a>(resolved: &ResolveResult<'a>) -> Result<std::borrow::Cow<'a, str>, XmlError> {
    match resolved {
        ResolveResult::Bound(Namespace(written)) => Ok(unescape_attr(written)),
        ResolveResult::Unbound => Ok("".into()),
        ResolveResult::Unknown(_) => Err(unreadable()),
    }
}

/// The text of a piece of content.
fn text(content: &Event<'_>) -> Result<String, XmlError> {
    match content {
        Event::Text(text) => Ok(text.xml10_content().into_owned()),
        Event::CData(text) => Ok(text.xml10_content().into_owned()),
        Event::GeneralRef(reference) => {
            let number = reference.resolve_char_ref().map_err(|_| unreadable())?;
            let named = || resolve_xml_entity(reference);
            let text = number.map(String::from).or_else(|| named().map(Into::into));
            text.ok_or_else(unreadable)
        }
        _ => Err(unreadable()),
    }
}

fn incomplete() -> XmlError {
    XmlError::syntax("the element is not complete")
}

/// The error for input that the checker accepts and quick-xml refuses; tests and fuzzing search for
/// such input.
fn unreadable() -> XmlError {
    XmlError::syntax("the element cannot be read")
}

/// Discards all tokens.
pub(crate) struct Discard;

impl Sink for Discard {
    fn open(&mut self, _: &OpenTag<'_>) {}
    fn text(&mut self, _: &[u8], _: usize, _: usize, _: bool) {}
    fn close(&mut self, _: &CloseTag<'_>) {}
}
