//! Whether the state store still has what it was given: it may have restarted empty, or another server
//! may have taken over that had not everything.
//!
//! Each answer names the last write that the state store has. If it had acknowledged a later one, it has lost writes,
//! and the slot is written anew. An update of an object in a version that the store does not have is refused, and the
//! object is written whole. For objects that do not change, the slot writes empty updates from time to time. Once
//! something was missing, or the store did not answer, all the rest is in
//! doubt until it was asked about.

use sestina_api::state_store::Stamp;

use super::core::Core;
use super::slot::Slot;
use super::turn::Worker;

/// Slots that are asked about at one tick.
const AT_ONCE: usize = 16;
/// A slot that has had no object under this owner is asked about in one of so many rounds: most slots of a small cluster
/// are such. While anything is in doubt it is asked about as all others are.
const EMPTY_EVERY: u64 = 16;

/// A worker's knowledge of the state store.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Counts the times since when something may be missing.
    pub(crate) doubts: u64,
    /// When the last round began, and how many there were.
    round_at_ms: u64,
    rounds: u64,
    /// The slot that is next in this round; none when it is done.
    next: Option<u16>,
    /// Doubts when the round began.
    known: u64,
}

impl Worker {
    /// Asks about some slots, if a round is under way or due.
    pub(super) fn check_replicas(&mut self) {
        let core = &mut self.core;
        if !core.config.state_store {
            return;
        }
        let due = core.now_ms >= core.checks.round_at_ms + core.config.times.state_store_check_ms;
        if core.checks.next.is_none() && (due || core.checks.known < core.checks.doubts) {
            core.checks.round_at_ms = core.now_ms;
            core.checks.rounds += 1;
            core.checks.known = core.checks.doubts;
            core.checks.next = Some(0);
        }
        let Some(first) = core.checks.next.take() else {
            return;
        };
        let mut asked = 0;
        for slot in self.slots.iter_mut().filter(|s| s.slot >= first) {
            if asked == AT_ONCE {
                core.checks.next = Some(slot.slot);
                return;
            }
            asked += usize::from(slot.is_active() && slot.replica_check(core));
        }
    }
}

impl Slot {
    /// The slot was just restored from the state store, or, where that has not answered yet (`read` is false), from the
    /// copy of the owner before. `before` is the last write of that owner.
    pub(super) fn replica_begins(&mut self, core: &mut Core, before: Stamp, read: bool) {
        if !core.config.state_store {
            return;
        }
        if !read {
            // The store may lack writes of the owner before, and then it has objects which that owner has removed.
            // The load has given the store a newer write, so that no answer to a commit would tell.
            self.replica.told = Some(before);
            self.replica.empty_only = self.replica.versions.is_empty();
            self.replica.to_list = true;
            self.replica_list(core);
        } else if before.n > 0 && self.replica.versions.is_empty() {
            // Writes of earlier owners may still be under way. Should the store forget the epochs, it would take
            // them; a slot that has written something, if with nothing, asks now and then and hears of that.
            self.replica.probe = true;
            self.replica.empty_only = true;
            self.replica_list(core);
        }
    }

    /// Asks whether the state store has what this slot gave it; false if no owner of the slot has given it anything, as
    /// far as is known, or if it is not the turn of a slot without objects.
    fn replica_check(&mut self, core: &mut Core) -> bool {
        let replica = &mut self.replica;
        // Without objects the removal of the last ones can still have been lost.
        if replica.versions.is_empty() && replica.n == 0 {
            replica.checked = core.checks.doubts;
            return false;
        }
        let turn = core.checks.rounds % EMPTY_EVERY == u64::from(self.slot) % EMPTY_EVERY;
        if replica.empty_only && replica.checked == core.checks.doubts && !turn {
            return false;
        }
        self.replica_touch(core);
        true
    }
}
