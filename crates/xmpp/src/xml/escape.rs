//! Text and attribute values, escaped and unescaped by quick-xml. Stricter than quick-xml in two
//! ways: characters that XML does not allow are never written, and references may name only
//! characters that XML allows.

use std::borrow::Cow;

use quick_xml::XmlVersion;
use quick_xml::escape::partial_escape;
use quick_xml::events::attributes::Attribute;
use quick_xml::name::QName;

/// Whether XML 1.0 §2.2 allows the character.
pub fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// Appends text content. Characters that XML does not allow become U+FFFD, so that written text can
/// always be parsed.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(escape_text(text).as_bytes());
}

/// The escaped form of text content; see [`push_text`].
pub(crate) fn escape_text(text: &str) -> Cow<'_, str> {
    partial_escape(carried(text))
}

/// Appends an attribute value for quotes of either kind; see [`push_text`].
pub fn push_attr(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(escape_attr(value).as_bytes());
}

/// The escaped form of an attribute value; see [`push_attr`].
pub(crate) fn escape_attr(value: &str) -> Cow<'_, str> {
    Attribute::from(("", carried(value))).value
}

/// Appends ` name='value'`; the name must be valid.
pub fn push_attribute(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"='");
    push_attr(out, value);
    out.push(b'\'');
}

/// The text with U+FFFD instead of each character that XML does not allow.
fn carried(text: &str) -> Cow<'_, str> {
    // No early exit, so that the loop compiles to vector instructions; almost all text is valid.
    // U+FFFE and U+FFFF begin with the byte EF.
    let suspicious = text.bytes().fold(false, |found, b| {
        found | (b == 0xEF) | ((b < 0x20) & (b != b'\t') & (b != b'\n') & (b != b'\r'))
    });
    if suspicious && !text.chars().all(is_xml_char) {
        let legal = |c| if is_xml_char(c) { c } else { '\u{FFFD}' };
        return text.chars().map(legal).collect::<String>().into();
    }
    text.into()
}

/// The value of a checked attribute: references are resolved, and each white-space character
/// becomes a space (XML 1.0 §3.3.3). An unknown reference stays as it is.
pub fn unescape_attr(raw: &str) -> Cow<'_, str> {
    let attribute = Attribute {
        key: QName(""),
        value: raw.into(),
    };
    let value = attribute.normalized_value(XmlVersion::Explicit1_0);
    value.unwrap_or(Cow::Borrowed(raw))
}

/// The character of a reference, which is given without `&` and `;`.
pub(crate) fn reference(name: &[u8]) -> Option<char> {
    Some(match name {
        b"lt" => '<',
        b"gt" => '>',
        b"amp" => '&',
        b"apos" => '\'',
        b"quot" => '"',
        [b'#', b'x', hex @ ..] => number(hex, 16)?,
        [b'#', decimal @ ..] => number(decimal, 10)?,
        _ => return None,
    })
}

fn number(digits: &[u8], radix: u32) -> Option<char> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u32;
    for &digit in digits {
        let digit = char::from(digit).to_digit(radix)?;
        value = value.checked_mul(radix)?.checked_add(digit)?;
    }
    char::from_u32(value).filter(|&c| is_xml_char(c))
}

/// The bytes with each line end as a line feed (XML 1.0 §2.11).
pub(crate) fn line_ends_of(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => {}
            b'\r' => out.push(b'\n'),
            byte => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_xml_cannot_hold() {
        let mut out = Vec::new();
        push_text(&mut out, "a<b>&\r\n\0\u{FFFE}\u{FFFD}é");
        assert_eq!(
            out,
            "a&lt;b&gt;&amp;&#13;\n\u{FFFD}\u{FFFD}\u{FFFD}é".as_bytes()
        );
        out.clear();
        push_attribute(&mut out, "a", "'\"\t\u{1}");
        assert_eq!(out, " a='&apos;&quot;&#9;\u{FFFD}'".as_bytes());
    }

    #[test]
    fn unescapes_references_and_white_space() {
        assert_eq!(
            unescape_attr("a\r\nb\tc&#9;&#xe9;&amp;lt;"),
            "a b c\t\u{e9}&lt;"
        );
        assert!(matches!(unescape_attr("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn references_must_name_a_legal_character() {
        assert_eq!(reference(b"#x10FFFF"), Some('\u{10FFFF}'));
        for bad in [
            "",
            "#",
            "#x",
            "#0",
            "#xD800",
            "#xFFFE",
            "#x110000",
            "#99999999999",
            "nbsp",
            "#X41",
            "#+1",
        ] {
            assert_eq!(reference(bad.as_bytes()), None, "{bad}");
        }
    }
}
