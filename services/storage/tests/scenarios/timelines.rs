//! The database has lost commits: the table gets a new timeline, and owners assert what they hold.

use std::sync::Arc;

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

use crate::support::{self, *};

fn at(timeline: u64, version: u64, token: u64) -> proto::Position {
    proto::Position {
        timeline,
        version,
        token,
    }
}

async fn renew(stores: &dyn Stores, name: &str, installed: proto::Position, ttl_ms: u32) {
    let node = proto::Node {
        installed: Some(installed),
        ..node(name, 1)
    };
    let reply = support::renew(stores, &node, ttl_ms).await;
    assert!(!reply.lost && !reply.wrong_secret);
}

async fn table(stores: &dyn Stores) -> proto::SlotMap {
    let request = proto::SlotTableRequest::default();
    stores.slot_table(request).await.unwrap().map.unwrap()
}

fn assertion(name: &str, timeline: u64, held: &[(u32, u64)]) -> proto::SlotAssertRequest {
    proto::SlotAssertRequest {
        holder: Some(node(name, 1)),
        secret: secret(),
        timeline,
        held: held
            .iter()
            .filter_map(|(slot, epoch)| fence(*slot, *epoch))
            .collect(),
    }
}

fn owner(map: &proto::SlotMap, slot: usize) -> (String, u64) {
    let router = (map.owners[slot] as usize).checked_sub(1);
    let name = router.map(|at| map.routers[at].name.clone());
    (name.unwrap_or_default(), map.epochs[slot])
}

/// A position that the table never had begins a timeline, once; one that it had does not.
pub(crate) async fn lost_positions(stores: Arc<dyn Stores>) {
    own(&*stores).await;
    let first = table(&*stores).await.position();
    assert_eq!((first.timeline, first.version), (1, 1));
    for known in [first, first_position(), proto::Position::default()] {
        renew(&*stores, "a", known, 60_000).await;
        assert_eq!(
            table(&*stores).await.position(),
            first,
            "{known:?} is known"
        );
    }
    let lost = proto::SlotTableRequest {
        known: Some(at(1, 3, 5)),
    };
    let told = stores.slot_table(lost).await.unwrap().map;
    assert_eq!(told, None, "it would forget what it has to report");
    // Several report what was lost, and each something else of it.
    for known in [at(1, 3, 5), at(1, 2, 4), at(1, 3, 5)] {
        renew(&*stores, "b", known, 1).await;
        let now = table(&*stores).await.position();
        assert_eq!((now.timeline, now.version), (2, 2), "{known:?}");
    }
    let leases = stores.lease_list(proto::Empty {}).await.unwrap().leases;
    let nodes = leases.into_iter().filter_map(|lease| lease.node);
    let timelines: Vec<_> = nodes
        .filter_map(|node| Some((node.name, node.installed?.timeline)))
        .collect();
    let wanted = [("a".to_owned(), 1), ("b".to_owned(), 1)];
    assert_eq!(timelines, wanted, "who has taken part in which");
    // The same version, but another change: one of the two was lost.
    renew(&*stores, "b", at(2, 2, 4), 1).await;
    assert_eq!(table(&*stores).await.timeline, 3);
    renew(&*stores, "b", at(7, 1, 4), 1).await;
    assert_eq!(table(&*stores).await.timeline, 8, "later than any known");
    let thief = proto::LeaseRenewRequest {
        node: Some(proto::Node {
            installed: Some(at(9, 9, 9)),
            ..node("b", 1)
        }),
        ttl_ms: 1,
        secret: b"not the secret of anybody".as_slice().into(),
    };
    assert!(stores.lease_renew(thief).await.unwrap().wrong_secret);
    assert_eq!(table(&*stores).await.timeline, 8, "of no process");
}

/// Reported by many at once: one timeline.
pub(crate) async fn one_timeline(stores: Arc<dyn Stores>) {
    own(&*stores).await;
    let tasks = (0..8).map(|number| {
        let stores = Arc::clone(&stores);
        let name = format!("r{number}");
        tokio::spawn(async move { renew(&*stores, &name, at(1, 9, number), 60_000).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let now = table(&*stores).await.position();
    assert_eq!((now.timeline, now.version), (2, 2));
}

/// Nothing moves by an older table, nor before leases that were lost can have been renewed.
pub(crate) async fn quiet_timelines(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let old = table(&*stores).await.position();
    renew(&*stores, "b", at(1, 9, 9), 60_000).await;
    let moves = |known| {
        let next = node("next", 1);
        proto::SlotClaimRequest {
            known: Some(known),
            ..claim(
                vec![proto::SlotMove {
                    from_name: "owner".into(),
                    from_incarnation: 1,
                    from_epoch: epoch,
                    ..first_move(0, &next)
                }],
                &node("owner", 1),
            )
        }
    };
    let now = table(&*stores).await.position();
    for known in [old, now] {
        let reply = stores.slot_claim(moves(known)).await.unwrap();
        assert_eq!(reply.refused_slots, [0], "{known:?}");
        assert_eq!(reply.map.unwrap().position(), now);
    }
    // Another loss, and this one's leases are short.
    renew(&*stores, "b", at(2, 9, 9), 1).await;
    let now = table(&*stores).await.position();
    loop {
        let reply = stores.slot_claim(moves(now)).await.unwrap();
        if reply.refused_slots.is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let reply = stores.slot_claim(moves(at(3, 77, 9))).await.unwrap();
    assert_eq!(reply.refused_slots, [0], "a position that was lost");
}

/// The higher epoch wins; what an owner does not assert is nobody's; writes go on.
pub(crate) async fn assertions(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let lease = stores.slot_assert(assertion("owner", 1, &[])).await;
    assert!(matches!(lease, Err(StoreError::Invalid(_))), "{lease:?}");
    for name in ["owner", "other"] {
        renew(&*stores, name, first_position(), 60_000).await;
    }
    renew(&*stores, "other", at(1, 9, 9), 60_000).await;
    let late = stores.slot_assert(assertion("owner", 1, &[(0, epoch)]));
    let late = late.await.unwrap();
    assert!(!late.done && late.map.unwrap().timeline == 2);
    let thief = proto::SlotAssertRequest {
        secret: b"not the secret of anybody".as_slice().into(),
        ..assertion("other", 2, &[(0, 99)])
    };
    let refused = stores.slot_assert(thief).await;
    assert!(
        matches!(refused, Err(StoreError::Invalid(_))),
        "{refused:?}"
    );

    // Slots 1 and 9 were given to the other one, which the database has lost.
    let written = row("a@h", epoch + 4, 1);
    let written = proto::ArchiveRow {
        fence: fence(9, epoch + 4),
        ..written
    };
    assert_eq!(append(&*stores, vec![written.clone()]).await, [9]);
    let held = [(1, epoch + 1), (9, epoch + 4)];
    let done = stores
        .slot_assert(assertion("other", 2, &held))
        .await
        .unwrap();
    assert!(done.done && done.refused_slots.is_empty());
    assert!(append(&*stores, vec![written]).await.is_empty());
    let held: Vec<_> = (0..7).map(|slot| (slot, epoch)).collect();
    let done = stores
        .slot_assert(assertion("owner", 2, &held))
        .await
        .unwrap();
    assert!(done.done);
    assert_eq!(done.refused_slots, [1]);
    let map = done.map.unwrap();
    assert_eq!(owner(&map, 0), ("owner".to_owned(), epoch));
    assert_eq!(owner(&map, 1), ("other".to_owned(), epoch + 1));
    assert_eq!(owner(&map, 7), (String::new(), epoch), "not asserted");
    assert_eq!(owner(&map, 9), ("other".to_owned(), epoch + 4));
    let before = map.position();
    let again = stores
        .slot_assert(assertion("other", 2, &[]))
        .await
        .unwrap();
    let map = again.map.unwrap();
    assert_eq!(
        owner(&map, 9).0,
        "other",
        "a repeated one takes nothing away"
    );
    assert_eq!(map.position(), before);
    let nonsense = stores
        .slot_assert(assertion("other", 2, &[(4096, 1)]))
        .await;
    assert!(
        matches!(nonsense, Err(StoreError::Invalid(_))),
        "{nonsense:?}"
    );
}
