//! Sessions and rooms that a stopped process leaves to its next start.

use std::sync::Arc;

use sestina_api::store::Stores;
use sestina_proto as proto;

fn object(slot: u32, name: &str, bytes: usize) -> proto::ReplicaObject {
    let field = proto::ReplicaField {
        name: "meta".to_owned(),
        value: vec![7; bytes].into(),
    };
    proto::ReplicaObject {
        slot,
        object: name.to_owned(),
        version: 3,
        fields: vec![field],
    }
}

fn part(objects: Vec<proto::ReplicaObject>, first: bool, last: bool) -> proto::ReplicaSaveRequest {
    proto::ReplicaSaveRequest {
        objects,
        first,
        last,
    }
}

/// All that can be loaded, and in how many parts it came.
async fn load(stores: &dyn Stores, max_bytes: u64) -> (Vec<proto::ReplicaObject>, usize) {
    let (mut objects, mut parts, mut after) = (Vec::new(), 0, 0);
    loop {
        let request = proto::ReplicaLoadRequest { after, max_bytes };
        let reply = stores.replica_load(request).await.unwrap();
        parts += 1;
        objects.extend(reply.objects);
        if reply.next == 0 {
            return (objects, parts);
        }
        after = reply.next;
    }
}

/// Objects come back as they were saved, in parts of a bounded size, and only once the last part
/// was saved; a new save forgets the one before.
pub(crate) async fn replicas(stores: Arc<dyn Stores>) {
    let stores = &*stores;
    assert_eq!(load(stores, 1000).await, (Vec::new(), 1));
    let first: Vec<_> = (0..3).map(|n| object(n, "s:1", 100)).collect();
    let second: Vec<_> = (3..200).map(|n| object(n, "r:a@rooms.test", 10)).collect();
    stores
        .replica_save(part(first.clone(), true, false))
        .await
        .unwrap();
    assert_eq!(load(stores, 1000).await.0, Vec::new(), "half is nothing");
    stores
        .replica_save(part(second.clone(), false, true))
        .await
        .unwrap();
    let all = [first, second].concat();
    let (loaded, parts) = load(stores, 1000).await;
    assert_eq!(loaded, all);
    assert!(parts > 3, "{parts} parts");

    let other = vec![object(9, "s:2", 1)];
    stores
        .replica_save(part(other.clone(), true, true))
        .await
        .unwrap();
    assert_eq!(load(stores, 1 << 20).await, (other, 1));
    stores.replica_clear(proto::Empty {}).await.unwrap();
    assert_eq!(load(stores, 1 << 20).await, (Vec::new(), 1));
}
