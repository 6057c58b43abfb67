//! What the cluster shares: fences, claims, keys of tickets, the secret of sessions.

use std::collections::BTreeSet;
use std::sync::Arc;

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

use crate::support::*;

pub(crate) async fn fences(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let old = proto::ArchiveRow {
        fence: fence(1, epoch - 1),
        ..row("a@h", epoch, 1)
    };
    let future = proto::ArchiveRow {
        fence: fence(2, epoch + 1),
        ..row("a@h", epoch, 2)
    };
    let unowned = proto::ArchiveRow {
        fence: fence(4000, 0),
        ..row("a@h", epoch, 3)
    };
    let good = row("a@h", epoch, 4);
    assert_eq!(
        append(&*stores, vec![old, future, unowned, good]).await,
        [1, 2, 4000]
    );
    assert_eq!(
        counters(&stores.archive_query(ask("a@h", 9)).await.unwrap()),
        [4]
    );
    let stale = proto::OfflineRow {
        fence: fence(3, epoch + 1),
        ..offline("a@h", epoch, 1)
    };
    let rows = vec![stale, offline("a@h", epoch, 2)];
    let request = proto::OfflineAppendRequest { rows, max_rows: 0 };
    assert_eq!(
        stores.offline_append(request).await.unwrap().fenced_slots,
        [3]
    );
    let remove = proto::OfflineRemoveRequest {
        fence: fence(0, epoch + 1),
        bare: "a@h".into(),
        keys: vec![key(2)],
    };
    assert_eq!(
        stores.offline_remove(remove).await.unwrap().fenced_slots,
        [0]
    );
    let list = proto::OfflineListRequest {
        bare: "a@h".into(),
        limit: 0,
        ..Default::default()
    };
    assert_eq!(stores.offline_list(list).await.unwrap().rows.len(), 1);
    let none = proto::ArchiveRow {
        fence: None,
        ..row("a@h", epoch, 9)
    };
    let none = stores
        .archive_append(proto::ArchiveAppendRequest { rows: vec![none] })
        .await;
    assert!(matches!(none, Err(StoreError::Invalid(_))), "{none:?}");
}

/// Writers race a claim: whatever a write under the old epoch reported as done is there when the
/// claim returns, and nothing of the old epoch gets in after it.
pub(crate) async fn claims_against_writes(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let stores = Arc::clone(&stores);
            tokio::spawn(async move {
                let mut done = 0;
                for n in 1.. {
                    let counter = n * 8 + writer;
                    let archive = format!("a{writer}@h");
                    if !append(&*stores, vec![row(&archive, epoch, counter)])
                        .await
                        .is_empty()
                    {
                        break;
                    }
                    done = n;
                }
                done
            })
        })
        .collect();
    while stores.archive_query(ask("a0@h", 0)).await.unwrap().count < 5 {
        tokio::task::yield_now().await;
    }
    let next = node("next", 2);
    let step = proto::SlotMove {
        from_name: "owner".into(),
        from_incarnation: 1,
        from_epoch: epoch,
        min_epoch: 50,
        ..first_move(0, &next)
    };
    let reply = stores
        .slot_claim(claim(vec![step], &node("owner", 1)))
        .await
        .unwrap();
    assert!(reply.refused_slots.is_empty());
    assert_eq!(reply.map.unwrap().epochs[0], 50);
    let mut at_claim = Vec::new();
    for writer in 0..8 {
        let reply = stores
            .archive_query(ask(&format!("a{writer}@h"), 0))
            .await
            .unwrap();
        at_claim.push(reply.count);
    }
    for (writer, task) in writers.into_iter().enumerate() {
        let done = task.await.unwrap();
        assert_eq!(
            done, at_claim[writer],
            "a stale write after the claim, or a lost one"
        );
    }
    assert!(
        append(&*stores, vec![row("z@h", 50, 1)]).await.is_empty(),
        "the new owner writes"
    );
}

pub(crate) async fn slot_claims(stores: Arc<dyn Stores>) {
    let (a, b) = (node("a", 1), node("b", 1));
    let renew = async |node: &proto::Node, ttl_ms| renew(&*stores, node, ttl_ms).await.lost;
    assert!(!renew(&a, 60_000).await && !renew(&b, 60_000).await);
    let whole = (0..4096).map(|slot| first_move(slot, &a)).collect();
    let reply = stores.slot_claim(claim(whole, &a)).await.unwrap();
    assert!(reply.planner && reply.refused_slots.is_empty());
    let map = reply.map.unwrap();
    assert_eq!(
        (map.version, map.owners.len(), map.epochs.len()),
        (1, 4096, 4096)
    );
    let names: Vec<_> = map.routers.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "b"], "b owns nothing, but it is there");
    assert!(map.owners.iter().all(|owner| *owner == 1) && map.epochs.iter().all(|e| *e == 1));

    let known = |position| proto::SlotTableRequest {
        known: Some(position),
    };
    let asked = stores.slot_table(known(map.position())).await.unwrap();
    assert!(asked.map.is_none());
    let asked = stores.slot_table(known(first_position())).await.unwrap();
    assert_eq!(asked.map.unwrap(), map);

    // While the planner's lease holds, another plans nothing.
    let take = |slot, from_epoch| proto::SlotMove {
        from_name: "a".into(),
        from_incarnation: 1,
        from_epoch,
        ..first_move(slot, &b)
    };
    let reply = stores
        .slot_claim(claim(vec![take(0, 1)], &b))
        .await
        .unwrap();
    assert!(!reply.planner && reply.refused_slots == [0]);
    assert_eq!(reply.map.unwrap().version, 1);
    // The planner may take no slot from a holder whose lease is fresh, or whose entry in the table
    // differs from what the planner has read.
    let reply = stores
        .slot_claim(claim(vec![take(0, 1), take(1, 7)], &a))
        .await
        .unwrap();
    assert!(reply.planner && reply.refused_slots == [0, 1]);
    assert_eq!(reply.map.unwrap().version, 1);
    // A hand-over needs neither the planner nor the end of the lease: the holder has released the
    // slot.
    let released = proto::SlotMove {
        released: true,
        min_epoch: 9,
        ..take(5, 1)
    };
    let request = proto::SlotClaimRequest {
        moves: vec![released],
        planner: None,
        planner_ttl_ms: 0,
        secret: secret(),
        known: Some(first_position()),
    };
    let reply = stores.slot_claim(request).await.unwrap();
    assert!(reply.refused_slots.is_empty() && !reply.planner);
    let map = reply.map.unwrap();
    assert_eq!((map.version, map.owners[5], map.epochs[5]), (2, 2, 9));

    // Once a holder's lease has run out its slots can be taken, and its next renewal fails.
    assert!(!renew(&a, 1).await);
    loop {
        let reply = stores
            .slot_claim(claim(vec![take(0, 1)], &a))
            .await
            .unwrap();
        if reply.refused_slots.is_empty() {
            let map = reply.map.unwrap();
            assert_eq!((map.version, map.epochs[0]), (3, 2));
            break;
        }
    }
    assert!(renew(&a, 60_000).await, "the claim has ended the lease");

    for bad in [
        claim(vec![first_move(4096, &a)], &a),
        claim(vec![first_move(1, &a), first_move(1, &b)], &a),
        proto::SlotClaimRequest {
            moves: vec![first_move(1, &a)],
            ..Default::default()
        },
    ] {
        let refused = stores.slot_claim(bad).await;
        assert!(
            matches!(refused, Err(StoreError::Invalid(_))),
            "{refused:?}"
        );
    }
}

/// A renewal races a claim of the slot whose holder's lease has run out: the holder goes on and the
/// claim is refused, or the claim succeeds and the holder learns that it has lost.
pub(crate) async fn renewals_against_claims(stores: Arc<dyn Stores>) {
    let planner = node("planner", 1);
    let (mut claimed, mut from) = (0, node("r", 0));
    stores
        .slot_claim(claim(vec![first_move(0, &from)], &planner))
        .await
        .unwrap();
    let renew = |node: &proto::Node, ttl_ms| {
        let (stores, node) = (Arc::clone(&stores), node.clone());
        tokio::spawn(async move { renew(&*stores, &node, ttl_ms).await.lost })
    };
    let mut epoch = 1;
    for round in 1..=60 {
        // Run out, so that both sides may win.
        assert!(!renew(&from, 0).await.unwrap());
        let next = node("r", round);
        let step = proto::SlotMove {
            from_name: from.name.clone(),
            from_incarnation: from.incarnation,
            from_epoch: epoch,
            ..first_move(0, &next)
        };
        let renewal = renew(&from, 60_000);
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        let reply = stores
            .slot_claim(claim(vec![step], &planner))
            .await
            .unwrap();
        let lost = renewal.await.unwrap();
        assert_eq!(
            lost,
            reply.refused_slots.is_empty(),
            "both or neither won in round {round}"
        );
        if lost {
            (claimed, epoch, from) = (claimed + 1, epoch + 1, next);
        }
    }
    let table = stores
        .slot_table(proto::SlotTableRequest::default())
        .await
        .unwrap();
    assert_eq!(table.map.unwrap().epochs[0], 1 + claimed);
}

/// Two that both take themselves for the planner: one is, and each slot has one owner.
pub(crate) async fn two_claimers(stores: Arc<dyn Stores>) {
    let tasks: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let stores = Arc::clone(&stores);
            tokio::spawn(async move {
                let me = node(name, 1);
                let moves = (0..512).map(|slot| first_move(slot, &me)).collect();
                stores.slot_claim(claim(moves, &me)).await.unwrap()
            })
        })
        .collect();
    let mut planners = 0;
    let mut refused = 0;
    for task in tasks {
        let reply = task.await.unwrap();
        planners += u32::from(reply.planner);
        refused += reply.refused_slots.len();
    }
    assert_eq!((planners, refused), (1, 512));
    let table = stores
        .slot_table(proto::SlotTableRequest::default())
        .await
        .unwrap();
    let map = table.map.unwrap();
    let owners: BTreeSet<u32> = map.owners[..512].iter().copied().collect();
    assert_eq!((owners.len(), map.version), (1, 1));
    assert!(map.epochs[..512].iter().all(|epoch| *epoch == 1));
}

/// The numbers of the keys.
async fn ticket_keys(stores: &Arc<dyn Stores>, period_ms: u64) -> Vec<u64> {
    let request = proto::TicketKeysRequest { period_ms };
    let reply = stores.ticket_keys(request).await.unwrap();
    assert!(reply.keys.iter().all(|key| key.key.len() == 32));
    let different: BTreeSet<_> = reply.keys.iter().map(|key| key.key.clone()).collect();
    assert_eq!(different.len(), reply.keys.len());
    reply.keys.iter().map(|key| key.number).collect()
}

pub(crate) async fn ticket_keys_are_shared_and_rotate(stores: Arc<dyn Stores>) {
    const LONG: u64 = 3_600_000;
    let request = proto::TicketKeysRequest { period_ms: LONG };
    let all: Vec<_> = (0..8)
        .map(|_| {
            let (stores, request) = (Arc::clone(&stores), request);
            tokio::spawn(async move { stores.ticket_keys(request).await.unwrap() })
        })
        .collect();
    let mut replies = Vec::new();
    for one in all {
        replies.push(one.await.unwrap());
    }
    let last = stores.ticket_keys(request).await.unwrap();
    assert!(replies.iter().all(|reply| *reply == last), "{replies:?}");
    assert_eq!(ticket_keys(&stores, LONG).await, [1, 2]);
    // Every period is over.
    assert_eq!(ticket_keys(&stores, 0).await, [1, 2, 3]);
    assert_eq!(ticket_keys(&stores, 0).await, [2, 3, 4]);
    assert_eq!(ticket_keys(&stores, LONG).await, [2, 3, 4]);
}

pub(crate) async fn one_secret(stores: Arc<dyn Stores>) {
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let stores = Arc::clone(&stores);
            tokio::spawn(
                async move { stores.cluster_secret(proto::Empty {}).await.unwrap().secret },
            )
        })
        .collect();
    let mut secrets = BTreeSet::new();
    for task in tasks {
        secrets.insert(task.await.unwrap());
    }
    assert_eq!(secrets.len(), 1);
    let secret = secrets.pop_first().unwrap();
    assert!(secret.len() == 32 && secret.iter().any(|byte| *byte != 0));
}
