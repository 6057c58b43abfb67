//! Leases, and the secrets that prove who holds them.

use std::sync::Arc;

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

use crate::support::*;

pub(crate) async fn leases(stores: Arc<dyn Stores>) {
    let renew = async |node: &proto::Node, ttl_ms| renew(&*stores, node, ttl_ms).await.lost;
    let remaining = |node: proto::Node| {
        let stores = Arc::clone(&stores);
        async move {
            let leases = stores.lease_list(proto::Empty {}).await.unwrap().leases;
            let lease = leases
                .into_iter()
                .find(|lease| lease.node.as_ref() == Some(&node));
            lease.map(|lease| lease.remaining_ms)
        }
    };
    let (old, new) = (node("r", u64::MAX), node("r", 2));
    assert!(!renew(&old, 60_000).await);
    let left = remaining(old.clone()).await.unwrap();
    assert!((30_000..=60_000).contains(&left), "{left}");
    // A restarted process does not disturb what its predecessor left.
    assert!(!renew(&new, 60_000).await);
    assert!(!renew(&old, 60_000).await);
    let draining = proto::Node {
        draining: true,
        ..old.clone()
    };
    assert!(!renew(&draining, 60_000).await);
    assert!(
        remaining(draining.clone()).await.is_some(),
        "what the node says of itself is kept"
    );
    // A lease runs out by the database's clock, and may be renewed until a claim takes slots of its
    // holder.
    let short = node("short", 3);
    assert!(!renew(&short, 1).await);
    while remaining(short.clone()).await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!renew(&short, 60_000).await);
    // Ended is final.
    stores
        .lease_end(proto::LeaseEndRequest {
            node: Some(old.clone()),
            secret: secret(),
        })
        .await
        .unwrap();
    assert!(renew(&old, 60_000).await);
    assert_eq!(remaining(draining).await, Some(0));
    assert!(remaining(new).await.unwrap() > 0);
    let never = node("never", 4);
    stores
        .lease_end(proto::LeaseEndRequest {
            node: Some(never.clone()),
            secret: secret(),
        })
        .await
        .unwrap();
    assert!(
        renew(&never, 60_000).await,
        "ended before its first renewal arrived"
    );
}

/// The first request of an incarnation leaves the hash of its secret; without the secret nothing is
/// done for it.
pub(crate) async fn secrets(stores: Arc<dyn Stores>) {
    let me = node("r", 7);
    let renew = |secret: bytes::Bytes| {
        let stores = Arc::clone(&stores);
        let request = proto::LeaseRenewRequest {
            secret,
            ..renewal(&me, 60_000)
        };
        async move { stores.lease_renew(request).await }
    };
    let prove = |secret: bytes::Bytes| {
        let stores = Arc::clone(&stores);
        let node = Some(me.clone());
        let request = proto::LeaseProveRequest { node, secret };
        async move {
            let reply = stores.lease_prove(request).await.unwrap();
            (reply.known, reply.proved)
        }
    };
    let guess = || bytes::Bytes::from_static(b"another secret of that length");
    assert_eq!(prove(secret()).await, (false, false));
    assert!(
        renew(bytes::Bytes::new()).await.is_err(),
        "no secret at all"
    );
    assert!(!renew(secret()).await.unwrap().lost);
    assert_eq!(prove(secret()).await, (true, true));
    assert_eq!(prove(guess()).await, (true, false));
    let refused = renew(guess()).await.unwrap();
    assert!(refused.wrong_secret && !refused.lost, "{refused:?}");
    let ended = stores
        .lease_end(proto::LeaseEndRequest {
            node: Some(me.clone()),
            secret: guess(),
        })
        .await;
    assert!(matches!(ended, Err(StoreError::Invalid(_))), "{ended:?}");
    assert!(
        !renew(secret()).await.unwrap().lost,
        "a thief ended the lease"
    );
    // Without the secret a process can neither plan nor release slots in the name of another.
    let steal = proto::SlotClaimRequest {
        secret: guess(),
        ..claim(vec![first_move(0, &me)], &me)
    };
    let stolen = stores.slot_claim(steal).await;
    assert!(matches!(stolen, Err(StoreError::Invalid(_))), "{stolen:?}");
    let own = claim(vec![first_move(0, &me)], &me);
    assert!(
        stores
            .slot_claim(own)
            .await
            .unwrap()
            .refused_slots
            .is_empty()
    );
    let released = |from: &proto::Node, secret| proto::SlotClaimRequest {
        moves: vec![proto::SlotMove {
            released: true,
            from_name: from.name.clone(),
            from_incarnation: from.incarnation,
            from_epoch: 1,
            ..first_move(0, &node("other", 1))
        }],
        secret,
        known: Some(first_position()),
        ..Default::default()
    };
    let stolen = stores.slot_claim(released(&me, guess())).await;
    assert!(matches!(stolen, Err(StoreError::Invalid(_))), "{stolen:?}");
    // A planner releases no slot of another.
    let both = proto::SlotClaimRequest {
        planner: Some(node("other", 1)),
        ..released(&me, secret())
    };
    let stolen = stores.slot_claim(both).await;
    assert!(matches!(stolen, Err(StoreError::Invalid(_))), "{stolen:?}");
    let given = stores.slot_claim(released(&me, secret())).await.unwrap();
    assert!(given.refused_slots.is_empty());
}
