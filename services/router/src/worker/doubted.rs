//! Rows that storage refused although no process is known to own the slot under a higher epoch, and slots of
//! which a process knows a higher epoch than the table: the database has lost commits, or this process
//! has not heard yet that it is replaced.
//!
//! Refused rows are kept and asked for again, until the table has this owner's epoch again (it asserts
//! it on the new timeline) or a higher one is known. A slot with too low an epoch gets one above all
//! that are known: storage gives it to the router that the table names, and to no other.

use std::collections::BTreeSet;

use prost::Message;
use sestina_proto as proto;
use sestina_runtime::guard;

use super::core::Job;
use super::operations::OperationId;
use super::slot::Phase;
use super::turn::Worker;

/// How often it is looked for epochs that are too low.
const LOOK_MS: u64 = 500;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Doubted {
    archive: Vec<(proto::ArchiveRow, OperationId)>,
    offline: Vec<(proto::OfflineRow, OperationId)>,
    removals: Vec<(u16, u64, Job)>,
    /// Users whose data is written, with slot and epoch; the slot holds the request.
    data: Vec<((u16, u64), String)>,
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

/// Rows of a job that ended: slot and epoch of each, and the operations that wait for them.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) slots: Vec<(u16, u64)>,
    pub(super) operations: Vec<OperationId>,
}

impl Rows {
    fn remove(&mut self, at: (u16, u64), operation: OperationId) {
        let mut all = self.slots.iter().zip(&self.operations);
        if let Some(index) = all.position(|(slot, waits)| *slot == at && *waits == operation) {
            self.slots.swap_remove(index);
            self.operations.swap_remove(index);
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
        fenced: Vec<(proto::ArchiveRow, OperationId)>,
    ) -> Vec<u32> {
        self.keep(rows, fenced, |row| row.fence.as_ref(), |d| &mut d.archive)
    }

    /// The same for offline rows.
    pub(super) fn keep_offline(
        &mut self,
        rows: &mut Rows,
        fenced: Vec<(proto::OfflineRow, OperationId)>,
    ) -> Vec<u32> {
        self.keep(rows, fenced, |row| row.fence.as_ref(), |d| &mut d.offline)
    }

    fn keep<R: Message>(
        &mut self,
        rows: &mut Rows,
        fenced: Vec<(R, OperationId)>,
        fence: fn(&R) -> Option<&proto::Fence>,
        kept: fn(&mut Doubted) -> &mut Vec<(R, OperationId)>,
    ) -> Vec<u32> {
        let mut refused = Vec::new();
        for (row, operation) in fenced {
            let at = place(fence(&row));
            if self.is_doubtful(at) {
                rows.remove(at, operation);
                self.core.doubted.bytes += row.encoded_len();
                kept(&mut self.core.doubted).push((row, operation));
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

    /// The same for a write of a user's data; false if the refusal is final.
    pub(super) fn keep_data(&mut self, at: (u16, u64), user: String) -> bool {
        let doubtful = self.is_doubtful(at);
        if doubtful {
            self.core.doubted.data.push((at, user));
        }
        doubtful
    }

    /// Sends what was refused once more.
    pub(super) fn ask_again(&mut self) {
        self.core.doubted.bytes = 0;
        for (row, operation) in std::mem::take(&mut self.core.doubted.archive) {
            if self.holds(place(row.fence.as_ref())) {
                let bytes = row.encoded_len();
                self.core.storage.archive.push(row, operation, bytes);
            } else {
                // The present owner of the slot answers for it.
                self.core.operations.cancel(operation);
            }
        }
        for (row, operation) in std::mem::take(&mut self.core.doubted.offline) {
            if self.holds(place(row.fence.as_ref())) {
                let bytes = row.encoded_len();
                self.core.storage.offline.push(row, operation, bytes);
            } else {
                self.core.operations.cancel(operation);
            }
        }
        for (slot, epoch, job) in std::mem::take(&mut self.core.doubted.removals) {
            if self.holds((slot, epoch)) {
                self.core.jobs.push(job);
            }
        }
        self.ask_for_data_again();
    }

    fn ask_for_data_again(&mut self) {
        for ((slot, epoch), user) in std::mem::take(&mut self.core.doubted.data) {
            let slot = self.slots.get_mut(slot).filter(|s| s.epoch == epoch);
            if let Some(slot) = slot {
                slot.data_refused(&mut self.core, &user);
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

    /// Looks for slots of this process of which a process knows a higher epoch than the table.
    pub(super) fn raise_outdated(&mut self) {
        if self.core.now_ms < self.core.doubted.looked_ms + LOOK_MS {
            return;
        }
        self.core.doubted.looked_ms = self.core.now_ms;
        let table = self.core.owners.table.clone();
        let (worker, workers) = (self.core.me.worker, self.core.me.workers.max(1));
        let mine = table.slots_of(&self.core.me.node);
        let outdated = mine
            .filter(|slot| u32::from(*slot) % workers == worker)
            .filter(|slot| table.epoch(*slot) < self.core.known_epoch(*slot));
        for slot in outdated.collect::<Vec<u16>>() {
            self.raise(slot);
        }
    }

    fn raise(&mut self, slot: u16) {
        let known = self.core.known_epoch(slot);
        let table = &self.core.owners.table;
        let outdated = table.owned_by(slot, &self.core.me.node) && table.epoch(slot) < known;
        if !outdated || !guard!("timeline") {
            return;
        }
        if let Some(held) = self.slots.get_mut(slot) {
            // It asserts the slots that it holds, and may not have those any more that it gives away.
            let asserted = held.epoch > self.core.owners.table.epoch(slot);
            if asserted || matches!(held.phase, Phase::Quiescing { .. }) {
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
