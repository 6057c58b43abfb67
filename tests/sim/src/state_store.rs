//! The state store, as its contract says, and what goes wrong on the way to it: an answer that does
//! not come says nothing of the write, which may be lost, done, or still on its way; what is on its
//! way comes late, twice, and in any order; a replica that takes over lacks the last writes.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sestina_api::shadow::{Found, Listing, LoadPart, ShadowError, ShadowObject, ShadowOp, Stamp};
use sestina_router::simulation::contains;
use sestina_runtime::guard;

use super::rng::Rng;

/// Writes that a replica may lack.
const LAG: usize = 24;

/// Fields of an object.
pub(super) type Fields = BTreeMap<String, Bytes>;

#[derive(Clone, Debug)]
struct Object {
    version: Stamp,
    fields: Fields,
}

#[derive(Clone, Debug, Default)]
struct ShadowSlot {
    found: Found,
    before: Stamp,
    objects: BTreeMap<String, Object>,
    staged: Option<Object>,
}

impl ShadowSlot {
    /// Notes a write that is newer than the last; tells what was known before.
    fn note(&mut self, at: Stamp) -> Result<Found, ShadowError> {
        let last = self.found.last;
        let replaced = at.epoch < last.epoch && guard!("epoch");
        let older = at.epoch == last.epoch && at.n <= last.n && at.n > 0;
        if replaced || (older && guard!("write-order")) {
            self.found.refused += 1;
            return Err(ShadowError::Fenced { found: self.found });
        }
        let found = self.found;
        if at.epoch > last.epoch {
            self.before = last;
        }
        self.found.last = last.max(at);
        Ok(found)
    }

    /// Whether a change finds what it is a change of.
    fn fits(&self, op: &ShadowOp) -> Result<(), String> {
        let staged_is = |at: Stamp| self.staged.as_ref().is_some_and(|s| s.version == at);
        let (object, base, staged) = match op {
            ShadowOp::Update { object, base, .. } => (object, Some(base), None),
            ShadowOp::ReplaceStaged { object, staged } => (object, None, Some(staged)),
            ShadowOp::UpdateStaged {
                object,
                base,
                staged,
                ..
            } => (object, Some(base), Some(staged)),
            ShadowOp::Stage { base: Some(at), .. } if !staged_is(*at) => {
                return Err(String::new());
            }
            _ => return Ok(()),
        };
        if staged.is_some_and(|staged| !staged_is(*staged)) {
            return Err(String::new());
        }
        let stored = self.objects.get(object).map(|object| &object.version);
        if base.is_some() && stored != base {
            return Err(object.clone());
        }
        Ok(())
    }

    fn change(&mut self, at: Stamp, op: &ShadowOp) {
        match op {
            ShadowOp::Replace { object, fields } => {
                let fields = fields.iter().cloned().collect();
                let version = at;
                self.objects
                    .insert(object.clone(), Object { version, fields });
            }
            ShadowOp::Update {
                object,
                set,
                remove,
                ..
            } => self.update(at, object, set.iter().cloned(), remove),
            ShadowOp::Delete { object } => {
                self.objects.remove(object);
            }
            ShadowOp::Stage { base, parts } => {
                let mut staged = self.staged.take().filter(|_| base.is_some());
                let staged = staged.get_or_insert_with(|| Object {
                    version: at,
                    fields: Fields::new(),
                });
                staged.version = at;
                for part in parts {
                    let whole = match staged.fields.get(&part.field) {
                        Some(before) if part.append => [&before[..], &part.value].concat().into(),
                        _ => part.value.clone(),
                    };
                    staged.fields.insert(part.field.clone(), whole);
                }
                self.staged = Some(staged.clone());
            }
            ShadowOp::ReplaceStaged { object, .. } => {
                if let Some(mut staged) = self.staged.take() {
                    staged.version = at;
                    self.objects.insert(object.clone(), staged);
                }
            }
            ShadowOp::UpdateStaged { object, remove, .. } => {
                if let Some(staged) = self.staged.take() {
                    self.update(at, object, staged.fields, remove);
                }
            }
        }
    }

    fn update(
        &mut self,
        at: Stamp,
        object: &str,
        set: impl IntoIterator<Item = (String, Bytes)>,
        remove: &[String],
    ) {
        if let Some(object) = self.objects.get_mut(object) {
            object.version = at;
            for field in remove {
                object.fields.remove(field);
            }
            object.fields.extend(set);
        }
    }
}

/// A write that is on its way although its owner has given it up.
#[derive(Debug)]
struct Late {
    /// Not before; never by itself if it is held.
    due: u64,
    slot: u16,
    at: Stamp,
    ops: Vec<ShadowOp>,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// Nobody answers, and it is lost.
    Lost,
    /// It is done, but nobody answers.
    Unanswered,
    /// Nobody answers, and it comes after `wait`; `twice` also later.
    Late {
        wait: u64,
        twice: bool,
    },
}

/// What the state store holds.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    pub(super) away: bool,
    /// The network to it loses answers and writes, and delays them.
    pub(super) flaky: bool,
    /// While it is away, nothing of what is sent to it arrives, later either.
    pub(super) cut_off: bool,
    /// The next write is held back until it is let go.
    pub(super) hold_next: bool,
    /// How often it has lost something.
    pub(super) losses: u64,
    slots: BTreeMap<u16, ShadowSlot>,
    late: Vec<Late>,
    /// What each of the last writes replaced.
    undo: VecDeque<(u16, ShadowSlot)>,
}

impl Shadow {
    /// As when Redis restarts.
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

    /// Lets go what was held back.
    pub(super) fn let_go(&mut self) {
        for late in &mut self.late {
            late.due = 0;
        }
    }

    /// Writes that may arrive now although nobody waits for them.
    pub(super) fn late(&self, now: u64) -> impl Iterator<Item = usize> {
        let due = self.late.iter().enumerate();
        due.filter(move |(_, late)| !self.away && late.due <= now)
            .map(|(index, _)| index)
    }

    /// How many are on their way.
    pub(super) fn on_their_way(&self) -> usize {
        self.late.len()
    }

    /// One of them arrives.
    pub(super) fn arrive(&mut self, index: usize) -> String {
        let Late { slot, at, ops, .. } = self.late.swap_remove(index);
        let result = self.apply(slot, at, &ops);
        format!("late: {slot}@{at} -> {result:?}")
    }

    /// How many objects it holds.
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

    /// A write comes, and its answer or none goes back.
    pub(super) fn write(
        &mut self,
        slot: u16,
        at: Stamp,
        ops: &[ShadowOp],
        fate: Fate,
        now: u64,
    ) -> Result<Found, ShadowError> {
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
        Err(ShadowError::Away("simulated".to_owned()))
    }

    fn apply(&mut self, number: u16, at: Stamp, ops: &[ShadowOp]) -> Result<Found, ShadowError> {
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
            return Err(ShadowError::Stale { found, objects });
        }
        *slot = changed;
        self.undo.push_back((number, before));
        if self.undo.len() > LAG {
            self.undo.pop_front();
        }
        Ok(found)
    }

    pub(super) fn list(&mut self, number: u16, at: Stamp) -> Result<Listing, ShadowError> {
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
            slot.staged = None;
            self.undo.push_back((number, before));
        }
        Ok(listing)
    }

    /// One object at a time, and two of its fields.
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
            ShadowObject {
                object: name.clone(),
                version: object.version,
                fields,
            }
        });
        part.objects.push(object);
        part
    }
}
