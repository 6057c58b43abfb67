//! SASLprep (RFC 4013) of passwords, with characters that are newer than its tables.
//!
//! RFC 5802 §2.2 requires it of both sides. Unicode 3.2 has no emoji and newer letters: they are
//! kept as they are (RFC 3454 §7, "unassigned code points"), as clients do. Only characters that
//! the tables name are refused.

use std::borrow::Cow;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;

/// The prepared password; `None` if it has a character that is not allowed.
pub(super) fn saslprep(password: &str) -> Option<Cow<'_, str>> {
    if password.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Some(Cow::Borrowed(password));
    }
    let mapped = password
        .chars()
        .filter(|&c| !tables::commonly_mapped_to_nothing(c))
        .map(|c| match tables::non_ascii_space_character(c) {
            true => ' ',
            false => c,
        });
    let prepared: String = mapped.nfkc().collect();
    let allowed = !prepared.contains(is_prohibited) && reads_one_way(&prepared);
    allowed.then_some(Cow::Owned(prepared))
}

/// RFC 4013 §2.3.
fn is_prohibited(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::surrogate_code(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
}

/// RFC 3454 §6: a text with letters that run from right to left begins and ends with one, and has
/// no letters that run from left to right.
fn reads_one_way(text: &str) -> bool {
    let mut ends = text.chars();
    let (first, last) = (ends.next(), ends.next_back());
    let is_right = |c: Option<char>| c.is_none_or(tables::bidi_r_or_al);
    !text.contains(tables::bidi_r_or_al)
        || (!text.contains(tables::bidi_l) && is_right(first) && is_right(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4013 §3, and newer characters.
    #[test]
    fn examples() {
        for (written, prepared) in [
            ("I\u{ad}X", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("a\u{a0}b", "a b"),
            ("geheim 🔑", "geheim 🔑"),
            ("₿ẞ", "₿ẞ"),
            ("𞤀", "𞤀"),
            ("م", "م"),
        ] {
            assert_eq!(saslprep(written).as_deref(), Some(prepared), "{written:?}");
        }
        for bad in [
            "\u{7}",
            "\u{627}1",
            "\u{627}a\u{627}",
            "\u{e000}",
            "\u{fffd}",
        ] {
            assert_eq!(saslprep(bad), None, "{bad:?}");
        }
    }

    /// For texts whose characters are all in the tables of Unicode 3.2, the result is that of the
    /// tables.
    #[test]
    fn agrees_with_the_tables() {
        for text in [
            "é ü",
            "\u{1680}x",
            "ﬃ",
            "שלום",
            "a\u{200d}b",
            "\u{340}",
            "pass\u{7f}",
        ] {
            let old = stringprep::saslprep(text).ok();
            assert_eq!(saslprep(text), old, "{text:?}");
        }
    }
}
