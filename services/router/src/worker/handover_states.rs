//! The state of slots that were given away, as the state store holds it, kept until their new owners have asked.
//!
//! A new owner reads the state store. Should that stop answering just then, no router would have the slot
//! until it is back: so the owner before it sends the same with its answer to the new epoch, and
//! the new owner goes on with what comes first.

use std::collections::BTreeMap;

use sestina_api::state_store::{Loaded, ReplicaObject, Stamp};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::slot::{Phase, Slot};
use crate::room::OwnedRoom;

/// A slot with more than this is left to the state store alone.
const MOST_BYTES: usize = 256 << 10;
/// A new owner that has not asked within this time never will.
const LIMIT_MS: u64 = 30_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct HandoverStates {
    slots: BTreeMap<u16, Parted>,
}

#[derive(Debug)]
struct Parted {
    /// The last epoch under which the slot was owned here.
    epoch: u64,
    state: proto::SlotState,
    since_ms: u64,
}

impl HandoverStates {
    /// The slot is about to be forgotten here; it is kept if it was given away.
    pub(super) fn gave(&mut self, slot: &Slot, now_ms: u64) {
        if let Some(state) = slot.parting_state() {
            let parted = Parted {
                epoch: slot.epoch,
                state,
                since_ms: now_ms,
            };
            self.slots.insert(slot.slot, parted);
        }
    }

    /// For an owner of that epoch, if no process has owned the slot between it and this process: each
    /// owner has an epoch of its own.
    pub(super) fn take(&mut self, slot: u16, epoch: u64) -> Option<proto::SlotState> {
        let parted = self.slots.remove(&slot)?;
        (parted.epoch + 1 == epoch).then_some(parted.state)
    }

    /// Forgets what no owner has asked for.
    pub(super) fn expire(&mut self, now_ms: u64) {
        self.slots
            .retain(|_, parted| now_ms < parted.since_ms + LIMIT_MS);
    }
}

impl Slot {
    /// Whether the table is being told that another process owns it.
    pub(crate) fn is_releasing(&self) -> bool {
        matches!(
            self.phase,
            Phase::Quiescing {
                releasing: true,
                ..
            }
        )
    }

    /// The state of a slot that is being given away and has written everything, as the state store holds it; none
    /// before that, or if it is much.
    pub(super) fn parting_state(&self) -> Option<proto::SlotState> {
        if !self.is_releasing() || !self.replica.is_idle() {
            return None;
        }
        let mut bytes = 0;
        let mut objects = Vec::new();
        for (object, version) in self.replica.versions() {
            let mut fields = Vec::new();
            let room = object.strip_prefix("r:").map(Jid::from_wire);
            let room = room.and_then(|room| self.rooms.get(&room));
            let stale = room.into_iter().flat_map(OwnedRoom::stale_keys);
            for (name, value) in self.full_fields(object)?.into_iter().chain(stale) {
                bytes += name.len() + value.len();
                fields.push(proto::StoredField { name, value });
            }
            if bytes > MOST_BYTES {
                return None;
            }
            objects.push(proto::StoredObject {
                object: object.to_owned(),
                epoch: version.epoch,
                n: version.n,
                fields,
            });
        }
        let last = self.replica.acked();
        Some(proto::SlotState {
            objects,
            last_epoch: last.epoch,
            last_n: last.n,
        })
    }
}

/// As the state store itself would give it.
pub(super) fn loaded(state: proto::SlotState) -> Loaded {
    let last = Stamp::new(state.last_epoch, state.last_n);
    let of = |stored: proto::StoredObject| ReplicaObject {
        object: stored.object,
        version: Stamp::new(stored.epoch, stored.n),
        fields: stored
            .fields
            .into_iter()
            .map(|field| (field.name, field.value))
            .collect(),
    };
    Loaded {
        at: last,
        before: last,
        objects: state.objects.into_iter().map(of).collect(),
    }
}

#[cfg(test)]
#[path = "handover_states_tests.rs"]
mod tests;
