//! Public items without a user.
//!
//! The compiler does not report them, since another crate may use a public item. All users are in
//! this repository, so an item whose name occurs only where it is defined has no user. Two items
//! with the same name are not distinguished.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Findings, files};

/// Items that may have no user, each with the reason.
const ALLOWED: [(&str, &str); 0] = [];

/// The keywords of an item, after its visibility.
const KINDS: [&str; 7] = ["fn", "struct", "enum", "trait", "const", "type", "static"];

/// Words that may stand between the visibility and the keyword.
const BETWEEN: [&str; 2] = ["async", "const"];

/// Checks all Rust files of the repository.
pub(super) fn check(root: &Path, found: &mut Findings) -> Result<()> {
    let mut paths: Vec<PathBuf> = Vec::new();
    files::walk(root, &mut paths)?;
    paths.retain(|path| path.extension() == Some("rs".as_ref()));
    let mut code = Vec::new();
    for path in paths {
        code.push((without_comments(&fs::read_to_string(&path)?), path));
    }
    let mut words: HashMap<&str, usize> = HashMap::new();
    for (text, _) in &code {
        for word in words_of(text) {
            *words.entry(word).or_default() += 1;
        }
    }
    for (text, path) in &code {
        for name in public_items(text) {
            let alone = words.get(name).is_some_and(|count| *count == 1);
            if alone && !ALLOWED.iter().any(|(allowed, _)| *allowed == name) {
                found.error(format!(
                    "{}: nothing uses the public item {name}; remove it, or say in \
                     xtask/src/tidy/public.rs why it stays",
                    path.strip_prefix(root).unwrap_or(path).display()
                ));
            }
        }
    }
    Ok(())
}

fn without_comments(text: &str) -> String {
    let lines = text.lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Names of the items that are public to all crates.
fn public_items(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.trim_start().strip_prefix("pub ")?.split_whitespace();
        let mut word = words.next()?;
        let mut next = words.next()?;
        while BETWEEN.contains(&word) && KINDS.contains(&next) {
            word = next;
            next = words.next()?;
        }
        KINDS.contains(&word).then(|| words_of(next).next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_all_kinds_are_found_and_fields_and_inner_ones_are_not() {
        let text = "pub fn a() {}\n    pub const fn b<T>() {}\npub async fn c() {}\n\
            pub struct D;\npub const E: u8 = 1;\npub(crate) fn f() {}\n    pub g: u8,\n\
            pub use h::I;\npub static J: u8 = 0;\nfn k() {}\n";
        let names: Vec<&str> = public_items(text).collect();
        assert_eq!(names, ["a", "b", "c", "D", "E", "J"]);
    }

    #[test]
    fn comments_are_no_users() {
        let text = without_comments("/// See [`a`].\npub fn a() {}\n");
        assert_eq!(words_of(&text).filter(|word| *word == "a").count(), 1);
    }
}
