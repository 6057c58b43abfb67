//! What administrators, and other parts of the process, ask a worker.

use sestina_runtime::guard;

use super::core::Core;
use super::input::Command;
use super::slot::Slot;
use super::turn::Worker;
use crate::admin::{Counts, SessionInfo};

impl Worker {
    /// Counts for the status page.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts {
            works: self.core.works.len(),
            ..Counts::default()
        };
        for slot in self.slots.iter() {
            counts.add(slot);
            counts.in_doubt += slot.shadow.in_doubt(self.core.checks.doubts);
            if guard!("sole") {
                let (count, one) = slot.sole(&self.core);
                counts.sole += count;
                counts.sole_one = counts.sole_one.or(one);
            }
        }
        counts
    }

    pub(super) fn command(&mut self, command: Command) {
        // Whoever asked may be gone; then the answer goes nowhere.
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
                let held = self.slots.iter().map(|slot| (slot.slot, slot.epoch));
                answer.send(held.collect()).ok();
            }
            Command::HandOver { slots, to } => {
                self.freeze(&slots, &to);
            }
        }
    }
}

impl Slot {
    /// Ends the sessions of a bare JID, or the one of a full JID; tells how many.
    pub(super) fn close_user(&mut self, core: &mut Core, jid: &str) -> usize {
        let ids: Vec<u128> = self
            .sessions
            .values()
            .filter(|s| s.is_live() && (s.jid.as_str() == jid || s.jid.bare_str() == jid))
            .map(|s| s.id)
            .collect();
        for id in &ids {
            self.close_session(core, *id, "not-authorized", "closed by an administrator");
        }
        ids.len()
    }
}
