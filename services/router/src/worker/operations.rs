//! Pending operations: what has to be durable, or held by two processes, before something may be answered.
//!
//! A stanza of a session, a slot message from another slot and a room event each open one [`Operation`].
//! Every part of it (a delivery, a row, a commit to the state store, a slot message elsewhere) is counted in and
//! counted out; with the last part out, its [`OnDone`] is due.

use std::collections::VecDeque;

use sestina_api::key::IdempotencyKey;

use super::core::PeerRef;

/// Handle of an open work. Stale handles are harmless: they name nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId {
    index: u32,
    stamp: u32,
}

/// What is due when all parts are done.
#[derive(Debug)]
pub(crate) enum OnDone {
    /// The n-th stanza of that session is settled.
    Stanza { slot: u16, session: u128, n: u64 },
    /// A slot message that came from another slot's owner is done: answer it.
    SlotMessage {
        slot: u16,
        entity: u64,
        key: IdempotencyKey,
    },
    /// All targets of a room's event that live here have it: answer the room's owner.
    RoomEvent {
        from: PeerRef,
        room_slot: u16,
        room_epoch: u64,
        key: IdempotencyKey,
        ack: Box<RoomAckParts>,
    },
    /// A session has ended, and all contacts and rooms have its unavailable presence: delete it.
    Ended { slot: u16, session: u128 },
    /// The outbound stanza of that number, which a session that ended did not take, is stored or
    /// went back to its sender: a part of the operation that forgets the session.
    Returned {
        slot: u16,
        session: u128,
        number: u64,
        ended: OperationId,
        /// The operation of the stanza itself, if no second process has it.
        waits: Option<OperationId>,
    },
    /// Nothing is due.
    Nothing,
}

/// The parts of a RoomAck beside "taken".
#[derive(Debug, Default)]
pub(crate) struct RoomAckParts {
    pub(crate) done: Vec<u16>,
    pub(crate) not_owner: Vec<u16>,
    pub(crate) gone: Vec<(u16, u128)>,
}

impl RoomAckParts {
    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.not_owner.is_empty() && self.gone.is_empty()
    }
}

#[derive(Debug)]
struct Operation {
    stamp: u32,
    left: u32,
    done: Option<OnDone>,
}

/// All open operations of one worker.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// Operations whose last part is out; the worker acts on them before the turn ends.
    pub(crate) due: VecDeque<OnDone>,
    rows: Vec<Operation>,
    free: Vec<u32>,
}

impl Operations {
    /// Opens an operation with one part: the processing itself, to be closed by [`Operations::part_done`].
    pub(crate) fn open(&mut self, done: OnDone) -> OperationId {
        if let Some(index) = self.free.pop()
            && let Some(row) = self.rows.get_mut(index as usize)
        {
            row.left = 1;
            row.done = Some(done);
            return OperationId {
                index,
                stamp: row.stamp,
            };
        }
        let index = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.rows.push(Operation {
            stamp: 0,
            left: 1,
            done: Some(done),
        });
        OperationId { index, stamp: 0 }
    }

    fn row(&mut self, id: OperationId) -> Option<&mut Operation> {
        self.rows
            .get_mut(id.index as usize)
            .filter(|r| r.stamp == id.stamp && r.done.is_some())
    }

    /// Counts one more part in.
    pub(crate) fn part(&mut self, id: OperationId) {
        if let Some(row) = self.row(id) {
            row.left += 1;
        }
    }

    /// Counts one part out; the last one returns what is due.
    pub(crate) fn part_done(&mut self, id: OperationId) -> Option<OnDone> {
        let row = self.row(id)?;
        row.left -= 1;
        if row.left > 0 {
            return None;
        }
        row.stamp = row.stamp.wrapping_add(1);
        let done = row.done.take();
        self.free.push(id.index);
        done
    }

    /// Closes an operation without what would be due.
    pub(crate) fn cancel(&mut self, id: OperationId) {
        if let Some(row) = self.row(id) {
            row.stamp = row.stamp.wrapping_add(1);
            let done = row.done.take();
            self.free.push(id.index);
            if let Some(OnDone::Returned { ended, waits, .. }) = done {
                self.cancel(ended);
                // The next owner of the slot answers for it.
                if let Some(waits) = waits {
                    self.cancel(waits);
                }
            }
        }
    }

    /// The answer under way of an operation, to add to it.
    pub(crate) fn done_mut(&mut self, id: OperationId) -> Option<&mut OnDone> {
        self.row(id).and_then(|r| r.done.as_mut())
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    /// The open operations: what the worker does when each of them is done.
    #[cfg(feature = "simulation")]
    pub(crate) fn open_ones(&self) -> impl Iterator<Item = &OnDone> {
        self.rows.iter().filter_map(|row| row.done.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_out_says_what_is_due_once() {
        let mut operations = Operations::default();
        let id = operations.open(OnDone::Nothing);
        operations.part(id);
        assert!(operations.part_done(id).is_none());
        assert!(matches!(operations.part_done(id), Some(OnDone::Nothing)));
        assert!(operations.part_done(id).is_none());
        assert_eq!(operations.len(), 0);
    }

    #[test]
    fn a_part_that_is_given_up_takes_the_whole_with_it() {
        let mut operations = Operations::default();
        let ended = operations.open(OnDone::Nothing);
        operations.part(ended);
        let waits = operations.open(OnDone::Nothing);
        operations.part(waits);
        let part = operations.open(OnDone::Returned {
            slot: 1,
            session: 2,
            number: 3,
            ended,
            waits: Some(waits),
        });
        operations.cancel(part);
        assert_eq!(operations.len(), 0);
        assert!(operations.part_done(ended).is_none());
        assert!(operations.part_done(waits).is_none());
    }

    #[test]
    fn a_stale_handle_names_nothing() {
        let mut operations = Operations::default();
        let old = operations.open(OnDone::Nothing);
        assert!(operations.part_done(old).is_some());
        let new = operations.open(OnDone::Nothing);
        operations.part(old);
        assert!(operations.part_done(old).is_none());
        assert!(operations.part_done(new).is_some());
    }
}
