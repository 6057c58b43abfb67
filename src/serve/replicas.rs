//! The state that a single process saves when it is stopped and restores at its next start: rooms,
//! and sessions whose clients will resume them (XEP-0198 §5).
//!
//! A cluster has this state in Redis at any time. A single process keeps it in memory, and writes
//! it to its database once, when it does not change any more. The next start reads and deletes it
//! before it serves: after a crash, the process must not continue with outdated sessions.

use sestina_api::state_store::{ReplicaObject, Stamp};
use sestina_api::store::{StoreError, Stores};
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;
use sestina_router::Router;
use sestina_router::admin::Replica;
use sestina_state::MemoryStateStore;

/// Bytes of one part; an object is never split.
const PART_BYTES: usize = 1 << 20;
/// Slots that are read at one time.
const SLOTS_AT_ONCE: usize = 64;

/// Saves all sessions without a socket, and all rooms; returns their number.
pub(super) async fn save(router: &Router, stores: &dyn Stores) -> Result<usize, StoreError> {
    let mut part = proto::ReplicaSaveRequest {
        first: true,
        ..Default::default()
    };
    let (mut saved, mut bytes) = (0, 0);
    for first in (0..SLOTS).step_by(SLOTS_AT_ONCE) {
        let end = (first + SLOTS_AT_ONCE).min(SLOTS);
        let slots = slot(first)..slot(end);
        for replica in router.replicas(slots).await {
            bytes += size(&replica);
            part.objects.push(object(replica));
            saved += 1;
            if bytes >= PART_BYTES {
                stores.replica_save(std::mem::take(&mut part)).await?;
                bytes = 0;
            }
        }
    }
    part.last = true;
    stores.replica_save(part).await?;
    Ok(saved)
}

/// Puts the saved objects into the state store of a process that starts; returns their number.
pub(super) async fn restore(
    stores: &dyn Stores,
    state_store: &MemoryStateStore,
) -> Result<usize, StoreError> {
    let (mut after, mut restored) = (0, 0);
    loop {
        let request = proto::ReplicaLoadRequest {
            after,
            max_bytes: PART_BYTES as u64,
        };
        let reply = stores.replica_load(request).await?;
        for object in reply.objects {
            let Ok(slot) = u16::try_from(object.slot) else {
                continue;
            };
            let fields = object.fields.into_iter().map(|f| (f.name, f.value));
            let object = ReplicaObject {
                object: object.object,
                version: Stamp::new(0, object.version),
                fields: fields.collect(),
            };
            state_store.preload(slot, object);
            restored += 1;
        }
        after = reply.next;
        if after == 0 {
            break;
        }
    }
    if restored > 0 {
        stores.replica_clear(proto::Empty {}).await?;
    }
    Ok(restored)
}

fn slot(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn size(replica: &Replica) -> usize {
    let fields = replica.fields.iter();
    fields.map(|(name, value)| name.len() + value.len()).sum()
}

fn object(replica: Replica) -> proto::ReplicaObject {
    let field = |(name, value)| proto::ReplicaField { name, value };
    proto::ReplicaObject {
        slot: replica.slot.into(),
        object: replica.object,
        version: 1,
        fields: replica.fields.into_iter().map(field).collect(),
    }
}
