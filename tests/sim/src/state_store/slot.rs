//! A slot in the state store: its objects with their versions, and which writes it takes.

use std::collections::BTreeMap;

use bytes::Bytes;
use sestina_api::state_store::{Found, ReplicaOp, Stamp, StateStoreError};
use sestina_runtime::guard;

/// Fields of an object.
pub(crate) type Fields = BTreeMap<String, Bytes>;

/// An object: its fields, and the write that changed them last.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) version: Stamp,
    pub(super) fields: Fields,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct StoredSlot {
    /// The last write, and how many were refused.
    pub(super) found: Found,
    /// The last write of an earlier epoch.
    pub(super) before: Stamp,
    pub(super) objects: BTreeMap<String, Object>,
    /// The parts of a large write that have arrived so far, by place.
    pub(super) staged: BTreeMap<usize, Object>,
}

impl StoredSlot {
    /// Notes a write if it is newer than the last one; returns what was known before.
    pub(super) fn note(&mut self, at: Stamp) -> Result<Found, StateStoreError> {
        let last = self.found.last;
        let replaced = at.epoch < last.epoch && guard!("epoch");
        let older = at.epoch == last.epoch && at.n <= last.n && at.n > 0;
        if replaced || (older && guard!("write-order")) {
            self.found.refused += 1;
            return Err(StateStoreError::Fenced { found: self.found });
        }
        let found = self.found;
        if at.epoch > last.epoch {
            self.before = last;
        }
        self.found.last = last.max(at);
        Ok(found)
    }

    /// Whether the object has the version that a change is based on; an error names the object.
    pub(super) fn fits(&self, op: &ReplicaOp) -> Result<(), String> {
        let staged_is =
            |place: usize, at: Stamp| self.staged.get(&place).is_some_and(|s| s.version == at);
        let (object, base, staged) = match op {
            ReplicaOp::Update { object, base, .. } => (object, Some(base), None),
            ReplicaOp::ReplaceStaged {
                object,
                place,
                staged,
            } => (object, None, Some((*place, *staged))),
            ReplicaOp::UpdateStaged {
                object,
                base,
                place,
                staged,
                ..
            } => (object, Some(base), Some((*place, *staged))),
            ReplicaOp::Stage {
                place,
                base: Some(at),
                ..
            } if !staged_is(*place, *at) => {
                return Err(String::new());
            }
            _ => return Ok(()),
        };
        if staged.is_some_and(|(place, staged)| !staged_is(place, staged)) {
            return Err(String::new());
        }
        let stored = self.objects.get(object).map(|object| &object.version);
        if base.is_some() && stored != base {
            return Err(object.clone());
        }
        Ok(())
    }

    /// Makes a change.
    pub(super) fn change(&mut self, at: Stamp, op: &ReplicaOp) {
        match op {
            ReplicaOp::Replace { object, fields } => {
                let fields = fields.iter().cloned().collect();
                let version = at;
                self.objects
                    .insert(object.clone(), Object { version, fields });
            }
            ReplicaOp::Update {
                object,
                set,
                remove,
                ..
            } => self.update(at, object, set.iter().cloned(), remove),
            ReplicaOp::Delete { object } => {
                self.objects.remove(object);
            }
            ReplicaOp::Stage { place, base, parts } => {
                if base.is_none() {
                    self.staged.remove(place);
                }
                let staged = self.staged.entry(*place).or_insert_with(|| Object {
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
            }
            ReplicaOp::ReplaceStaged { object, place, .. } => {
                if let Some(mut staged) = self.staged.remove(place) {
                    staged.version = at;
                    self.objects.insert(object.clone(), staged);
                }
            }
            ReplicaOp::UpdateStaged {
                object,
                remove,
                place,
                ..
            } => {
                if let Some(staged) = self.staged.remove(place) {
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
