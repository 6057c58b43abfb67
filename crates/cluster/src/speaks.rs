//! The version of the protocol between tiers that the cluster speaks: the highest that all its
//! processes know.
//!
//! Some additions of a later version are read by processes other than the far end of a lane. They
//! are used only while the cluster speaks this later version. The number falls at once when a
//! process of an older version comes. It rises only some time after the last such process is gone,
//! because a process whose lease is missing for a moment may still be running.

use std::time::{Duration, Instant};

use sestina_proto as proto;
use sestina_proto::versions::Range;

/// The number rises after this time without an older process: longer than a lease.
pub const RISE: Duration = Duration::from_secs(6);

/// The version that the cluster speaks, as one process knows it.
#[derive(Debug)]
pub struct Speaks {
    ours: Range,
    version: u32,
    /// Since when all known processes speak a later version.
    rising: Option<Instant>,
}

impl Default for Speaks {
    fn default() -> Speaks {
        Speaks::new(Range::ours())
    }
}

impl Speaks {
    /// For a process that speaks these versions. Until it knows the other processes, it assumes
    /// that the cluster speaks the oldest of these versions: a process that does not know that
    /// version cannot be in the cluster.
    pub fn new(ours: Range) -> Speaks {
        Speaks {
            ours,
            version: ours.oldest,
            rising: None,
        }
    }

    /// The version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Takes the live processes. `complete`: both authorities have answered. Returns the version if
    /// it has changed.
    pub fn note<'a>(
        &mut self,
        live: impl IntoIterator<Item = &'a proto::Node>,
        complete: bool,
        now: Instant,
    ) -> Option<u32> {
        let newest = live.into_iter().map(|node| node.versions().newest);
        let all = newest
            .fold(self.ours.newest, u32::min)
            .max(self.ours.oldest);
        if all <= self.version {
            self.rising = None;
        } else if !complete {
            // Processes that are not in the list may be older.
            self.rising = None;
            return None;
        } else if now.duration_since(*self.rising.get_or_insert(now)) < RISE {
            return None;
        }
        let changed = all != self.version;
        self.version = all;
        self.rising = None;
        changed.then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(newest: u32) -> proto::Node {
        proto::Node {
            oldest: 1,
            newest,
            ..proto::Node::default()
        }
    }

    fn speaks() -> Speaks {
        Speaks::new(Range {
            oldest: 1,
            newest: 2,
        })
    }

    #[test]
    fn the_cluster_speaks_a_later_version_some_time_after_the_last_older_process_is_gone() {
        let (mut speaks, start) = (speaks(), Instant::now());
        assert_eq!(speaks.version(), 1);
        assert_eq!(speaks.note(&[node(2), node(1)], true, start), None);
        let gone = start + RISE;
        assert_eq!(speaks.note(&[node(2), node(2)], true, gone), None);
        assert_eq!(speaks.note(&[node(2)], true, gone + RISE / 2), None);
        assert_eq!(speaks.note(&[node(2)], true, gone + RISE), Some(2));
        assert_eq!(speaks.note(&[node(3)], true, gone + RISE), None);
        assert_eq!(speaks.version(), 2, "what this process does not know");
    }

    #[test]
    fn an_older_process_lowers_the_version_at_once() {
        let (mut speaks, start) = (speaks(), Instant::now());
        speaks.note(&[node(2)], true, start);
        speaks.note(&[node(2)], true, start + RISE);
        assert_eq!(speaks.version(), 2);
        assert_eq!(speaks.note(&[node(1)], false, start + RISE), Some(1));
    }

    #[test]
    fn a_list_that_may_lack_processes_raises_nothing() {
        let (mut speaks, start) = (speaks(), Instant::now());
        assert_eq!(speaks.note(&[node(2)], false, start), None);
        assert_eq!(speaks.note(&[node(2)], true, start + RISE), None);
        assert_eq!(speaks.note(&[node(2)], false, start + RISE), None);
        assert_eq!(
            speaks.note(&[node(2)], true, start + 2 * RISE),
            None,
            "the time begins anew"
        );
        assert_eq!(speaks.note(&[node(2)], true, start + 3 * RISE), Some(2));
    }
}
