//! The shadow store and the leases in memory: for one process, where they end with it, and for
//! tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sestina_api::lease::{AuthorityAway, LeaseAuthority, Renewal};
use sestina_api::shadow::{Shadow, ShadowError, ShadowObject, ShadowOp};
use sestina_proto as proto;
use sestina_runtime::clock::{BootInstant, Clock};
use sestina_runtime::{failpoint, guard};

/// A shadow store in memory.
#[derive(Debug, Default)]
pub struct MemoryShadow {
    slots: Mutex<HashMap<u16, Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    epoch: u64,
    objects: HashMap<String, Object>,
}

#[derive(Debug)]
struct Object {
    version: u64,
    fields: HashMap<String, Bytes>,
}

impl MemoryShadow {
    /// An empty one.
    pub fn new() -> MemoryShadow {
        MemoryShadow::default()
    }

    /// Puts an object there that an earlier process had saved. For the start, before any slot is
    /// loaded.
    pub fn preload(&self, slot: u16, object: ShadowObject) {
        let fields = object.fields.into_iter().collect();
        let version = object.version;
        let mut slots = self.slots.lock();
        let objects = &mut slots.entry(slot).or_default().objects;
        objects.insert(object.object, Object { version, fields });
    }

    /// Forgets everything, as Redis does when it restarts.
    pub fn clear(&self) {
        self.slots.lock().clear();
    }
}

impl Slot {
    fn fence(&mut self, epoch: u64) -> Result<(), ShadowError> {
        if epoch < self.epoch && guard!("epoch") {
            return Err(ShadowError::Fenced { known: self.epoch });
        }
        self.epoch = self.epoch.max(epoch);
        Ok(())
    }

    /// The updates whose base is another than what they would find.
    fn stale(&self, ops: &[ShadowOp]) -> Vec<String> {
        let mut versions: HashMap<&str, Option<u64>> = HashMap::new();
        let mut stale = Vec::new();
        for op in ops {
            match op {
                ShadowOp::Replace {
                    object, version, ..
                } => {
                    versions.insert(object, Some(*version));
                }
                ShadowOp::Delete { object } => {
                    versions.insert(object, None);
                }
                ShadowOp::Update { object, base, .. } => {
                    let stored = || self.objects.get(object).map(|object| object.version);
                    if *versions.entry(object).or_insert_with(stored) != Some(*base) {
                        stale.push(object.clone());
                    }
                    versions.insert(object, Some(base.wrapping_add(1)));
                }
            }
        }
        stale
    }

    fn change(&mut self, op: ShadowOp) {
        match op {
            ShadowOp::Replace {
                object,
                version,
                fields,
            } => {
                let fields = fields.into_iter().collect();
                self.objects.insert(object, Object { version, fields });
            }
            ShadowOp::Update {
                object,
                base,
                set,
                remove,
            } => {
                if let Some(object) = self.objects.get_mut(&object) {
                    object.version = base.wrapping_add(1);
                    for field in &remove {
                        object.fields.remove(field);
                    }
                    object.fields.extend(set);
                }
            }
            ShadowOp::Delete { object } => {
                self.objects.remove(&object);
            }
        }
    }
}

#[async_trait]
impl Shadow for MemoryShadow {
    async fn apply(&self, slot: u16, epoch: u64, ops: Vec<ShadowOp>) -> Result<(), ShadowError> {
        if failpoint::hit_async("shadow.apply").await {
            return Err(ShadowError::Away("a fail point".into()));
        }
        {
            let mut slots = self.slots.lock();
            let slot = slots.entry(slot).or_default();
            slot.fence(epoch)?;
            let stale = slot.stale(&ops);
            if !stale.is_empty() {
                return Err(ShadowError::Stale(stale));
            }
            ops.into_iter().for_each(|op| slot.change(op));
        }
        failpoint::hit_async("shadow.applied").await;
        Ok(())
    }

    async fn load(&self, slot: u16, epoch: u64) -> Result<Vec<ShadowObject>, ShadowError> {
        if failpoint::hit_async("shadow.load").await {
            return Err(ShadowError::Away("a fail point".into()));
        }
        let mut slots = self.slots.lock();
        let slot = slots.entry(slot).or_default();
        slot.fence(epoch)?;
        let objects = slot.objects.iter().map(|(name, object)| ShadowObject {
            object: name.clone(),
            version: object.version,
            fields: object
                .fields
                .iter()
                .map(|(f, value)| (f.clone(), value.clone()))
                .collect(),
        });
        Ok(objects.collect())
    }

    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, ShadowError> {
        let known = self.slots.lock();
        Ok(slots
            .iter()
            .map(|slot| known.get(slot).map_or(0, |slot| slot.epoch))
            .collect())
    }
}

/// Leases in memory, counted on a clock of one's choice.
pub struct MemoryLeases {
    clock: Arc<dyn Clock>,
    state: Mutex<Leases>,
}

#[derive(Default)]
struct Leases {
    /// By name.
    held: HashMap<String, (proto::Node, BootInstant)>,
    marked: std::collections::HashSet<(String, u64)>,
}

impl MemoryLeases {
    /// No leases yet.
    pub fn new(clock: Arc<dyn Clock>) -> MemoryLeases {
        MemoryLeases {
            clock,
            state: Mutex::default(),
        }
    }

    /// Forgets everything, as Redis does when it restarts.
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

fn id(node: &proto::Node) -> (String, u64) {
    (node.name.clone(), node.incarnation)
}

#[async_trait]
impl LeaseAuthority for MemoryLeases {
    async fn renew(&self, node: &proto::Node, ttl: Duration) -> Result<Renewal, AuthorityAway> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let holder = state.holder(&node.name, now);
        if state.marked.contains(&id(node)) || holder.is_some_and(|held| held != node.incarnation) {
            return Ok(Renewal::Lost);
        }
        let until = now.checked_add(ttl).unwrap_or(now);
        state.held.insert(node.name.clone(), (node.clone(), until));
        Ok(Renewal::Renewed)
    }

    async fn release(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        let mut state = self.state.lock();
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

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityAway> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.held.retain(|_, (_, until)| now < *until);
        let held = state.held.values();
        Ok(held
            .map(|(node, until)| (node.clone(), until.duration_since(now)))
            .collect())
    }

    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityAway> {
        let mut state = self.state.lock();
        if state.holder(&node.name, self.clock.now()) == Some(node.incarnation) {
            return Ok(false);
        }
        state.marked.insert(id(node));
        Ok(true)
    }

    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        self.state.lock().marked.remove(&id(node));
        Ok(())
    }
}
