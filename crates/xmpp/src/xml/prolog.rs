//! The XML declaration (XML 1.0 §2.8). RFC 6120 §11.5 allows it at the start of a stream only.

use super::XmlError;
use super::chars::{is_space, name_end, space_end};

/// Longest declaration.
const LONGEST: usize = 256;

/// The length of the declaration at the start of `bytes`; none if it is not complete.
pub(crate) fn declaration(bytes: &[u8]) -> Result<Option<usize>, XmlError> {
    const TARGET: &[u8] = b"<?xml";
    let known = bytes.len().min(TARGET.len());
    if bytes[..known] != TARGET[..known] {
        return Err(XmlError::restricted("a processing instruction"));
    }
    match bytes.get(TARGET.len()) {
        None => return Ok(None),
        Some(&byte) if is_space(byte) => {}
        Some(_) => return Err(XmlError::restricted("a processing instruction")),
    }
    let window = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = memchr::memmem::find(window, b"?>") else {
        if bytes.len() >= LONGEST {
            return Err(XmlError::limit("the xml declaration is too long"));
        }
        return Ok(None);
    };
    let mut rest = &window[TARGET.len()..end];
    let version = attribute(&mut rest, b"version")?;
    if version != Some(b"1.0") {
        return Err(XmlError::syntax("the version of xml must be 1.0"));
    }
    if let Some(encoding) = attribute(&mut rest, b"encoding")?
        && !encoding.eq_ignore_ascii_case(b"utf-8")
    {
        return Err(XmlError::encoding("the encoding must be utf-8"));
    }
    if let Some(standalone) = attribute(&mut rest, b"standalone")?
        && !matches!(standalone, b"yes" | b"no")
    {
        return Err(malformed());
    }
    if space_end(rest, 0) != rest.len() {
        return Err(malformed());
    }
    Ok(Some(end + 2))
}

fn malformed() -> XmlError {
    XmlError::syntax("the xml declaration is malformed")
}

/// Takes ` name = "value"` from the front, if it comes next.
fn attribute<'a>(rest: &mut &'a [u8], name: &[u8]) -> Result<Option<&'a [u8]>, XmlError> {
    let start = space_end(rest, 0);
    let end = name_end(rest, start);
    if start == 0 || &rest[start..end] != name {
        return Ok(None);
    }
    let equals = space_end(rest, end);
    if rest.get(equals) != Some(&b'=') {
        return Err(malformed());
    }
    let open = space_end(rest, equals + 1);
    let Some(&quote @ (b'\'' | b'"')) = rest.get(open) else {
        return Err(malformed());
    };
    let len = memchr::memchr(quote, &rest[open + 1..]).ok_or_else(malformed)?;
    let value = &rest[open + 1..open + 1 + len];
    *rest = &rest[open + len + 2..];
    Ok(Some(value))
}
