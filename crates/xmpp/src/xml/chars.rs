//! Characters and names (XML 1.0 §2.2, §2.3; Namespaces in XML §4).

use super::XmlError;

const SPACE: u8 = 1;
const NAME: u8 = 2;
const START: u8 = 4;

/// The classes of each byte. Bytes above ASCII count as part of a name until decoded.
const CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\r' | b'\n' => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => NAME | START,
            b'0'..=b'9' | b'-' | b'.' | b':' | 0x80.. => NAME,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// XML white space.
pub(crate) fn is_space(byte: u8) -> bool {
    CLASSES[byte as usize] & SPACE != 0
}

/// Whether the byte may be in a qualified name; this includes the colon and undecoded bytes.
pub(crate) fn is_name(byte: u8) -> bool {
    CLASSES[byte as usize] & NAME != 0
}

/// The first position from `at` whose byte is not part of a name; the length if there is none.
pub(crate) fn name_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or(&[]);
    at + rest
        .iter()
        .position(|&byte| !is_name(byte))
        .unwrap_or(rest.len())
}

/// The first position from `at` whose byte is not white space; the length if there is none.
pub(crate) fn space_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or(&[]);
    at + rest
        .iter()
        .position(|&byte| !is_space(byte))
        .unwrap_or(rest.len())
}

/// Checks a qualified name and returns the start of its local part.
pub(crate) fn local_start(name: &[u8]) -> Result<usize, XmlError> {
    // Almost all names: ASCII without a colon. The caller stopped at the first byte that is not
    // part of a name.
    if CLASSES[name.first().map_or(0, |&first| first as usize)] & START != 0
        && name.iter().all(|&byte| byte < 0x80 && byte != b':')
    {
        return Ok(0);
    }
    let local = match memchr::memchr(b':', name) {
        Some(colon) => {
            ncname(&name[..colon])?;
            colon + 1
        }
        None => 0,
    };
    ncname(&name[local..])?;
    Ok(local)
}

/// Checks a name without a colon.
fn ncname(name: &[u8]) -> Result<(), XmlError> {
    const BAD: &str = "a name is malformed";
    let Some(&first) = name.first() else {
        return Err(XmlError::syntax(BAD));
    };
    let fine = CLASSES[first as usize] & START != 0
        && name
            .iter()
            .all(|&byte| byte < 0x80 && byte != b':' && is_name(byte));
    if fine {
        return Ok(());
    }
    let name =
        std::str::from_utf8(name).map_err(|_| XmlError::encoding("the stream is not utf-8"))?;
    let mut chars = name.chars();
    if chars.next().is_some_and(is_name_start) && chars.all(is_name_char) {
        Ok(())
    } else {
        Err(XmlError::syntax(BAD))
    }
}

/// XML 1.0 §2.3, without U+FDF0 to U+FFFD (presentation forms and the byte order mark): widely used
/// parsers refuse them in names, and a refusal by a recipient's parser ends its stream.
fn is_name_start(c: char) -> bool {
    matches!(c,
        'a'..='z' | 'A'..='Z' | '_'
        | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}'
        | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}'
        | '\u{F900}'..='\u{FDCF}' | '\u{10000}'..='\u{EFFFF}')
}

fn is_name_char(c: char) -> bool {
    is_name_start(c)
        || matches!(c,
            '0'..='9' | '-' | '.' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Checks that the bytes are UTF-8 and contain only characters that XML allows.
pub(crate) fn check_chars(bytes: &[u8]) -> Result<(), XmlError> {
    // No early exit, so that the loop compiles to vector instructions; almost all input is valid.
    let control = bytes.iter().fold(false, |found, &b| {
        found | ((b < 0x20) & (b != b'\t') & (b != b'\n') & (b != b'\r'))
    });
    if std::str::from_utf8(bytes).is_err() {
        return Err(XmlError::encoding("the stream is not utf-8"));
    }
    // U+FFFE and U+FFFF are EF BF BE and EF BF BF.
    let noncharacter = || {
        memchr::memchr_iter(0xEF, bytes)
            .any(|at| matches!(bytes.get(at + 1..at + 3), Some([0xBF, 0xBE | 0xBF])))
    };
    if control || noncharacter() {
        return Err(XmlError::syntax("a character is not allowed in xml"));
    }
    Ok(())
}
