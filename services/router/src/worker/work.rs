//! Work: what has to be durable, or held by two processes, before something may be answered.
//!
//! A stanza of a session, an effect from another slot and a room event each open one [`Work`].
//! Every part of it (a delivery, a row, a shadow commit, an effect elsewhere) is counted in and
//! counted out; with the last part out, its [`OnDone`] is due.

use sestina_api::key::EffectKey;

use super::core::PeerRef;

/// Handle of an open work. Stale handles are harmless: they name nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkId {
    index: u32,
    stamp: u32,
}

/// What is due when all parts are done.
#[derive(Debug)]
pub(crate) enum OnDone {
    /// The n-th stanza of that session is settled.
    Stanza { slot: u16, session: u128, n: u64 },
    /// An effect that came from another slot's owner is done: answer it.
    Effect {
        slot: u16,
        entity: u64,
        key: EffectKey,
    },
    /// All targets of a room's event that live here have it: answer the room's owner.
    RoomEvent {
        from: PeerRef,
        room_slot: u16,
        room_epoch: u64,
        key: EffectKey,
        ack: Box<RoomAckParts>,
    },
    /// A session that ended has told everybody: forget it.
    Ended { slot: u16, session: u128 },
    /// The outbound stanza of that number, which a session that ended did not take, is stored or
    /// went back to its sender: a part of the work that forgets the session.
    Returned {
        slot: u16,
        session: u128,
        number: u64,
        ended: WorkId,
        /// The work of the stanza itself, if no second process has it.
        waits: Option<WorkId>,
    },
    /// Nobody waits.
    Nothing,
}

/// What a RoomAck says beside "taken".
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
struct Work {
    stamp: u32,
    left: u32,
    done: Option<OnDone>,
}

/// All open works of one worker.
#[derive(Debug, Default)]
pub(crate) struct Works {
    rows: Vec<Work>,
    free: Vec<u32>,
}

impl Works {
    /// Opens a work with one part: the processing itself, to be closed by [`Works::part_done`].
    pub(crate) fn open(&mut self, done: OnDone) -> WorkId {
        if let Some(index) = self.free.pop()
            && let Some(row) = self.rows.get_mut(index as usize)
        {
            row.left = 1;
            row.done = Some(done);
            return WorkId {
                index,
                stamp: row.stamp,
            };
        }
        let index = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.rows.push(Work {
            stamp: 0,
            left: 1,
            done: Some(done),
        });
        WorkId { index, stamp: 0 }
    }

    fn row(&mut self, id: WorkId) -> Option<&mut Work> {
        self.rows
            .get_mut(id.index as usize)
            .filter(|r| r.stamp == id.stamp && r.done.is_some())
    }

    /// Counts one more part in.
    pub(crate) fn part(&mut self, id: WorkId) {
        if let Some(row) = self.row(id) {
            row.left += 1;
        }
    }

    /// Counts one part out; the last one returns what is due.
    pub(crate) fn part_done(&mut self, id: WorkId) -> Option<OnDone> {
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

    /// Closes a work without what would be due.
    pub(crate) fn cancel(&mut self, id: WorkId) {
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

    /// The answer under way of a work, to add to it.
    pub(crate) fn done_mut(&mut self, id: WorkId) -> Option<&mut OnDone> {
        self.row(id).and_then(|r| r.done.as_mut())
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_out_says_what_is_due_once() {
        let mut works = Works::default();
        let id = works.open(OnDone::Nothing);
        works.part(id);
        assert!(works.part_done(id).is_none());
        assert!(matches!(works.part_done(id), Some(OnDone::Nothing)));
        assert!(works.part_done(id).is_none());
        assert_eq!(works.len(), 0);
    }

    #[test]
    fn a_part_that_is_given_up_takes_the_whole_with_it() {
        let mut works = Works::default();
        let ended = works.open(OnDone::Nothing);
        works.part(ended);
        let waits = works.open(OnDone::Nothing);
        works.part(waits);
        let part = works.open(OnDone::Returned {
            slot: 1,
            session: 2,
            number: 3,
            ended,
            waits: Some(waits),
        });
        works.cancel(part);
        assert_eq!(works.len(), 0);
        assert!(works.part_done(ended).is_none());
        assert!(works.part_done(waits).is_none());
    }

    #[test]
    fn a_stale_handle_names_nothing() {
        let mut works = Works::default();
        let old = works.open(OnDone::Nothing);
        assert!(works.part_done(old).is_some());
        let new = works.open(OnDone::Nothing);
        works.part(old);
        assert!(works.part_done(old).is_none());
        assert!(works.part_done(new).is_some());
    }
}
