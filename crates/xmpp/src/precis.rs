//! PRECIS (RFC 8264) in today's Unicode: the OpaqueString profile (RFC 8265 §4.2) of resources, and
//! the comparison of nicknames (RFC 8266 §2.4).
//!
//! Two rules are wider than RFC 8264's FreeformClass, because users write such names and deployed
//! servers accept them: sequences of emoji are allowed (UTS 51: their variation selectors, joiners
//! and tags), and so are visible characters that the class allows in some places only, or not at
//! all (the middle dot, tatweel: RFC 5892 §2.6). Characters that look alike are not detected.

use std::borrow::Cow;

use icu_properties::props::{
    DefaultIgnorableCodePoint, Emoji, EmojiModifier, ExtendedPictographic, GeneralCategory,
    GeneralCategoryGroup, JoiningType,
};
use icu_properties::{CodePointMapData, CodePointSetData};
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{UnicodeNormalization, is_nfc};

const ZWNJ: char = '\u{200c}';
const ZWJ: char = '\u{200d}';
const TEXT_STYLE: char = '\u{fe0e}';
const EMOJI_STYLE: char = '\u{fe0f}';
const BLACK_FLAG: char = '\u{1f3f4}';
/// The canonical combining class of a virama.
const VIRAMA: u8 = 9;
/// How often the rules for nicknames are applied until the nickname is stable.
const MAX_ROUNDS: usize = 4;

/// The OpaqueString profile; `None` if the text has a character that the class does not allow. A
/// text in normal form is not copied.
pub(crate) fn opaque(text: &str) -> Option<Cow<'_, str>> {
    let mapped = if text.chars().any(is_other_space) {
        Cow::Owned(text.replace(is_other_space, " "))
    } else {
        Cow::Borrowed(text)
    };
    let normal = if is_nfc(&mapped) {
        mapped
    } else {
        Cow::Owned(mapped.nfc().collect())
    };
    is_freeform(&normal).then_some(normal)
}

/// The form in which nicknames are compared; `None` if it is empty, or does not become stable.
pub fn nickname_key(nick: &str) -> Option<Cow<'_, str>> {
    let plain = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase();
    if !nick.is_empty() && nick.bytes().all(plain) {
        return Some(Cow::Borrowed(nick));
    }
    let mut key = nickname_round(nick);
    for _ in 1..MAX_ROUNDS {
        let next = nickname_round(&key);
        if next == key {
            return (!key.is_empty()).then_some(Cow::Owned(key));
        }
        key = next;
    }
    None
}

/// RFC 8266 §2.4: spaces, case, and compatibility.
fn nickname_round(nick: &str) -> String {
    let words = nick.split(|c| c == ' ' || is_other_space(c));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let lower = words.join(" ");
    let lower = lower.chars().flat_map(char::to_lowercase);
    lower.nfkc().collect()
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

fn is_other_space(c: char) -> bool {
    !c.is_ascii() && category(c) == GeneralCategory::SpaceSeparator
}

/// Whether all characters are of the FreeformClass (RFC 8264 §4.3), or part of an emoji.
fn is_freeform(text: &str) -> bool {
    text.char_indices().all(|(at, c)| match c {
        ' '..='~' => true,
        ZWNJ | ZWJ => {
            let (before, after) = (&text[..at], &text[at + c.len_utf8()..]);
            joins(before, c, after)
        }
        TEXT_STYLE | EMOJI_STYLE => text[..at]
            .chars()
            .next_back()
            .is_some_and(|c| CodePointSetData::new::<Emoji>().contains(c)),
        '\u{e0020}'..='\u{e007f}' => text[..at]
            .chars()
            .next_back()
            .is_some_and(|c| matches!(c, BLACK_FLAG | '\u{e0020}'..='\u{e007e}')),
        c => is_free(c),
    })
}

/// RFC 8264 §8 for one character; compatibility characters are in these groups, too.
fn is_free(c: char) -> bool {
    let groups = [
        GeneralCategoryGroup::Letter,
        GeneralCategoryGroup::Mark,
        GeneralCategoryGroup::Number,
        GeneralCategoryGroup::Punctuation,
        GeneralCategoryGroup::Symbol,
    ];
    let category = category(c);
    groups.iter().any(|group| group.contains(category))
        && !is_old_hangul(c)
        && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Jamo that are not part of a modern syllable (RFC 8264 §9.9), since those were composed before.
fn is_old_hangul(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{11ff}' | '\u{a960}'..='\u{a97c}' | '\u{d7b0}'..='\u{d7fb}')
}

/// Whether a joiner joins two characters: RFC 5892, appendix A.1 and A.2, or two emoji.
fn joins(before: &str, joiner: char, after: &str) -> bool {
    let Some(last) = before.chars().next_back() else {
        return false;
    };
    if canonical_combining_class(last) == VIRAMA {
        return true;
    }
    if joiner == ZWJ {
        let pictures = CodePointSetData::new::<ExtendedPictographic>();
        let styled = last == EMOJI_STYLE
            || pictures.contains(last)
            || CodePointSetData::new::<EmojiModifier>().contains(last);
        return styled && after.chars().next().is_some_and(|c| pictures.contains(c));
    }
    let types = CodePointMapData::<JoiningType>::new();
    let firm = |t: &JoiningType| *t != JoiningType::Transparent;
    let left = before.chars().rev().map(|c| types.get(c)).find(firm);
    let right = after.chars().map(|c| types.get(c)).find(firm);
    matches!(
        left,
        Some(JoiningType::LeftJoining | JoiningType::DualJoining)
    ) && matches!(
        right,
        Some(JoiningType::RightJoining | JoiningType::DualJoining)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn opaque_strings_that_stay_as_they_are() {
        for good in [
            // RFC 8265 §4.3.
            "correct horse battery staple",
            "Correct Horse Battery Staple",
            "πßå",
            "Jack of ♦s",
            // Compatibility characters stay (RFC 8265 §4.2.2, rule 1).
            "ﬃ Ⅳ ｆｕｌｌ",
            // Letters and emoji that are newer than Unicode 3.2.
            "ẞ ₿ ᲀ 𞤀",
            "Anna 🦀",
            "❤️",
            "☎︎",
            "1️⃣",
            "👍🏽",
            "👩‍💻",
            "👩🏽‍❤️‍👨🏻",
            "🏳️‍🌈",
            "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
            "🇪🇺",
            // Joiners between characters that they join: Persian, Hindi.
            "می‌خواهم",
            "क्‍ष",
            // Visible characters that RFC 5892 allows only in other places.
            "Anna · ACME",
            "محـمد",
            "한국어",
        ] {
            let prepared = opaque(good);
            assert!(
                matches!(prepared, Some(Cow::Borrowed(_))),
                "{good}: {prepared:?}"
            );
        }
    }

    #[test]
    fn opaque_strings_that_change() {
        for (written, normal) in [
            // RFC 8265 §4.3, example 16.
            ("foo\u{1680}bar", "foo bar"),
            ("a\u{a0}b\u{3000}c", "a b c"),
            ("A\u{308}", "Ä"),
            ("\u{2126}", "Ω"),
            // Modern syllables in the decomposed form of some systems.
            ("\u{1112}\u{1161}\u{11ab}", "한"),
        ] {
            assert_eq!(opaque(written).as_deref(), Some(normal), "{written:?}");
        }
    }

    #[test]
    fn opaque_strings_that_are_none() {
        for bad in [
            "my cat is a \tby",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "line\u{2028}break",
            // Private use, noncharacters, unassigned.
            "\u{e000}",
            "\u{fdd0}",
            "\u{10ffff}",
            "\u{378}",
            // Invisible: soft hyphen, marks of direction, fillers, selectors without an emoji.
            "a\u{ad}b",
            "a\u{200b}b",
            "a\u{200e}b",
            "a\u{202e}b",
            "a\u{2060}b",
            "\u{feff}a",
            "\u{3164}",
            "a\u{fe0f}",
            "\u{180b}",
            "a\u{e0041}",
            // Joiners without characters to join.
            "a\u{200d}b",
            "a\u{200c}b",
            "\u{200d}👩",
            "👩\u{200d}",
            "👩\u{200d}a",
            "می\u{200c}",
            "\u{200c}خ",
            // Old Hangul.
            "\u{1113}",
        ] {
            assert_eq!(opaque(bad), None, "{bad:?}");
        }
    }

    /// RFC 8266 §3.
    #[test]
    fn nicknames_are_compared_so() {
        for (nick, key) in [
            ("Foo", "foo"),
            ("foo", "foo"),
            ("Foo Bar", "foo bar"),
            (" Foo\u{a0}\u{2003}Bar ", "foo bar"),
            ("Σ", "σ"),
            ("ς", "ς"),
            ("ϔ", "ϋ"),
            ("∞", "∞"),
            ("Richard Ⅳ", "richard iv"),
            ("ＡＮＮＡ", "anna"),
            ("Anna 🦀", "anna 🦀"),
        ] {
            assert_eq!(nickname_key(nick).as_deref(), Some(key), "{nick}");
        }
        assert!(matches!(nickname_key("nurse-2"), Some(Cow::Borrowed(_))));
        for none in ["", " ", "\u{3000}"] {
            assert_eq!(nickname_key(none), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn opaque_strings_are_prepared_once(text in "[\\PC\u{300}-\u{36f}\u{200c}\u{200d}\u{fe0f}]{0,12}") {
            if let Some(once) = opaque(&text) {
                let twice = opaque(&once);
                prop_assert!(matches!(twice, Some(Cow::Borrowed(_))), "{:?}", twice);
            }
        }

        #[test]
        fn keys_of_nicknames_are_their_own_keys(nick in "\\PC{0,12}") {
            if let Some(key) = nickname_key(&nick) {
                let again = nickname_key(&key);
                prop_assert_eq!(again.as_deref(), Some(&*key));
            }
        }
    }
}
