//! Pages of an archive (XEP-0313) as a client receives them.

use std::collections::BTreeSet;

use super::stanzas::part;

/// A page of an archive: the ids of its messages as they came, and the ids that the answer names as
/// the first and the last.
#[derive(Debug)]
pub(crate) struct ArchivePage {
    ids: Vec<String>,
    first: Option<String>,
    last: Option<String>,
}

impl ArchivePage {
    /// The page that ends with an answer, after messages with these ids.
    pub(super) fn new(ids: Vec<String>, answer: &str) -> ArchivePage {
        let first = answer.split("<first").nth(1);
        ArchivePage {
            ids,
            first: first.and_then(|text| part(text, ">", "<")),
            last: part(answer, "<last>", "<"),
        }
    }

    /// What is wrong with the page, if anything is.
    pub(crate) fn wrong(&self) -> Option<String> {
        let once: BTreeSet<&String> = self.ids.iter().collect();
        if once.len() < self.ids.len() {
            return Some(format!("has something twice: {self:?}"));
        }
        let ends = self.first.iter().chain(&self.last);
        let lost = ends.clone().any(|id| !self.ids.contains(id));
        lost.then(|| format!("lacks what it names: {self:?}"))
    }
}
