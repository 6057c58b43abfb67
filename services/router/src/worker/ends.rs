//! Jobs that ended: what waited for them goes on.

use sestina_api::shadow::ShadowError;
use sestina_proto as proto;
use sestina_telemetry::SlotStep;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::core::Job;
use super::doubted::Rows;
use super::input::JobDone;
use super::receive::InHand;
use super::slot::Phase;
use super::turn::Worker;
use super::work::{OnDone, WorkId};

impl Worker {
    /// XEP-0160 §3: a user's store is full, the sender is told.
    fn offline_full(&mut self, work: WorkId, stanza: proto::Stanza) {
        let core = &mut self.core;
        let error = Stanza::from(stanza).error_reply(
            Condition::ServiceUnavailable,
            Some("too many messages wait for this user"),
        );
        match core.works.done_mut(work) {
            Some(OnDone::Effect { slot, entity, key }) => {
                let hand = InHand {
                    key: *key,
                    entity: *entity,
                    work,
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
                    slot.send_back(core, session, number, error, work);
                }
            }
            _ => {}
        }
    }

    fn rows_done(
        &mut self,
        slots: &[(u16, u64)],
        works: Vec<WorkId>,
        fenced: &[u32],
        archive: bool,
    ) {
        for (slot, epoch) in slots {
            if let Some(slot) = self.slots.get_mut(*slot).filter(|s| s.epoch == *epoch) {
                let open = if archive {
                    &mut slot.archive_open
                } else {
                    &mut slot.offline_open
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
                tracing::warn!(
                    slot = at.0,
                    "fenced by storage: another router owns the slot"
                );
                self.core.metrics.refused_epoch();
                self.core.metrics.slot_fenced();
                self.drop_slot(at.0);
            }
        }
        for (at, work) in slots.iter().zip(works) {
            if self.slots.get_mut(at.0).is_some_and(|s| s.epoch == at.1) {
                self.core.part_done(work);
            } else {
                // Whoever owns the slot now answers for it.
                self.core.works.cancel(work);
            }
        }
    }

    /// The shadow knows a higher epoch of the slot.
    fn fenced_by_shadow(&mut self, slot: u16) {
        self.core.metrics.refused_epoch();
        self.core.metrics.slot_fenced();
        self.drop_slot(slot);
    }

    pub(super) fn job_done(&mut self, done: JobDone) {
        let core = &mut self.core;
        match done {
            JobDone::Archive {
                slots,
                works,
                fenced,
            } => {
                core.archive.ended();
                let mut rows = Rows { slots, works };
                let fenced = self.keep_archive(&mut rows, fenced);
                self.rows_done(&rows.slots, rows.works, &fenced, true);
            }
            JobDone::Offline {
                slots,
                works,
                fenced,
                full,
            } => {
                core.offline.ended();
                for (work, stanza) in full {
                    self.offline_full(work, stanza);
                }
                let mut rows = Rows { slots, works };
                let fenced = self.keep_offline(&mut rows, fenced);
                self.rows_done(&rows.slots, rows.works, &fenced, false);
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
            } => {
                if fenced && self.keep_removal(slot, session, &request) {
                    return;
                }
                let core = &mut self.core;
                let epoch = request.fence.map_or(0, |fence| fence.epoch);
                let slot = self.slots.get_mut(slot);
                if let Some(slot) = slot.filter(|s| s.epoch == epoch) {
                    slot.stored_marked(core, session, &request);
                }
            }
            JobDone::ArchiveQuery { query, page } => {
                core.archive_queries = core.archive_queries.saturating_sub(1);
                match self.slots.get_mut(query.slot) {
                    Some(slot) => slot.archive_page(core, *query, page),
                    None => core.part_done(query.work),
                }
            }
            JobDone::Shadow {
                slot: number,
                at,
                result,
            } => {
                let slot = self.slots.get_mut(number);
                if slot.is_some_and(|slot| !slot.shadow_done(core, at, result)) {
                    self.fenced_by_shadow(number);
                }
            }
            JobDone::ShadowListed {
                slot: number,
                at,
                result,
            } => {
                let slot = self.slots.get_mut(number);
                if slot.is_some_and(|slot| !slot.shadow_listed(core, at, result)) {
                    self.fenced_by_shadow(number);
                }
            }
            JobDone::ShadowLoaded {
                slot: number,
                epoch,
                result,
            } => {
                let Some(slot) = self.slots.get_mut(number).filter(|s| s.epoch == epoch) else {
                    return;
                };
                match result {
                    Ok(loaded) => slot.shadow_loaded(core, loaded),
                    Err(ShadowError::Fenced { found }) => {
                        core.admit_epoch(number, found.last.epoch);
                        core.metrics.slot_fenced();
                        self.drop_slot(number);
                    }
                    // The job itself tries again while the shadow is away.
                    Err(_) => core.jobs.push(Job::ShadowLoad {
                        slot: number,
                        epoch,
                    }),
                }
            }
            JobDone::Keys => core.keys_asked = false,
            JobDone::Raised { slot } => self.raised(slot),
            JobDone::Released {
                slot: number,
                epoch,
                done,
            } => {
                let Some(slot) = self.slots.get_mut(number).filter(|s| s.epoch == epoch) else {
                    return;
                };
                core.frozen.retain(|s| *s != number);
                if done {
                    if let Phase::Frozen { step_ms, .. } = slot.phase {
                        let took = core.now_ms.saturating_sub(step_ms);
                        core.metrics.slot_step(SlotStep::Release, took);
                    }
                    core.metrics.slot_released();
                    self.drop_slot(number);
                } else {
                    slot.thaw(core);
                }
            }
        }
    }
}
