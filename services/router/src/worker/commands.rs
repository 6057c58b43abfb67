//! Questions of administrators, and of other parts of the process, to a worker.

use sestina_runtime::guard;

use super::core::Core;
use super::input::Command;
use super::slot::{Phase, Slot};
use super::turn::Worker;
use crate::admin::{Counts, SessionInfo};

impl Worker {
    /// Counts for the status page.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts {
            operations: self.core.operations.len(),
            ..Counts::default()
        };
        for slot in self.slots.iter() {
            counts.add(slot);
            counts.in_doubt += slot.replica.in_doubt(self.core.checks.doubts);
            if guard!("sole") {
                let (count, one) = slot.sole(&self.core);
                counts.sole += count;
                counts.sole_one = counts.sole_one.or(one);
            }
        }
        counts
    }

    pub(super) fn command(&mut self, command: Command) {
        // The task that asked may be gone; then the answer is dropped.
        match command {
            Command::Sessions { answer } => {
                let all = self.slots.iter().flat_map(|slot| {
                    slot.sessions
                        .values()
                        .map(|s| SessionInfo::of(slot.slot, s))
                });
                answer.send(all.collect()).ok();
            }
            Command::Close { jid, answer } => {
                let mut closed = 0;
                for slot in self.slots.iter_mut() {
                    closed += slot.close_user(&mut self.core, &jid);
                }
                answer.send(closed).ok();
            }
            Command::Counts { answer } => {
                answer.send(self.counts()).ok();
            }
            Command::Replicas { slots, answer } => {
                let slots = self.slots.iter().filter(|s| slots.contains(&s.slot));
                answer.send(slots.flat_map(Slot::replicas).collect()).ok();
            }
            Command::Held { answer } => {
                answer.send(self.assert_slots()).ok();
            }
            Command::HandOver { slots, to } => {
                self.quiesce(&slots, &to);
            }
        }
    }
}

impl Worker {
    /// Returns the slots of this worker, also those that it does not serve, each with its epoch. The process sends this
    /// list to storage when the slot table has a new timeline.
    pub(crate) fn assert_slots(&mut self) -> Vec<(u16, u64)> {
        for slot in self.slots.iter_mut() {
            if let Phase::Quiescing { asserted, .. } = &mut slot.phase {
                *asserted = true;
            }
        }
        let slots = self.slots.iter();
        slots.map(|slot| (slot.slot, slot.epoch)).collect()
    }
}

impl Slot {
    /// Ends the sessions of a bare JID, or the one of a full JID; tells how many.
    pub(super) fn close_user(&mut self, core: &mut Core, jid: &str) -> usize {
        let ids: Vec<u128> = self
            .sessions
            .values()
            .filter(|s| {
                s.channel.is_live()
                    && (s.channel.jid.as_str() == jid || s.channel.jid.bare_str() == jid)
            })
            .map(|s| s.channel.id)
            .collect();
        for id in &ids {
            self.close_session(core, *id, "not-authorized", "closed by an administrator");
        }
        ids.len()
    }
}
