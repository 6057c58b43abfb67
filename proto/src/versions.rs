//! Versions of the protocol between tiers: which ones this program speaks, and what two processes, or
//! a whole cluster, have in common.
//!
//! A version is a number, of its own: releases of the program that change nothing between tiers
//! share one. Each process sends the oldest and the newest that it speaks in the Hello of each
//! lane, with its lease, and with each call between tiers. A lane speaks the highest that both ends
//! know, and the cluster the highest that all its processes know. Frames and fields of a later
//! version are sent only where that version is spoken. A process that gets unknown ones
//! nevertheless ignores them, or refuses them by name.
//!
//! A change that a process of the version before would get wrong needs a new number: add it to
//! [`NAMES`], and keep speaking the one before it.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::Node;

/// The oldest version that this program speaks.
pub const OLDEST: u32 = 1;
/// The newest version that this program speaks.
pub const NEWEST: u32 = 2;

/// From this version on, storage keeps data of entities (`EntityDataGet`, `EntityDataPut`). A storage
/// process of the version before refuses these calls; a router answers such a request as if storage
/// were unavailable, and its client tries again later.
pub const ENTITY_DATA: u32 = 2;

/// Every version, and what it brought.
pub const NAMES: &[(u32, &str)] = &[
    (1, "the first release"),
    (ENTITY_DATA, "storage keeps data of entities"),
];

const _: () = assert!(OLDEST >= 1 && NAMES.len() == NEWEST as usize);
const _: () = assert!(
    NEWEST == 1 || OLDEST < NEWEST,
    "a program speaks the version before its own as well"
);

/// Versions that a process, or a cluster, speaks: all from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The oldest version.
    pub oldest: u32,
    /// The newest version.
    pub newest: u32,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

/// Two processes have no version in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoCommon {
    /// The process that refuses, or is refused, as it calls itself.
    pub us: String,
    /// What it speaks.
    pub ours: Range,
    /// The other process.
    pub them: String,
    /// The versions that it speaks.
    pub theirs: Range,
}

impl std::error::Error for NoCommon {}

impl fmt::Display for NoCommon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoCommon {
            us,
            ours,
            them,
            theirs,
        } = self;
        let older = match ours.newest < theirs.oldest {
            true => us,
            false => them,
        };
        write!(
            f,
            "{us} speaks version {ours} of the protocol between tiers and {them} version {theirs}, \
             so they cannot work together; upgrade {older} one release at a time, or take the other \
             back (docs/operations.md, \"Upgrades\")"
        )
    }
}

impl Range {
    /// What this program speaks.
    pub fn ours() -> Range {
        match pretence() {
            Pretence::None => Range {
                oldest: OLDEST,
                newest: NEWEST,
            },
            Pretence::Next => Range {
                oldest: OLDEST,
                newest: NEWEST + 1,
            },
            Pretence::NextOnly => Range {
                oldest: NEWEST + 1,
                newest: NEWEST + 1,
            },
        }
    }

    /// The range that a message carries. A process that sends none, or no oldest version, is from
    /// before there was a second version.
    pub fn told(oldest: u32, newest: u32) -> Range {
        let newest = newest.max(1);
        Range {
            oldest: oldest.clamp(1, newest),
            newest,
        }
    }

    /// The versions that both speak.
    pub fn and(self, other: Range) -> Option<Range> {
        let common = Range {
            oldest: self.oldest.max(other.oldest),
            newest: self.newest.min(other.newest),
        };
        (common.oldest <= common.newest).then_some(common)
    }

    /// Whether that version is one of them.
    pub fn has(self, version: u32) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// The version that a process with these versions, `us`, speaks with another: the highest of both.
    pub fn with(self, us: &str, them: &str, theirs: Range) -> Result<u32, NoCommon> {
        match self.and(theirs) {
            Some(common) => Ok(common.newest),
            None => Err(NoCommon {
                us: us.to_owned(),
                ours: self,
                them: them.to_owned(),
                theirs,
            }),
        }
    }
}

impl Node {
    /// The versions that the process speaks.
    pub fn versions(&self) -> Range {
        Range::told(self.oldest, self.newest)
    }

    /// The same node, with the versions of the protocol that this program speaks and the program's
    /// own version.
    pub fn speaking(self, program: &str) -> Node {
        let Range { oldest, newest } = Range::ours();
        Node {
            oldest,
            newest,
            program: program.to_owned(),
            ..self
        }
    }
}

/// Whether `node` can work with all of these: each two of them have a version in common, so all of
/// them together have one.
pub fn admits<'a>(node: &Node, others: impl IntoIterator<Item = &'a Node>) -> Result<(), NoCommon> {
    let mut others = others.into_iter();
    others.try_for_each(|other| {
        // A process that is started again has the lease of its predecessor beside it for a while.
        if (&other.name, other.role) == (&node.name, node.role) {
            return Ok(());
        }
        let common = node
            .versions()
            .with(&node.name, &other.name, other.versions());
        common.map(drop)
    })
}

/// The variable by which a test makes a process pretend to be of the version after this one:
/// `next`, or `next-only` for a process that does not speak this version.
pub const ENV: &str = "SESTINA_VERSION";

/// What a process pretends to be, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pretence {
    /// Nothing: it speaks what it speaks.
    None,
    /// It is of the next version, and speaks this one as well.
    Next,
    /// It is of the next version and speaks no other.
    NextOnly,
}

/// A value of [`ENV`] that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPretence(String);

impl std::error::Error for UnknownPretence {}

impl fmt::Display for UnknownPretence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ENV}={:?}: use next or next-only, or unset it", self.0)
    }
}

static PRETENCE: AtomicU8 = AtomicU8::new(0);

/// What this process pretends to be.
#[inline]
pub fn pretence() -> Pretence {
    match PRETENCE.load(Ordering::Relaxed) {
        0 => Pretence::None,
        1 => Pretence::Next,
        _ => Pretence::NextOnly,
    }
}

/// Reads [`ENV`]; call it once, before anything else is done. Returns what is pretended from now on,
/// so that it can be logged.
pub fn pretend_from_env() -> Result<Pretence, UnknownPretence> {
    let pretence = match std::env::var(ENV) {
        Ok(text) if text == "next" => Pretence::Next,
        Ok(text) if text == "next-only" => Pretence::NextOnly,
        Ok(text) if !text.is_empty() => return Err(UnknownPretence(text)),
        _ => Pretence::None,
    };
    PRETENCE.store(pretence as u8, Ordering::Relaxed);
    Ok(pretence)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(oldest: u32, newest: u32) -> Range {
        Range { oldest, newest }
    }

    fn node(name: &str, oldest: u32, newest: u32) -> Node {
        Node {
            name: name.to_owned(),
            oldest,
            newest,
            ..Node::default()
        }
    }

    #[test]
    fn two_ranges_speak_the_highest_version_of_both() {
        assert_eq!(range(1, 2).with("a", "b", range(1, 1)), Ok(1));
        assert_eq!(range(1, 3).with("a", "b", range(2, 4)), Ok(3));
        assert_eq!(range(2, 2).with("a", "b", range(2, 2)), Ok(2));
    }

    #[test]
    fn a_refusal_names_both_ranges_and_the_older_process() {
        let error = range(2, 3).with("r2", "r1", range(1, 1)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("r2 speaks version 2 to 3"), "{text}");
        assert!(text.contains("r1 version 1,"), "{text}");
        assert!(text.contains("upgrade r1"), "{text}");
        let text = range(1, 1).with("r1", "r2", range(2, 3)).unwrap_err();
        assert!(text.to_string().contains("upgrade r1"), "{text}");
    }

    #[test]
    fn a_process_that_sends_no_versions_speaks_the_first() {
        assert_eq!(Range::told(0, 0), range(1, 1));
        assert_eq!(Range::told(0, 1), range(1, 1));
        assert_eq!(Range::told(2, 3), range(2, 3));
        assert_eq!(Range::told(9, 3), range(3, 3), "nonsense is no range");
    }

    #[test]
    fn a_process_is_admitted_where_each_process_has_a_version_in_common_with_it() {
        let cluster = [node("r1", 1, 2), node("r2", 2, 3)];
        assert_eq!(admits(&node("r3", 2, 2), &cluster), Ok(()));
        let refused = admits(&node("r3", 1, 1), &cluster).unwrap_err();
        assert_eq!((refused.us.as_str(), refused.them.as_str()), ("r3", "r2"));
        let again = admits(&node("r2", 1, 1), &cluster);
        assert_eq!(again, Ok(()), "its own predecessor is no other process");
    }

    #[test]
    fn each_version_has_a_name() {
        let numbers: Vec<u32> = NAMES.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=NEWEST).collect::<Vec<u32>>());
        assert!(range(1, 1).has(1) && !range(1, 1).has(2));
    }
}
