//! The state store and the leases in memory, where they end with the process: for a server of one
//! process and for tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sestina_api::identity::{Holder, Proved};
use sestina_api::lease::{AuthorityUnavailable, LeaseAuthority, Renewal};
use sestina_api::state_store::{
    Found, Listing, LoadPart, ReplicaObject, ReplicaOp, StagedPart, Stamp, StateStore,
    StateStoreError,
};
use sestina_proto as proto;
use sestina_runtime::clock::{BootInstant, Clock};
use sestina_runtime::{failpoint, guard};

/// A state store in memory.
#[derive(Debug, Default)]
pub struct MemoryStateStore {
    slots: Mutex<HashMap<u16, Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    found: Found,
    /// The last write of an earlier epoch.
    before: Stamp,
    objects: HashMap<String, Object>,
    /// By place.
    staged: HashMap<usize, Object>,
}

#[derive(Debug)]
struct Object {
    version: Stamp,
    fields: HashMap<String, Bytes>,
}

impl Object {
    fn load(&self, name: &str) -> ReplicaObject {
        let fields = self.fields.iter();
        ReplicaObject {
            object: name.to_owned(),
            version: self.version,
            fields: fields
                .map(|(f, value)| (f.clone(), value.clone()))
                .collect(),
        }
    }
}

impl MemoryStateStore {
    /// An empty one.
    pub fn new() -> MemoryStateStore {
        MemoryStateStore::default()
    }

    /// Stores an object that an earlier process had saved. To be called at the start, before any
    /// slot is loaded.
    pub fn preload(&self, slot: u16, object: ReplicaObject) {
        let fields = object.fields.into_iter().collect();
        let version = object.version;
        let mut slots = self.slots.lock();
        let objects = &mut slots.entry(slot).or_default().objects;
        objects.insert(object.object, Object { version, fields });
    }

    /// Deletes all objects, as a restart of Redis does.
    pub fn clear(&self) {
        self.slots.lock().clear();
    }
}

impl Slot {
    /// Notes a write and returns the one before it; refuses a write that is not newer.
    fn note(&mut self, at: Stamp) -> Result<Found, StateStoreError> {
        let last = self.found.last;
        let replaced = at.epoch < last.epoch && guard!("epoch");
        let older = at.epoch == last.epoch && at.n <= last.n && guard!("write-order");
        if replaced || (older && at.n > 0) {
            self.found.refused += 1;
            return Err(StateStoreError::Fenced { found: self.found });
        }
        let found = self.found;
        if at > last {
            if at.epoch > last.epoch {
                self.before = last;
            }
            self.found.last = at;
        }
        Ok(found)
    }

    /// The objects whose stored version is not the base of their change.
    fn stale(&self, at: Stamp, ops: &[ReplicaOp]) -> Vec<String> {
        let stored = |object: &str| self.objects.get(object).map(|object| object.version);
        let staged = self.staged.iter();
        let mut staging: HashMap<usize, Stamp> = staged.map(|(p, s)| (*p, s.version)).collect();
        let mut versions: HashMap<&str, Option<Stamp>> = HashMap::new();
        let mut stale = Vec::new();
        for op in ops {
            let (object, base, staged) = match op {
                ReplicaOp::Replace { object, .. } => (object, None, None),
                ReplicaOp::Update { object, base, .. } => (object, Some(base), None),
                ReplicaOp::ReplaceStaged {
                    object,
                    place,
                    staged,
                } => (object, None, Some((place, staged))),
                ReplicaOp::UpdateStaged {
                    object,
                    base,
                    place,
                    staged,
                    ..
                } => (object, Some(base), Some((place, staged))),
                ReplicaOp::Delete { object } => {
                    versions.insert(object, None);
                    continue;
                }
                ReplicaOp::Stage { place, base, .. } => {
                    let before = staging.insert(*place, at);
                    if base.is_some() && before != *base {
                        stale.push(String::new());
                    }
                    continue;
                }
            };
            let version = versions.entry(object).or_insert_with(|| stored(object));
            if base.is_some_and(|base| *version != Some(*base)) {
                stale.push(object.clone());
            }
            *version = Some(at);
            if let Some((place, staged)) = staged
                && staging.remove(place) != Some(*staged)
            {
                stale.push(String::new());
            }
        }
        stale
    }

    fn change(&mut self, at: Stamp, op: ReplicaOp) {
        match op {
            ReplicaOp::Replace { object, fields } => {
                let object = self.objects.entry(object).or_insert(Object {
                    version: at,
                    fields: HashMap::new(),
                });
                object.version = at;
                object.fields = fields.into_iter().collect();
            }
            ReplicaOp::Update {
                object,
                set,
                remove,
                ..
            } => self.update(at, &object, set, &remove),
            ReplicaOp::Delete { object } => {
                self.objects.remove(&object);
            }
            ReplicaOp::Stage { place, base, parts } => {
                let before = self.staged.remove(&place).filter(|_| base.is_some());
                let mut fields = before.map(|staged| staged.fields).unwrap_or_default();
                for StagedPart {
                    field,
                    append,
                    value,
                } in parts
                {
                    let before = fields.remove(&field).filter(|_| append);
                    let whole = match before {
                        Some(before) => [before, value].concat().into(),
                        None => value,
                    };
                    fields.insert(field, whole);
                }
                let version = at;
                self.staged.insert(place, Object { version, fields });
            }
            ReplicaOp::ReplaceStaged { object, place, .. } => {
                if let Some(mut staged) = self.staged.remove(&place) {
                    staged.version = at;
                    self.objects.insert(object, staged);
                }
            }
            ReplicaOp::UpdateStaged {
                object,
                remove,
                place,
                ..
            } => {
                if let Some(staged) = self.staged.remove(&place) {
                    self.update(at, &object, staged.fields, &remove);
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

#[async_trait]
impl StateStore for MemoryStateStore {
    async fn apply(
        &self,
        slot: u16,
        at: Stamp,
        ops: Vec<ReplicaOp>,
    ) -> Result<Found, StateStoreError> {
        if failpoint::hit_async("state_store.apply").await {
            return Err(StateStoreError::Unavailable("a fail point".into()));
        }
        let found = {
            let mut slots = self.slots.lock();
            let slot = slots.entry(slot).or_default();
            let found = slot.note(at)?;
            let objects = slot.stale(at, &ops);
            if !objects.is_empty() && guard!("base-version") {
                return Err(StateStoreError::Stale { found, objects });
            }
            ops.into_iter().for_each(|op| slot.change(at, op));
            found
        };
        failpoint::hit_async("state_store.applied").await;
        Ok(found)
    }

    async fn list(&self, slot: u16, at: Stamp) -> Result<Listing, StateStoreError> {
        if failpoint::hit_async("state_store.load").await {
            return Err(StateStoreError::Unavailable("a fail point".into()));
        }
        let mut slots = self.slots.lock();
        let slot = slots.entry(slot).or_default();
        let found = slot.note(at)?;
        if slot.found.last > found.last {
            slot.staged.clear();
        }
        Ok(Listing {
            found,
            at: slot.found.last,
            before: slot.before,
            names: slot.objects.keys().cloned().collect(),
        })
    }

    async fn load_part(
        &self,
        slot: u16,
        names: &[String],
        _after: Option<&str>,
    ) -> Result<LoadPart, StateStoreError> {
        let slots = self.slots.lock();
        let slot = slots.get(&slot);
        let object = |name: &String| Some(slot?.objects.get(name)?.load(name));
        Ok(LoadPart {
            at: slot.map(|slot| slot.found.last).unwrap_or_default(),
            objects: names.iter().map(object).collect(),
            rest: None,
        })
    }

    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, StateStoreError> {
        let known = self.slots.lock();
        let epoch = |slot| {
            known
                .get(slot)
                .map_or(0, |slot: &Slot| slot.found.last.epoch)
        };
        Ok(slots.iter().map(epoch).collect())
    }
}

/// Leases in memory, counted on a given clock.
pub struct MemoryLeases {
    clock: Arc<dyn Clock>,
    state: Mutex<Leases>,
}

#[derive(Default)]
struct Leases {
    /// By name.
    held: HashMap<String, (proto::Node, BootInstant)>,
    marked: std::collections::HashSet<(String, u64)>,
    /// Hashes of the secrets of incarnations.
    proofs: HashMap<(String, u64), [u8; 32]>,
}

impl MemoryLeases {
    /// No leases yet.
    pub fn new(clock: Arc<dyn Clock>) -> MemoryLeases {
        MemoryLeases {
            clock,
            state: Mutex::default(),
        }
    }

    /// Deletes all leases, as a restart of Redis does.
    pub fn clear(&self) {
        *self.state.lock() = Leases::default();
    }
}

impl Leases {
    /// The incarnation that holds the name now.
    fn holder(&self, name: &str, now: BootInstant) -> Option<u64> {
        let (node, until) = self.held.get(name)?;
        (now < *until).then_some(node.incarnation)
    }
}

impl Leases {
    /// Whether the secret is that of the incarnation; the first request stores its hash.
    fn takes(&mut self, holder: &Holder) -> bool {
        let Some(proof) = holder.secret.proof() else {
            return false;
        };
        let kept = self.proofs.entry(id(&holder.node)).or_insert(proof);
        *kept == proof || !guard!("incarnation-secret")
    }
}

fn id(node: &proto::Node) -> (String, u64) {
    (node.name.clone(), node.incarnation)
}

#[async_trait]
impl LeaseAuthority for MemoryLeases {
    async fn renew(&self, holder: &Holder, ttl: Duration) -> Result<Renewal, AuthorityUnavailable> {
        let node = &holder.node;
        let now = self.clock.now();
        let mut state = self.state.lock();
        if !state.takes(holder) {
            return Ok(Renewal::WrongSecret);
        }
        let held = state.holder(&node.name, now);
        if state.marked.contains(&id(node)) || held.is_some_and(|held| held != node.incarnation) {
            return Ok(Renewal::Lost);
        }
        let until = now.checked_add(ttl).unwrap_or(now);
        state.held.insert(node.name.clone(), (node.clone(), until));
        Ok(Renewal::Renewed)
    }

    async fn release(&self, holder: &Holder) -> Result<(), AuthorityUnavailable> {
        let node = &holder.node;
        let mut state = self.state.lock();
        if !state.takes(holder) {
            let why = "the secret is not that of this incarnation";
            return Err(AuthorityUnavailable(why.to_owned()));
        }
        state.marked.insert(id(node));
        if state
            .held
            .get(&node.name)
            .is_some_and(|(held, _)| held.incarnation == node.incarnation)
        {
            state.held.remove(&node.name);
        }
        Ok(())
    }

    async fn prove(&self, holder: &Holder) -> Result<Proved, AuthorityUnavailable> {
        let state = self.state.lock();
        Ok(match state.proofs.get(&id(&holder.node)) {
            None => Proved::Unknown,
            Some(kept) if Some(*kept) == holder.secret.proof() => Proved::Yes,
            Some(_) => Proved::No,
        })
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.held.retain(|_, (_, until)| now < *until);
        let held = state.held.values();
        Ok(held
            .map(|(node, until)| (node.clone(), until.duration_since(now)))
            .collect())
    }

    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityUnavailable> {
        let mut state = self.state.lock();
        if state.holder(&node.name, self.clock.now()) == Some(node.incarnation) {
            return Ok(false);
        }
        state.marked.insert(id(node));
        Ok(true)
    }

    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityUnavailable> {
        self.state.lock().marked.remove(&id(node));
        Ok(())
    }
}
