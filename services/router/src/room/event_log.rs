//! The events of a room: their numbers, and those that not all receivers have.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sestina_api::key::IdempotencyKey;
use sestina_runtime::guard;

use super::logged_event::LoggedEvent;
use super::record::key_field;
use crate::rng::{HashMap, HashSet};

/// See the module.
#[derive(Debug)]
pub(super) struct EventLog {
    /// The origin of the events.
    pub(super) identity: u128,
    /// The number of the last event.
    pub(super) seq: u64,
    pub(super) events: BTreeMap<u64, LoggedEvent>,
    /// Slots that missed an event: sent again in order at the next tick or map.
    pub(super) stalled: HashSet<u16>,
    /// Session -> the last event sent to it.
    pub(super) last_sent: HashMap<u128, u64>,
    /// Keys of stanzas that made events, until their origin's watermark.
    pub(super) keys: BTreeSet<(u128, u64, u32)>,
    /// Fields to remove from the replica with the next change.
    pub(super) stale_fields: Vec<String>,
    /// Events up to here are held by all their receivers.
    pub(super) trimmed: u64,
    /// The same, and the state store has them no more: they will never be sent again, whichever process dies.
    pub(super) watermark: u64,
    pub(super) watermark_reported: u64,
    /// Slots that got events since all of them were sent the watermark.
    watermark_targets: BTreeSet<u16>,
    pub(super) deleted: bool,
}

impl EventLog {
    /// An empty log; the first number is above `after`.
    pub(super) fn new(identity: u128, after: u64) -> EventLog {
        EventLog {
            identity,
            seq: after,
            events: BTreeMap::new(),
            stalled: HashSet::default(),
            last_sent: HashMap::default(),
            keys: BTreeSet::new(),
            stale_fields: Vec::new(),
            trimmed: after,
            watermark: after,
            watermark_reported: after,
            watermark_targets: BTreeSet::new(),
            deleted: false,
        }
    }

    /// Adds an event that the state store had.
    pub(super) fn restore(&mut self, seq: u64, event: LoggedEvent) {
        self.seq = self.seq.max(seq);
        self.events.insert(seq, event);
    }

    /// All events that the state store had are there: all receivers have those that it does not have any more.
    pub(super) fn restored(&mut self) {
        let first = self.events.keys().next();
        self.trimmed = first.map_or(self.seq, |first| first - 1);
        self.watermark = self.trimmed;
        self.watermark_reported = 0;
    }

    /// Forgets the last events of sessions that are not in the room: they have got all their events, so nothing that
    /// they get later can come behind one of these.
    pub(super) fn forget_sessions(&mut self, is_in: impl Fn(u128) -> bool) {
        self.last_sent.retain(|session, _| is_in(*session));
    }

    /// The number of the next event. Events that were sent while the state store was unavailable, or that it
    /// has lost, had higher numbers than the state store gives the next owner, and receivers drop an
    /// event whose number is not higher than the last. So the numbers of each epoch are above all
    /// that an earlier epoch can have given.
    pub(super) fn next_seq(&mut self, epoch: u64) -> u64 {
        let seq = self.coming_seq(epoch);
        if self.seq == 0 {
            self.watermark_reported = seq - 1;
        }
        self.seq = seq;
        seq
    }

    /// The number that the next event will have.
    pub(super) fn coming_seq(&self, epoch: u64) -> u64 {
        let floor = epoch.min(u64::from(u32::MAX)) << 32;
        let last = if guard!("room-sequence") { floor } else { 0 };
        self.seq.max(last) + 1
    }

    /// A new owner has the room: an event with a lower number that is not in its event log is never sent
    /// again.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        if self.events.is_empty() {
            self.trimmed = self.coming_seq(epoch) - 1;
            self.watermark = self.trimmed;
        }
    }

    /// The owner of a slot is sent an event.
    pub(super) fn sent_to(&mut self, slot: u16) {
        self.watermark_targets.insert(slot);
    }

    /// The slots that may hold keys of this room: all of them when no event is open.
    pub(super) fn watermark_slots(&mut self) -> BTreeSet<u16> {
        if self.events.is_empty() {
            std::mem::take(&mut self.watermark_targets)
        } else {
            self.watermark_targets.clone()
        }
    }

    /// Forgets the keys of an origin up to its watermark; their fields are to be removed from the state store if there
    /// is one.
    pub(super) fn forget_keys(&mut self, origin: u128, watermark: u64, state_store: bool) {
        let last = (origin, watermark, u32::MAX);
        let gone: Vec<_> = self.keys.range((origin, 0, 0)..=last).copied().collect();
        for key in gone {
            self.keys.remove(&key);
            if state_store {
                let (origin, n, purpose) = key;
                let key = IdempotencyKey { origin, n, purpose };
                self.stale_fields.push(key_field(key).0);
            }
        }
    }

    /// Events and keys, for an object of the state store written whole.
    pub(super) fn fields(&self) -> impl Iterator<Item = (String, Bytes)> {
        let events = self.events.iter().map(|(seq, event)| event.field(*seq));
        events.chain(self.keys.iter().map(|(origin, n, purpose)| {
            key_field(IdempotencyKey {
                origin: *origin,
                n: *n,
                purpose: *purpose,
            })
        }))
    }
}

#[cfg(test)]
#[path = "event_log_tests.rs"]
mod tests;
