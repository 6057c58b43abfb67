//! What one process alone saves when it is stopped, and goes on with at its next start: rooms, and
//! sessions whose clients will resume them (XEP-0198 §5).
//!
//! A cluster has this in Redis at any time. One process keeps it in memory, and writes it to its
//! database once, when nothing changes any more. The next start reads it and forgets it before it
//! serves: a process that died later must not be followed by one that goes on with older sessions.

use sestina_api::shadow::{ShadowObject, Stamp};
use sestina_api::store::{StoreError, Stores};
use sestina_cluster::slots::SLOTS;
use sestina_proto as proto;
use sestina_router::Router;
use sestina_router::admin::Replica;
use sestina_sessions::MemoryShadow;

/// Bytes that pass at one time, as far as objects can be told apart.
const PART_BYTES: usize = 1 << 20;
/// Slots that are asked for at one time.
const SLOTS_AT_ONCE: usize = 64;

/// Saves all sessions without a socket, and all rooms; tells how many.
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

/// Puts what was saved into the state store of a process that starts; tells how many objects.
pub(super) async fn restore(
    stores: &dyn Stores,
    shadow: &MemoryShadow,
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
            let object = ShadowObject {
                object: object.object,
                version: Stamp::new(0, object.version),
                fields: fields.collect(),
            };
            shadow.preload(slot, object);
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
