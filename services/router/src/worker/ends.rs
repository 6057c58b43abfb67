//! Jobs that ended: what waited for them goes on.

use sestina_api::state_store::{Loaded, StateStoreError};
use sestina_proto as proto;
use sestina_telemetry::SlotStep;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::core::Job;
use super::data::DataReply;
use super::doubted::Rows;
use super::input::JobDone;
use super::operations::{OnDone, OperationId};
use super::receive::InHand;
use super::slot::Phase;
use super::turn::Worker;

impl Worker {
    /// XEP-0160 §3: a user's store is full, the sender is told.
    fn offline_full(&mut self, operation: OperationId, stanza: proto::Stanza) {
        let core = &mut self.core;
        let error = Stanza::from(stanza).error_reply(
            Condition::ServiceUnavailable,
            Some("too many messages wait for this user"),
        );
        match core.operations.done_mut(operation) {
            Some(OnDone::SlotMessage { slot, entity, key }) => {
                let hand = InHand {
                    key: *key,
                    entity: *entity,
                    operation,
                    replay: false,
                };
                if let Some(slot) = self.slots.get_mut(*slot) {
                    slot.answer_with(hand, error);
                }
            }
            Some(OnDone::Returned {
                slot,
                session,
                number,
                ..
            }) => {
                let (session, number) = (*session, *number);
                if let Some(slot) = self.slots.get_mut(*slot) {
                    slot.send_back(core, session, number, error, operation);
                }
            }
            _ => {}
        }
    }

    fn rows_done(
        &mut self,
        slots: &[(u16, u64)],
        operations: Vec<OperationId>,
        fenced: &[u32],
        archive: bool,
    ) {
        for (slot, epoch) in slots {
            if let Some(slot) = self.slots.get_mut(*slot).filter(|s| s.epoch == *epoch) {
                let open = if archive {
                    &mut slot.archive_rows.open
                } else {
                    &mut slot.offline_rows.open
                };
                *open = open.saturating_sub(1);
            }
        }
        let is_fenced = |at: &(u16, u64)| {
            // Rows of two epochs in one batch: the older ones are those refused.
            let newest = slots.iter().filter(|s| s.0 == at.0).map(|s| s.1).max();
            let mixed = slots.iter().any(|s| s.0 == at.0 && s.1 != at.1);
            fenced.contains(&u32::from(at.0)) && !(mixed && newest == Some(at.1))
        };
        for at in slots.iter().filter(|at| is_fenced(at)) {
            // The slot may have come back under a higher epoch since.
            if self.slots.get_mut(at.0).is_some_and(|s| s.epoch == at.1) {
                self.fenced_by_storage(at.0);
            }
        }
        for (at, operation) in slots.iter().zip(operations) {
            if self.slots.get_mut(at.0).is_some_and(|s| s.epoch == at.1) {
                self.core.part_done(operation);
            } else {
                // The present owner of the slot answers for it.
                self.core.operations.cancel(operation);
            }
        }
    }

    /// Storage knows a higher epoch of the slot.
    fn fenced_by_storage(&mut self, slot: u16) {
        tracing::warn!(slot, "fenced by storage: another router owns the slot");
        self.core.metrics.refused_epoch();
        self.core.metrics.slot_fenced();
        self.drop_slot(slot);
    }

    /// The state store knows a higher epoch of the slot.
    fn fenced_by_state_store(&mut self, slot: u16) {
        self.core.metrics.refused_epoch();
        self.core.metrics.slot_fenced();
        self.drop_slot(slot);
    }

    pub(super) fn job_done(&mut self, done: JobDone) {
        let core = &mut self.core;
        match done {
            JobDone::Archive {
                slots,
                operations,
                fenced,
            } => {
                core.storage.archive.ended();
                let mut rows = Rows { slots, operations };
                let fenced = self.keep_archive(&mut rows, fenced);
                self.rows_done(&rows.slots, rows.operations, &fenced, true);
            }
            JobDone::Offline {
                slots,
                operations,
                fenced,
                full,
            } => {
                core.storage.offline.ended();
                for (operation, stanza) in full {
                    self.offline_full(operation, stanza);
                }
                let mut rows = Rows { slots, operations };
                let fenced = self.keep_offline(&mut rows, fenced);
                self.rows_done(&rows.slots, rows.operations, &fenced, false);
            }
            JobDone::UserKnown { slot, bare, known } => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.user_known(core, &bare, known.as_ref());
                }
            }
            JobDone::OfflineList { read, page } => {
                let slot = self.slots.get_mut(read.slot);
                if let Some(slot) = slot.filter(|s| s.epoch == read.epoch) {
                    slot.stored_rows(core, &read, page);
                }
            }
            JobDone::OfflineRemoved {
                slot,
                session,
                request,
                fenced,
            } => self.rows_removed(slot, session, &request, fenced),
            JobDone::ArchiveQuery { query, page } => {
                core.storage.pages = core.storage.pages.saturating_sub(1);
                match self.slots.get_mut(query.slot) {
                    Some(slot) => slot.archive_page(core, *query, page),
                    None => core.part_done(query.operation),
                }
            }
            JobDone::Residents {
                slot,
                epoch,
                question,
                user,
                items,
            } => {
                let slot = self.slots.get_mut(slot);
                if let Some(slot) = slot.filter(|s| s.epoch == epoch) {
                    slot.residents_answered(core, &user, question, items);
                }
            }
            JobDone::EntityData {
                slot,
                epoch,
                entity,
                reply,
            } => self.data_done((slot, epoch), entity, reply),
            JobDone::ReplicaCommitted {
                slot: number,
                at,
                result,
            } => {
                let slot = self.slots.get_mut(number);
                if slot.is_some_and(|slot| !slot.replica_done(core, at, result)) {
                    self.fenced_by_state_store(number);
                }
            }
            JobDone::ReplicaListed {
                slot: number,
                at,
                result,
            } => {
                let slot = self.slots.get_mut(number);
                if slot.is_some_and(|slot| !slot.replica_listed(core, at, result)) {
                    self.fenced_by_state_store(number);
                }
            }
            JobDone::ReplicaLoaded {
                slot,
                epoch,
                result,
            } => self.replica_loaded(slot, epoch, result),
            JobDone::Keys => core.keys.asked = false,
            JobDone::Raised { slot } => self.raised(slot),
            JobDone::Released { slot, epoch, done } => self.released(slot, epoch, done),
        }
    }

    fn rows_removed(
        &mut self,
        slot: u16,
        session: u128,
        request: &proto::OfflineRemoveRequest,
        fenced: bool,
    ) {
        if fenced && self.keep_removal(slot, session, request) {
            return;
        }
        let epoch = request.fence.map_or(0, |fence| fence.epoch);
        let slot = self.slots.get_mut(slot);
        if let Some(slot) = slot.filter(|s| s.epoch == epoch) {
            slot.stored_marked(&mut self.core, session, request);
        }
    }

    fn data_done(
        &mut self,
        (number, epoch): (u16, u64),
        user: String,
        reply: Result<DataReply, String>,
    ) {
        let fenced = matches!(&reply, Ok(DataReply::Put(reply)) if reply.fenced);
        let Some(slot) = self.slots.get_mut(number).filter(|s| s.epoch == epoch) else {
            return;
        };
        if !fenced {
            slot.data_answered(&mut self.core, &user, reply);
        } else if !self.keep_data((number, epoch), user) {
            self.fenced_by_storage(number);
        }
    }

    fn replica_loaded(&mut self, number: u16, epoch: u64, result: Result<Loaded, StateStoreError>) {
        let core = &mut self.core;
        let Some(slot) = self.slots.get_mut(number).filter(|s| s.epoch == epoch) else {
            return;
        };
        match result {
            Ok(loaded) => slot.replica_loaded(core, loaded),
            Err(StateStoreError::Fenced { found }) => {
                core.admit_epoch(number, found.last.epoch);
                core.metrics.slot_fenced();
                self.drop_slot(number);
            }
            // The job itself tries again while the state store is unavailable.
            Err(_) => core.jobs.push(Job::ReplicaLoad {
                slot: number,
                epoch,
            }),
        }
    }

    /// The table was changed (`done`), or the hand-over failed.
    fn released(&mut self, number: u16, epoch: u64, done: bool) {
        let core = &mut self.core;
        let Some(slot) = self.slots.get_mut(number).filter(|s| s.epoch == epoch) else {
            return;
        };
        core.slots.quiescing.retain(|s| *s != number);
        // The database may have lost the release since, so the slot is released once more. If another process owns the
        // slot, this process learns that before storage answers.
        if done
            && let Phase::Quiescing {
                asserted,
                releasing,
                ..
            } = &mut slot.phase
            && std::mem::take(asserted)
        {
            *releasing = false;
            core.slots.quiescing.push(number);
            return;
        }
        if done {
            if let Phase::Quiescing { step_ms, .. } = slot.phase {
                let took = core.now_ms.saturating_sub(step_ms);
                core.metrics.slot_step(SlotStep::Release, took);
            }
            core.metrics.slot_released();
            self.drop_slot(number);
        } else {
            slot.resume_serving(core);
        }
    }
}
