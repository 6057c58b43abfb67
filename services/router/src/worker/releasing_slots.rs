//! Slots leave this worker: another process owns them, or they are given away.

use sestina_proto as proto;

use super::operations::{OnDone, OperationId};
use super::slot::Slot;
use super::turn::{RETRY_MS, Worker};

/// Slots in use that a worker gives away at one time.
const BUSY_AT_ONCE: usize = 16;

impl Worker {
    /// This process does not own the slot any more: nothing of it may act.
    pub(super) fn lose(&mut self, slot: u16, epoch: u64) {
        self.core.admit_epoch(slot, epoch);
        if self.slots.get_mut(slot).is_some_and(|s| s.epoch < epoch) {
            self.drop_slot(slot);
            self.core.slots.quiescing.retain(|s| *s != slot);
        }
    }

    /// Forgets a slot; its rows live on elsewhere.
    pub(super) fn drop_slot(&mut self, number: u16) {
        let Some(mut slot) = self.slots.remove(number) else {
            return;
        };
        self.handover_states.gave(&slot, self.core.now_ms);
        slot.refuse_held(&mut self.core);
        self.drop_operations(&slot);
        for session in slot.sessions.values().filter(|s| s.channel.is_live()) {
            if session.channel.edge().is_none() {
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

    /// The slot's operations end: what they waited for happens at the next owner. Operations of other slots that had a part
    /// here (events of rooms) go on without it, and say so.
    fn drop_operations(&mut self, slot: &Slot) {
        let queued = slot
            .sessions
            .values()
            .flat_map(|s| &s.channel.outgoing.queue)
            .filter_map(|i| i.operation);
        let pending = slot.outbox.operations();
        let deferred = slot
            .deferred
            .values()
            .flatten()
            .map(super::replay::Deferred::operation);
        let records = slot
            .sessions
            .values()
            .flat_map(|s| &s.channel.state_waits)
            .copied();
        let cursors = slot
            .sessions
            .values()
            .filter_map(|s| s.client.stored.as_ref());
        let ended = cursors.filter_map(|cursor| cursor.operation());
        let all = queued.chain(pending).chain(deferred).chain(records);
        let pages = slot
            .sessions
            .values()
            .filter_map(|s| s.client.pages.as_ref());
        let pages = pages.flat_map(|pages| pages.operations());
        let joining = slot
            .rooms
            .values()
            .flat_map(crate::room::OwnedRoom::joining_operations);
        let all = all.chain(ended).chain(pages).chain(joining);
        let all = all.chain(slot.data.operations());
        let operations: Vec<OperationId> = all.collect();
        for operation in operations {
            if let Some(OnDone::RoomEvent { ack, .. }) = self.core.operations.done_mut(operation) {
                ack.done.retain(|s| *s != slot.slot);
                if !ack.not_owner.contains(&slot.slot) {
                    ack.not_owner.push(slot.slot);
                }
                self.core.part_done(operation);
            } else {
                self.core.operations.cancel(operation);
            }
        }
    }

    /// Goes on with hand-overs.
    pub(super) fn hand_over(&mut self) {
        let quiescing = std::mem::take(&mut self.core.slots.quiescing);
        let retry = self.retry_refused();
        for number in quiescing {
            if retry && let Some(slot) = self.slots.get_mut(number) {
                slot.handover_retry(&mut self.core);
            }
            if let Some(slot) = self.slots.get_mut(number)
                && slot.handover_step(&mut self.core)
            {
                self.core.slots.quiescing.push(number);
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
        if std::mem::take(&mut self.core.slots.messages_refused) {
            for slot in self.slots.iter_mut().filter(|s| s.is_active()) {
                slot.retry_messages(&mut self.core);
            }
        }
        true
    }

    /// Begins to give slots away. Of those in use a few at a time, and before all others: each is
    /// silent until its new owner has it. The order comes again for those that are left.
    pub(super) fn quiesce(&mut self, slots: &[u16], to: &proto::Node) {
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
            let quiescing = self.core.slots.quiescing.iter().filter(used).count();
            busy.truncate(BUSY_AT_ONCE.saturating_sub(quiescing));
        }
        for number in if some { busy } else { idle } {
            if let Some(slot) = self.slots.get_mut(number) {
                slot.quiesce(&mut self.core, to.clone());
            }
        }
    }
}
