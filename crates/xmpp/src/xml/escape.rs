//! Text and attribute values, escaped and unescaped.

use std::borrow::Cow;

/// Whether XML 1.0 §2.2 allows the character.
pub fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// Appends text content. Characters that XML cannot carry become U+FFFD, so that whatever is
/// written can be read again.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    push(out, text, |byte| match byte {
        b'<' => Some(b"&lt;"),
        b'>' => Some(b"&gt;"),
        b'&' => Some(b"&amp;"),
        b'\r' => Some(b"&#xD;"),
        _ => None,
    });
}

/// Appends an attribute value that stands between apostrophes; see [`push_text`].
pub fn push_attr(out: &mut Vec<u8>, value: &str) {
    push(out, value, |byte| match byte {
        b'<' => Some(b"&lt;"),
        b'>' => Some(b"&gt;"),
        b'&' => Some(b"&amp;"),
        b'\'' => Some(b"&apos;"),
        b'"' => Some(b"&quot;"),
        b'\t' => Some(b"&#x9;"),
        b'\n' => Some(b"&#xA;"),
        b'\r' => Some(b"&#xD;"),
        _ => None,
    });
}

/// Appends ` name='value'`; the name must be a valid one.
pub fn push_attribute(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"='");
    push_attr(out, value);
    out.push(b'\'');
}

fn push(out: &mut Vec<u8>, text: &str, special: impl Fn(u8) -> Option<&'static [u8]>) {
    let bytes = text.as_bytes();
    let mut done = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (replacement, len): (Option<&[u8]>, usize) = match byte {
            0xEF if matches!(bytes.get(at..at + 3), Some([_, 0xBF, 0xBE | 0xBF])) => {
                (Some("\u{FFFD}".as_bytes()), 3)
            }
            b'\t' | b'\n' | b'\r' | 0x20.. => (special(byte), 1),
            _ => (Some("\u{FFFD}".as_bytes()), 1),
        };
        if let Some(replacement) = replacement {
            out.extend_from_slice(&bytes[done..at]);
            out.extend_from_slice(replacement);
            done = at + len;
        }
        at += len;
    }
    out.extend_from_slice(&bytes[done..]);
}

/// The character that a reference stands for, given without `&` and `;`.
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

/// The value that a checked attribute stands for: references resolved, each white-space
/// character a space (XML 1.0 §3.3.3).
pub fn unescape_attr(raw: &str) -> Cow<'_, str> {
    unescape(raw, |byte| matches!(byte, b'\t' | b'\n' | b'\r'), " ")
}

/// The text that checked character data stands for: references resolved, line ends normalised
/// (XML 1.0 §2.11).
pub fn unescape_text(raw: &str) -> Cow<'_, str> {
    unescape(raw, |byte| byte == b'\r', "\n")
}

/// CDATA content: only line ends are normalised.
pub(crate) fn line_ends(raw: &str) -> Cow<'_, str> {
    if raw.contains('\r') {
        Cow::Owned(raw.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(raw)
    }
}

/// The same for bytes that hold a carriage return.
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

fn unescape<'a>(raw: &'a str, folded: impl Fn(u8) -> bool, fold: &str) -> Cow<'a, str> {
    let plain = |byte: &u8| (*byte != b'&') & !folded(*byte);
    // No early exit: almost all values need nothing, and so it compiles to vector instructions.
    if raw
        .as_bytes()
        .iter()
        .fold(true, |all, byte| all & plain(byte))
    {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.bytes().position(|byte| !plain(&byte)) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('&') {
            let end = after.find(';').unwrap_or(0);
            match reference(&after.as_bytes()[..end]) {
                Some(c) => {
                    out.push(c);
                    rest = &after[end + 1..];
                }
                None => {
                    out.push('&');
                    rest = after;
                }
            }
        } else {
            out.push_str(fold);
            // A line end of two characters is one (XML 1.0 §2.11), in values too.
            rest = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
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
            "a&lt;b&gt;&amp;&#xD;\n\u{FFFD}\u{FFFD}\u{FFFD}é".as_bytes()
        );
        out.clear();
        push_attribute(&mut out, "a", "'\"\t\u{1}");
        assert_eq!(out, " a='&apos;&quot;&#x9;\u{FFFD}'".as_bytes());
    }

    #[test]
    fn unescapes_references_and_white_space() {
        assert_eq!(
            unescape_attr("a\r\nb\tc&#9;&#xe9;&amp;lt;"),
            "a b c\t\u{e9}&lt;"
        );
        assert_eq!(unescape_text("a\r\nb\rc\n&#13;"), "a\nb\nc\n\r");
        assert!(matches!(unescape_text("plain"), Cow::Borrowed("plain")));
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
