//! Finds the known key that an unknown one was meant to be.

use crate::shape::{Field, Shape};

/// A key within a section.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// All keys, sections included.
fn keys(fields: &[Field], prefix: &str, out: &mut Vec<String>) {
    for field in fields {
        let key = join(prefix, field.key);
        out.push(key.clone());
        match &field.shape {
            Shape::Leaf(_) => {}
            Shape::Section(inner) | Shape::Sections(inner) => keys(inner, &key, out),
        }
    }
}

/// The known key that is most like this one: first by its last part within the same section,
/// then by its last part anywhere, then as a whole.
pub(crate) fn nearest(key: &str, root: &[Field]) -> String {
    let mut known = Vec::new();
    keys(root, "", &mut known);
    let (section, last) = key.rsplit_once('.').unwrap_or(("", key));
    let rank = |candidate: &String| {
        let (its_section, its_last) = candidate.rsplit_once('.').unwrap_or(("", candidate));
        let of_last = distance(last, its_last);
        let close = of_last <= 1 + last.chars().count() / 4;
        let below = its_section.starts_with(section);
        match (its_section == section, close) {
            (true, true) => (0, of_last, false, 0),
            (false, true) => (1, of_last, !below, distance(section, its_section)),
            _ => (2, distance(key, candidate), false, 0),
        }
    };
    known
        .iter()
        .min_by_key(|candidate| rank(candidate))
        .cloned()
        .unwrap_or_default()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, n) in [
            ("", "abc", 3),
            ("depth", "depth", 0),
            ("deepth", "depth", 1),
        ] {
            assert_eq!(distance(a, b), n);
            assert_eq!(distance(b, a), n);
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
