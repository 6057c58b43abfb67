//! Finds the known key or name that is most like an unknown one.

use crate::shape::{Field, Shape};

/// A key within a section.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// All keys, including sections.
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

/// The known key that is most like this one: first by its last part within the same section, then
/// by its last part anywhere, then by the whole key.
pub(crate) fn nearest(key: &str, root: &[Field]) -> String {
    let mut known = Vec::new();
    keys(root, "", &mut known);
    // Keys with other separators, such as `edge_c2s`.
    if let Some(same) = known.iter().find(|known| flat(known) == flat(key)) {
        return same.clone();
    }
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

/// The name that is most like this one.
pub(crate) fn nearest_name<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    known.into_iter().min_by_key(|known| distance(name, known))
}

/// The key with all separators replaced by one kind.
fn flat(key: &str) -> String {
    let parts: Vec<&str> = key
        .split(['.', '_'])
        .filter(|part| !part.is_empty())
        .collect();
    parts.join("_")
}

/// The option (not the section) with this name when its parts are separated by single underscores.
pub(crate) fn by_flat_name(name: &str, root: &[Field]) -> Option<String> {
    fn search(fields: &[Field], prefix: &str, name: &str) -> Option<String> {
        fields.iter().find_map(|field| {
            let key = join(prefix, field.key);
            match &field.shape {
                Shape::Leaf(_) => (flat(&key) == name).then_some(key),
                Shape::Section(inner) => search(inner, &key, name),
                Shape::Sections(inner) => {
                    (0..10).find_map(|index| search(inner, &format!("{key}.{index}"), name))
                }
            }
        })
    }
    search(root, "", name)
}

/// Levenshtein distance, in which two swapped letters count as one error.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
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
            ("egde", "edge", 1),
            ("egde", "node", 2),
        ] {
            assert_eq!(distance(a, b), n);
            assert_eq!(distance(b, a), n);
        }
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
