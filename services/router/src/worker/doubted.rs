//! What storage refused although nobody is known to own the slot under a higher epoch, and slots of
//! which somebody knows a higher epoch than the table: the database has lost commits, or this process
//! has not heard yet that it is replaced.
//!
//! Refused rows are kept and asked for again, until the table has this owner's epoch again (it asserts
//! it on the new timeline) or a higher one is known. A slot with too low an epoch gets one above all
//! that are known: storage gives it to the router that the table names, and to nobody else.

use std::collections::BTreeSet;

use prost::Message;
use sestina_proto as proto;
use sestina_runtime::guard;

use super::core::Job;
use super::slot::Phase;
use super::turn::Worker;
use super::work::WorkId;

/// How often it is looked for epochs that are too low.
const LOOK_MS: u64 = 500;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Doubted {
    archive: Vec<(proto::ArchiveRow, WorkId)>,
    offline: Vec<(proto::OfflineRow, WorkId)>,
    removals: Vec<(u16, u64, Job)>,
    bytes: usize,
    /// Storage is being asked for a higher epoch of these.
    raising: BTreeSet<u16>,
    looked_ms: u64,
}

impl Doubted {
    /// Of the rows that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Rows of a job that ended: slot and epoch of each, and the works that wait for them.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) slots: Vec<(u16, u64)>,
    pub(super) works: Vec<WorkId>,
}

impl Rows {
    fn remove(&mut self, at: (u16, u64), work: WorkId) {
        let mut all = self.slots.iter().zip(&self.works);
        if let Some(index) = all.position(|(slot, waits)| *slot == at && *waits == work) {
            self.slots.swap_remove(index);
            self.works.swap_remove(index);
        }
    }
}

fn place(fence: Option<&proto::Fence>) -> (u16, u64) {
    fence.map_or((u16::MAX, 0), |fence| (fence.slot as u16, fence.epoch))
}

impl Worker {
    /// Whether a refusal by storage is doubtful.
    fn is_doubtful(&mut self, (slot, epoch): (u16, u64)) -> bool {
        let held = self.slots.get_mut(slot).is_some_and(|s| s.epoch == epoch);
        held && self.core.known_epoch(slot) <= epoch && guard!("timeline")
    }

    /// Keeps archive rows whose refusal is doubtful, and takes them out of `rows`; returns the slots
    /// of the others.
    pub(super) fn keep_archive(
        &mut self,
        rows: &mut Rows,
        fenced: Vec<(proto::ArchiveRow, WorkId)>,
    ) -> Vec<u32> {
        self.keep(rows, fenced, |row| row.fence.as_ref(), |d| &mut d.archive)
    }

    /// The same for offline rows.
    pub(super) fn keep_offline(
        &mut self,
        rows: &mut Rows,
        fenced: Vec<(proto::OfflineRow, WorkId)>,
    ) -> Vec<u32> {
        self.keep(rows, fenced, |row| row.fence.as_ref(), |d| &mut d.offline)
    }

    fn keep<R: Message>(
        &mut self,
        rows: &mut Rows,
        fenced: Vec<(R, WorkId)>,
        fence: fn(&R) -> Option<&proto::Fence>,
        kept: fn(&mut Doubted) -> &mut Vec<(R, WorkId)>,
    ) -> Vec<u32> {
        let mut refused = Vec::new();
        for (row, work) in fenced {
            let at = place(fence(&row));
            if self.is_doubtful(at) {
                rows.remove(at, work);
                self.core.doubted.bytes += row.encoded_len();
                kept(&mut self.core.doubted).push((row, work));
            } else {
                refused.push(u32::from(at.0));
            }
        }
        refused
    }

    /// The same for rows that were to be marked as delivered; false if the refusal is final.
    pub(super) fn keep_removal(
        &mut self,
        slot: u16,
        session: u128,
        request: &proto::OfflineRemoveRequest,
    ) -> bool {
        let at = place(request.fence.as_ref());
        let doubtful = self.is_doubtful(at);
        if doubtful {
            let job = Job::OfflineRemove {
                slot,
                session,
                request: request.clone(),
            };
            self.core.doubted.removals.push((at.0, at.1, job));
        }
        doubtful
    }

    /// Sends what was refused once more.
    pub(super) fn ask_again(&mut self) {
        self.core.doubted.bytes = 0;
        for (row, work) in std::mem::take(&mut self.core.doubted.archive) {
            if self.holds(place(row.fence.as_ref())) {
                let bytes = row.encoded_len();
                self.core.archive.push(row, work, bytes);
            } else {
                // Whoever owns the slot now answers for it.
                self.core.works.cancel(work);
            }
        }
        for (row, work) in std::mem::take(&mut self.core.doubted.offline) {
            if self.holds(place(row.fence.as_ref())) {
                let bytes = row.encoded_len();
                self.core.offline.push(row, work, bytes);
            } else {
                self.core.works.cancel(work);
            }
        }
        for (slot, epoch, job) in std::mem::take(&mut self.core.doubted.removals) {
            if self.holds((slot, epoch)) {
                self.core.jobs.push(job);
            }
        }
    }

    fn holds(&mut self, (slot, epoch): (u16, u64)) -> bool {
        self.slots.get_mut(slot).is_some_and(|s| s.epoch == epoch)
    }

    /// An edge or router knows that epoch of a slot, and refuses what this process sends of it.
    pub(super) fn outranked(&mut self, slot: u16, known: u64) {
        let Some(epoch) = self.slots.get_mut(slot).map(|s| s.epoch) else {
            return;
        };
        if known >= epoch && guard!("timeline") {
            self.core.admit_epoch(slot, known.max(epoch + 1));
            self.raise(slot);
        }
    }

    /// Storage has answered; the table says what.
    pub(super) fn raised(&mut self, slot: u16) {
        self.core.doubted.raising.remove(&slot);
    }

    /// Looks for slots of this process of which somebody knows a higher epoch than the table.
    pub(super) fn raise_outdated(&mut self) {
        if self.core.now_ms < self.core.doubted.looked_ms + LOOK_MS {
            return;
        }
        self.core.doubted.looked_ms = self.core.now_ms;
        let table = self.core.table.clone();
        let (worker, workers) = (self.core.worker, self.core.workers.max(1));
        let mine = table.slots_of(&self.core.me);
        let outdated = mine
            .filter(|slot| u32::from(*slot) % workers == worker)
            .filter(|slot| table.epoch(*slot) < self.core.known_epoch(*slot));
        for slot in outdated.collect::<Vec<u16>>() {
            self.raise(slot);
        }
    }

    fn raise(&mut self, slot: u16) {
        let known = self.core.known_epoch(slot);
        let table = &self.core.table;
        let outdated = table.owned_by(slot, &self.core.me) && table.epoch(slot) < known;
        if !outdated || !guard!("timeline") {
            return;
        }
        if let Some(held) = self.slots.get_mut(slot) {
            // What it holds it asserts, and what it gives away it may not have any more.
            let asserted = held.epoch > self.core.table.epoch(slot);
            if asserted || matches!(held.phase, Phase::Frozen { .. }) {
                return;
            }
        }
        if self.core.doubted.raising.insert(slot) {
            self.core.jobs.push(Job::Raise { slot, known });
        }
    }
}

#[cfg(test)]
#[path = "doubted_tests.rs"]
mod tests;
