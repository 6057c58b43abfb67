//! Which versions of the protocol between tiers processes speak, and who is refused for them.

use std::sync::Arc;
use std::time::Duration;

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;
use sestina_storage::Storage;

use crate::support::*;

const TERM: Duration = Duration::from_secs(60);

fn speaking(name: &str, incarnation: u64, oldest: u32, newest: u32) -> proto::Node {
    proto::Node {
        oldest,
        newest,
        ..node(name, incarnation)
    }
}

/// A process that has no version in common with one that lives gets no lease, and one that has keeps it.
pub(crate) async fn versions(stores: Arc<Storage>) {
    let (old, new) = (speaking("old", 1, 1, 1), speaking("new", 2, 1, 2));
    assert_eq!(renew(&*stores, &old, 60_000).await.refused, "");
    assert_eq!(renew(&*stores, &new, 60_000).await.refused, "");
    let only = speaking("only", 3, 2, 3);
    let reply = renew(&*stores, &only, 60_000).await;
    assert!(reply.lost, "a process that knows no refusals stops too");
    for word in ["only", "version 2 to 3", "old", "version 1,"] {
        assert!(
            reply.refused.contains(word),
            "{word} is not in: {}",
            reply.refused
        );
    }
    let listed = stores.lease_list(proto::Empty {}).await.unwrap().leases;
    let of = |name: &str| {
        let mut all = listed.iter().filter_map(|lease| lease.node.as_ref());
        let found = all.rfind(|node| node.name == name);
        found.map(|node| (node.oldest, node.newest, node.program.clone()))
    };
    assert_eq!(of("only"), None, "nothing is left of a refused process");
    assert_eq!(of("new"), Some((1, 2, "0".to_owned())));
    // Its predecessor, of another version, does not stand in its way, and what has a lease keeps it.
    let again = speaking("old", 4, 2, 3);
    assert_eq!(
        renew(&*stores, &again, 60_000).await.refused,
        "",
        "only its own predecessor speaks version 1 alone"
    );
    assert_eq!(renew(&*stores, &old, 60_000).await.refused, "");
    let end = |node: &proto::Node| {
        let request = proto::LeaseEndRequest {
            node: Some(node.clone()),
            secret: secret(),
        };
        stores.lease_end(request)
    };
    end(&old).await.unwrap();
    assert_eq!(renew(&*stores, &only, 60_000).await.refused, "");
}

/// Storage processes are listed for as long as they say that they live, and are refused likewise.
pub(crate) async fn storage_processes(stores: Arc<Storage>) {
    let storage = |name: &str, incarnation, oldest, newest| proto::Node {
        role: proto::NodeRole::Storage.into(),
        ..speaking(name, incarnation, oldest, newest)
    };
    let (first, second) = (storage("s1", 1, 1, 1), storage("s2", 2, 1, 2));
    stores.register(&first, TERM).await.unwrap();
    stores.register(&second, TERM).await.unwrap();
    stores.register(&first, TERM).await.unwrap();
    let listed = async || {
        let reply = stores.lease_list(proto::Empty {}).await.unwrap();
        assert_eq!(reply.leases, [], "they hold no leases");
        let storages = reply.storages.into_iter();
        let fresh = storages.filter(|lease| lease.remaining_ms > 30_000);
        fresh.filter_map(|lease| lease.node).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [first.clone(), second.clone()]);
    let router = speaking("r1", 3, 2, 2);
    let refused = renew(&*stores, &router, 60_000).await.refused;
    assert!(refused.contains("s1"), "{refused}");
    let error = stores.register(&storage("s3", 4, 2, 2), TERM).await;
    let Err(StoreError::Invalid(text)) = error else {
        panic!("a storage process that cannot work with s1 came in: {error:?}");
    };
    assert!(text.contains("s3") && text.contains("s1"), "{text}");
    stores.leave(&first).await.unwrap();
    assert_eq!(listed().await, [second]);
    assert_eq!(renew(&*stores, &router, 60_000).await.refused, "");
}
