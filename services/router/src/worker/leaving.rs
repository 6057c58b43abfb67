//! Slots leave this worker: another process owns them, or they are given away.

use sestina_proto as proto;

use super::slot::Slot;
use super::turn::{RETRY_MS, Worker};
use super::work::{OnDone, WorkId};

/// Slots in use that a worker gives away at one time.
const BUSY_AT_ONCE: usize = 16;

impl Worker {
    /// This process does not own the slot any more: nothing of it may act.
    pub(super) fn lose(&mut self, slot: u16, epoch: u64) {
        self.core.admit_epoch(slot, epoch);
        if self.slots.get_mut(slot).is_some_and(|s| s.epoch < epoch) {
            self.drop_slot(slot);
            self.core.frozen.retain(|s| *s != slot);
        }
    }

    /// Forgets a slot; its rows live on elsewhere.
    pub(super) fn drop_slot(&mut self, number: u16) {
        let Some(mut slot) = self.slots.remove(number) else {
            return;
        };
        self.parting.gave(&slot, self.core.now_ms);
        slot.refuse_held(&mut self.core);
        self.drop_works(&slot);
        for session in slot.sessions.values().filter(|s| s.is_live()) {
            if session.edge().is_none() {
                self.core.metrics.reattached();
            }
            self.core.metrics.ended();
        }
        for room in slot.rooms.values() {
            self.core.metrics.rooms(-1);
            let occupants = i64::try_from(room.occupant_count()).unwrap_or(i64::MAX);
            self.core.metrics.occupants(-occupants);
        }
    }

    /// What a slot's works waited for happens elsewhere now. Works of other slots that had a part
    /// here (events of rooms) go on without it, and say so.
    fn drop_works(&mut self, slot: &Slot) {
        let queued = slot
            .sessions
            .values()
            .flat_map(|s| &s.queue)
            .filter_map(|i| i.work);
        let pending = slot
            .outbound
            .values()
            .flat_map(|q| &q.pending)
            .map(|p| p.work);
        let parked = slot
            .parked
            .values()
            .flatten()
            .map(super::replay::Parked::work);
        let records = slot.sessions.values().flat_map(|s| &s.state_waits).copied();
        let cursors = slot.sessions.values().filter_map(|s| s.stored.as_ref());
        let ended = cursors.filter_map(|cursor| cursor.work());
        let all = queued.chain(pending).chain(parked).chain(records);
        let pages = slot.sessions.values().filter_map(|s| s.pages.as_ref());
        let pages = pages.flat_map(|pages| pages.works());
        let joining = slot
            .rooms
            .values()
            .flat_map(crate::room::Room::joining_works);
        let all = all.chain(ended).chain(pages).chain(joining);
        let works: Vec<WorkId> = all.collect();
        for work in works {
            if let Some(OnDone::RoomEvent { ack, .. }) = self.core.works.done_mut(work) {
                ack.done.retain(|s| *s != slot.slot);
                if !ack.not_owner.contains(&slot.slot) {
                    ack.not_owner.push(slot.slot);
                }
                self.core.part_done(work);
            } else {
                self.core.works.cancel(work);
            }
        }
    }

    /// Goes on with hand-overs.
    pub(super) fn hand_over(&mut self) {
        let frozen = std::mem::take(&mut self.core.frozen);
        let retry = self.retry_refused();
        for number in frozen {
            if retry && let Some(slot) = self.slots.get_mut(number) {
                slot.handover_retry(&mut self.core);
            }
            if let Some(slot) = self.slots.get_mut(number)
                && slot.handover_step(&mut self.core)
            {
                self.core.frozen.push(number);
            }
        }
    }

    /// Asks again what was refused: a slot changes hands within less than a tick. Tells whether it
    /// was time for that.
    fn retry_refused(&mut self) -> bool {
        if self.core.now_ms < self.last_retry_ms + RETRY_MS {
            return false;
        }
        self.last_retry_ms = self.core.now_ms;
        if std::mem::take(&mut self.core.effects_refused) {
            for slot in self.slots.iter_mut().filter(|s| s.is_active()) {
                slot.retry_effects(&mut self.core);
            }
        }
        true
    }

    /// Begins to give slots away. Of those in use a few at a time, and before all others: each is
    /// silent until its new owner has it. The order comes again for those that are left.
    pub(super) fn freeze(&mut self, slots: &[u16], to: &proto::Node) {
        let (mut busy, mut idle) = (Vec::new(), Vec::new());
        for slot in slots {
            match self.slots.get_mut(*slot) {
                Some(slot) if slot.is_active() && slot.is_idle() => idle.push(slot.slot),
                Some(slot) if slot.is_active() => busy.push(slot.slot),
                _ => {}
            }
        }
        let some = !busy.is_empty();
        if some {
            let used = |number: &&u16| self.slots.get_mut(**number).is_some_and(|s| !s.is_idle());
            let frozen = self.core.frozen.iter().filter(used).count();
            busy.truncate(BUSY_AT_ONCE.saturating_sub(frozen));
        }
        for number in if some { busy } else { idle } {
            if let Some(slot) = self.slots.get_mut(number) {
                slot.freeze(&mut self.core, to.clone());
            }
        }
    }
}
