//! Whether the shadow still has what it was given: it may have restarted empty, or another server
//! may have taken over that had not everything.
//!
//! Each answer tells the last write that the shadow knew: an older one than it had acknowledged tells
//! of a loss, and the slot is written anew. A change of an object whose version is not there is
//! refused, and the object written whole. What does not change is found by asking, now and then, with
//! changes that change nothing. Once something was missing, or nobody answered, all the rest is in
//! doubt until it was asked about.

use super::core::Core;
use super::slot::Slot;
use super::turn::Worker;

/// Slots that are asked about at one tick.
const AT_ONCE: usize = 16;

/// What a worker knows of the shadow.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Counts the times since when something may be missing.
    pub(crate) doubts: u64,
    /// When the last round began.
    round_at_ms: u64,
    /// The slot that is next in this round; none when it is done.
    next: Option<u16>,
    /// Doubts when the round began.
    known: u64,
}

impl Worker {
    /// Asks about some slots, if a round is under way or due.
    pub(super) fn check_shadow(&mut self) {
        let core = &mut self.core;
        if !core.config.shadow {
            return;
        }
        let due = core.now_ms >= core.checks.round_at_ms + core.config.shadow_check_ms;
        if core.checks.next.is_none() && (due || core.checks.known < core.checks.doubts) {
            core.checks.round_at_ms = core.now_ms;
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
            asked += usize::from(slot.is_active() && slot.shadow_check(core));
        }
    }
}

impl Slot {
    /// Asks whether the shadow has what this slot gave it; false if it has given it nothing in this epoch, and had nothing of before.
    fn shadow_check(&mut self, core: &mut Core) -> bool {
        let shadow = &mut self.shadow;
        // Without objects the removal of the last ones can still have been lost.
        if shadow.versions.is_empty() && shadow.n == 0 {
            shadow.checked = core.checks.doubts;
            return false;
        }
        self.shadow_touch(core);
        true
    }
}
