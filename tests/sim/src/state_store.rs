//! The state store as its contract describes it, with the faults that the contract allows.
//!
//! If a write is not answered, it may be lost, done, or still under way. Writes that are under way arrive
//! late, twice, and in any order. A replica that takes over lacks the last writes.

mod slot;

pub(super) use slot::Fields;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sestina_api::state_store::{
    Found, Listing, LoadPart, ReplicaObject, ReplicaOp, Stamp, StateStoreError,
};
use sestina_router::simulation::contains;
use sestina_runtime::guard;

use super::rng::Rng;
use slot::StoredSlot;

/// How many of the last writes a replica may lack.
const LAG: usize = 24;

/// A write that is still under way although its owner has given it up.
#[derive(Debug)]
struct Late {
    /// It does not arrive before; far in the future for a write that is held back.
    due: u64,
    slot: u16,
    at: Stamp,
    ops: Vec<ReplicaOp>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// It is lost.
    Lost,
    /// It is done, but the answer is lost.
    Unanswered,
    /// It arrives after `wait` simulated milliseconds, and once more later if `twice`; no answer arrives.
    Late {
        wait: u64,
        twice: bool,
    },
}

/// What the state store holds.
#[derive(Debug, Default)]
pub(super) struct StateStore {
    pub(super) away: bool,
    /// The network to it loses answers and writes, and delays them.
    pub(super) flaky: bool,
    /// Requests that are sent while it is unavailable never arrive.
    pub(super) cut_off: bool,
    /// The next write is held back until [`StateStore::let_go`].
    pub(super) hold_next: bool,
    /// How often it has lost something.
    pub(super) losses: u64,
    slots: BTreeMap<u16, StoredSlot>,
    late: Vec<Late>,
    /// What each of the last writes replaced.
    undo: VecDeque<(u16, StoredSlot)>,
}

impl StateStore {
    /// Loses everything, as Redis does when it restarts.
    pub(super) fn flush(&mut self) {
        self.losses += 1;
        self.slots.clear();
        self.undo.clear();
    }

    /// A replica takes over that lacks the last writes.
    pub(super) fn fail_over(&mut self, lacks: usize) {
        self.losses += 1;
        for (slot, before) in self.undo.drain(..).rev().take(lacks) {
            self.slots.insert(slot, before);
        }
    }

    /// What becomes of the next write.
    pub(super) fn fate(&mut self, rng: &mut Rng) -> Fate {
        if std::mem::take(&mut self.hold_next) {
            let wait = u64::MAX / 2;
            return Fate::Late { wait, twice: false };
        }
        let troubled = self.away || (self.flaky && rng.one_in(2));
        if !troubled {
            return Fate::Answered;
        }
        if self.cut_off {
            return Fate::Lost;
        }
        match rng.below(4) {
            0 => Fate::Lost,
            1 => Fate::Unanswered,
            _ => Fate::Late {
                wait: if rng.one_in(2) {
                    rng.below(600)
                } else {
                    rng.below(8000)
                },
                twice: rng.one_in(4),
            },
        }
    }

    /// Lets writes arrive that were held back.
    pub(super) fn let_go(&mut self) {
        for late in &mut self.late {
            late.due = 0;
        }
    }

    /// Requests that would arrive late are lost.
    pub(super) fn lose_late(&mut self) {
        self.late.clear();
    }

    /// The writes that may arrive now although their owners have given them up.
    pub(super) fn late(&self, now: u64) -> impl Iterator<Item = usize> {
        let due = self.late.iter().enumerate();
        due.filter(move |(_, late)| !self.away && late.due <= now)
            .map(|(index, _)| index)
    }

    /// How many of such writes are under way.
    pub(super) fn on_their_way(&self) -> usize {
        self.late.len()
    }

    /// One of them arrives; returns a line for the trace.
    pub(super) fn arrive(&mut self, index: usize) -> String {
        let Late { slot, at, ops, .. } = self.late.swap_remove(index);
        let result = self.apply(slot, at, &ops);
        format!("late: {slot}@{at} -> {result:?}")
    }

    /// The names of all objects that it holds.
    pub(super) fn objects(&self) -> Vec<String> {
        self.slots
            .values()
            .flat_map(|s| s.objects.keys().cloned())
            .collect()
    }

    /// Whether an object has these bytes in one of its fields.
    pub(super) fn holds(&self, part: &[u8]) -> bool {
        let objects = self.slots.values().flat_map(|slot| slot.objects.values());
        let mut fields = objects.flat_map(|object| object.fields.values());
        fields.any(|field| contains(field, part))
    }

    /// The highest epoch that it knows of a slot.
    pub(super) fn epoch(&self, slot: u16) -> u64 {
        self.slots
            .get(&slot)
            .map_or(0, |slot| slot.found.last.epoch)
    }

    /// What it holds of an object.
    pub(super) fn fields(&self, slot: u16, object: &str) -> Option<&Fields> {
        let slot = self.slots.get(&slot)?;
        slot.objects.get(object).map(|object| &object.fields)
    }

    /// Takes a write; without an answer the owner gets an error.
    pub(super) fn write(
        &mut self,
        slot: u16,
        at: Stamp,
        ops: &[ReplicaOp],
        fate: Fate,
        now: u64,
    ) -> Result<Found, StateStoreError> {
        match fate {
            Fate::Answered => return self.apply(slot, at, ops),
            Fate::Lost => {}
            Fate::Unanswered => {
                self.apply(slot, at, ops).ok();
            }
            Fate::Late { wait, twice } => {
                for times in 1..=1 + u64::from(twice) {
                    let due = now.saturating_add(wait.saturating_mul(times));
                    let ops = ops.to_vec();
                    self.late.push(Late { due, slot, at, ops });
                }
            }
        }
        Err(StateStoreError::Unavailable("simulated".to_owned()))
    }

    fn apply(
        &mut self,
        number: u16,
        at: Stamp,
        ops: &[ReplicaOp],
    ) -> Result<Found, StateStoreError> {
        let before = self.slots.get(&number).cloned().unwrap_or_default();
        let slot = self.slots.entry(number).or_default();
        let found = slot.note(at)?;
        let mut changed = slot.clone();
        let mut objects = Vec::new();
        for op in ops {
            objects.extend(changed.fits(op).err());
            changed.change(at, op);
        }
        if !objects.is_empty() && guard!("base-version") {
            return Err(StateStoreError::Stale { found, objects });
        }
        *slot = changed;
        self.undo.push_back((number, before));
        if self.undo.len() > LAG {
            self.undo.pop_front();
        }
        Ok(found)
    }

    /// Takes the epoch of a new owner, and lists the objects of the slot.
    pub(super) fn list(&mut self, number: u16, at: Stamp) -> Result<Listing, StateStoreError> {
        let before = self.slots.get(&number).cloned().unwrap_or_default();
        let slot = self.slots.entry(number).or_default();
        let found = slot.note(at)?;
        let listing = Listing {
            found,
            at: slot.found.last,
            before: slot.before,
            names: slot.objects.keys().cloned().collect(),
        };
        if listing.at > found.last {
            slot.staged.clear();
            self.undo.push_back((number, before));
        }
        Ok(listing)
    }

    /// Loads the first part of these objects behind a field: small parts, two fields of one object.
    pub(super) fn load_part(&self, slot: u16, names: &[String], after: Option<&str>) -> LoadPart {
        let slot = self.slots.get(&slot).cloned().unwrap_or_default();
        let mut part = LoadPart {
            at: slot.found.last,
            objects: Vec::new(),
            rest: None,
        };
        let Some(name) = names.first() else {
            return part;
        };
        let object = slot.objects.get(name).map(|object| {
            let left = |field: &&String| after.is_none_or(|after| field.as_str() > after);
            let left: Vec<&String> = object.fields.keys().filter(left).collect();
            let here = left.iter().take(2).map(|field| {
                let value = object.fields.get(*field).cloned().unwrap_or_default();
                ((*field).clone(), value)
            });
            let fields: Vec<(String, Bytes)> = here.collect();
            if left.len() > fields.len() {
                part.rest = fields.last().map(|(field, _)| field.clone());
            }
            ReplicaObject {
                object: name.clone(),
                version: object.version,
                fields,
            }
        });
        part.objects.push(object);
        part
    }
}
