//! What every database must do. Each scenario gets stores over an empty database.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

use super::support::*;

pub(crate) async fn accounts(stores: Arc<dyn Stores>) {
    let keys = |iterations| proto::ScramKeys {
        mechanism: "SCRAM-SHA-256".into(),
        salt: vec![1, 2].into(),
        iterations,
        stored_key: vec![3].into(),
        server_key: vec![4].into(),
    };
    let put = |bare: &str, create, iterations| proto::AccountPutRequest {
        account: Some(proto::Account {
            bare: bare.into(),
            keys: vec![keys(iterations)],
            ..Default::default()
        }),
        create,
    };
    let bare = |bare: &str| proto::AccountRef { bare: bare.into() };
    let missing = stores.account_put(put("a@h", false, 1)).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");
    stores.account_put(put("a@h", true, 1)).await.unwrap();
    let twice = stores.account_put(put("a@h", true, 9)).await;
    assert!(matches!(twice, Err(StoreError::Exists(_))), "{twice:?}");
    let account = stores.account_get(bare("a@h")).await.unwrap().account.unwrap();
    assert_eq!(account.keys, [keys(1)], "the second creation changed nothing");
    assert!(account.created_ms > 1_700_000_000_000);
    stores.account_put(put("a@h", false, 2)).await.unwrap();
    stores
        .account_set_disabled(proto::AccountDisable { bare: "a@h".into(), disabled: true })
        .await
        .unwrap();
    let changed = stores.account_get(bare("a@h")).await.unwrap().account.unwrap();
    assert_eq!((changed.disabled, changed.created_ms), (true, account.created_ms));
    assert_eq!(changed.keys, [keys(2)]);
    for name in ["c@h", "b@h", "B@h", "x@other"] {
        stores.account_put(put(name, true, 1)).await.unwrap();
    }
    let list = |after: &str| proto::AccountListRequest {
        host: "h".into(),
        after: after.into(),
        limit: 2,
    };
    let names = |reply: proto::AccountListReply| -> Vec<String> {
        reply.accounts.into_iter().map(|account| account.bare).collect()
    };
    assert_eq!(names(stores.account_list(list("")).await.unwrap()), ["B@h", "a@h"]);
    assert_eq!(names(stores.account_list(list("a@h")).await.unwrap()), ["b@h", "c@h"]);
    let nul = stores.account_get(bare("a\0@h")).await;
    assert!(matches!(nul, Err(StoreError::Invalid(_))), "{nul:?}");

    // Deleting takes everything along.
    let epoch = own(&*stores).await;
    append(&*stores, vec![row("a@h", epoch, 1)]).await;
    let rows = vec![offline("a@h", epoch, 1)];
    stores.offline_append(proto::OfflineAppendRequest { rows, max_rows: 9 }).await.unwrap();
    stores.account_delete(bare("a@h")).await.unwrap();
    let gone = stores.account_get(bare("a@h")).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    let again = stores.account_delete(bare("a@h")).await;
    assert!(matches!(again, Err(StoreError::NotFound(_))), "{again:?}");
    assert_eq!(stores.archive_query(ask("a@h", 9)).await.unwrap().count, 0);
    let list = proto::OfflineListRequest { bare: "a@h".into(), limit: 9 };
    assert!(stores.offline_list(list).await.unwrap().rows.is_empty());
    stores.maintain(proto::MaintainRequest::default()).await.unwrap();
    // A namesake starts with an empty archive, even for the same stanza-ids.
    append(&*stores, vec![row("a@h", epoch, 1)]).await;
    assert_eq!(stores.archive_query(ask("a@h", 9)).await.unwrap().count, 1);
}

pub(crate) async fn archive_pages(stores: Arc<dyn Stores>) {
    const ROWS: u64 = 10_000;
    let epoch = own(&*stores).await;
    let appends = (0..ROWS).step_by(100).map(|first| {
        let stores = Arc::clone(&stores);
        async move {
            let rows = (first..first + 100).map(|counter| row("a@h", epoch, counter + 1)).collect();
            assert!(append(&*stores, rows).await.is_empty());
        }
    });
    for append in appends {
        append.await;
    }
    append(&*stores, vec![row("other@h", epoch, 1)]).await;
    let all: Vec<u64> = (1..=ROWS).collect();

    let mut seen = Vec::new();
    let mut after = Vec::new();
    loop {
        let reply = stores
            .archive_query(proto::ArchiveQueryRequest { after: after.into(), ..ask("a@h", 700) })
            .await
            .unwrap();
        assert_eq!((reply.count, reply.first_index), (ROWS, seen.len() as u64));
        seen.extend(counters(&reply));
        after = reply.rows.last().unwrap().stanza_id.to_vec();
        if reply.complete {
            break;
        }
        assert_eq!(reply.rows.len(), 700);
    }
    assert_eq!(seen, all);

    let mut seen = Vec::new();
    let mut before = Vec::new();
    loop {
        let request = proto::ArchiveQueryRequest {
            before: before.into(),
            backwards: true,
            ..ask("a@h", 900)
        };
        let reply = stores.archive_query(request).await.unwrap();
        assert_eq!(reply.first_index, ROWS - seen.len() as u64 - reply.rows.len() as u64);
        seen.extend(counters(&reply).into_iter().rev());
        before = reply.rows.first().unwrap().stanza_id.to_vec();
        if reply.complete {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, all);

    // Exactly the page that remains is complete; max 0 only counts (XEP-0059 §2.7).
    let last = proto::ArchiveQueryRequest { after: id(ROWS - 5).into(), ..ask("a@h", 5) };
    assert!(stores.archive_query(last.clone()).await.unwrap().complete);
    let four = stores.archive_query(proto::ArchiveQueryRequest { max: 4, ..last }).await.unwrap();
    assert!(!four.complete);
    let counted = stores.archive_query(ask("a@h", 0)).await.unwrap();
    assert_eq!((counted.count, counted.rows.len(), counted.complete), (ROWS, 0, false));
    let past = proto::ArchiveQueryRequest { after: id(ROWS).into(), ..ask("a@h", 5) };
    let past = stores.archive_query(past).await.unwrap();
    assert!(past.rows.is_empty() && past.complete && past.count == ROWS);
}

pub(crate) async fn archive_filters(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    append(&*stores, (1..=30).map(|counter| row("a@h", epoch, counter)).collect()).await;
    let query = |request| {
        let stores = Arc::clone(&stores);
        async move { stores.archive_query(request).await.unwrap() }
    };
    let all = ask("a@h", 100);
    let whole = query(all.clone()).await;
    assert_eq!(whole.rows[4], proto::ArchiveRow { fence: None, ..row("a@h", epoch, 5) });

    let with = proto::ArchiveQueryRequest { with_bare: "peer1@example.org".into(), ..all.clone() };
    let reply = query(with.clone()).await;
    assert_eq!(counters(&reply), (1..=30).filter(|n| n % 3 == 1).collect::<Vec<_>>());
    assert_eq!(reply.count, 10);
    let resource = proto::ArchiveQueryRequest { with_resource: "r1".into(), ..with.clone() };
    let reply = query(resource).await;
    assert_eq!(counters(&reply), [1, 7, 13, 19, 25]);
    let paged = proto::ArchiveQueryRequest { after: id(8).into(), max: 2, ..with.clone() };
    let reply = query(paged).await;
    assert_eq!((counters(&reply), reply.first_index, reply.complete), (vec![10, 13], 3, false));
    let nobody = proto::ArchiveQueryRequest { with_bare: "no@h".into(), ..all.clone() };
    let reply = query(nobody).await;
    assert!(reply.complete && reply.count == 0 && reply.rows.is_empty());

    let times = proto::ArchiveQueryRequest {
        start_ms: Some(T0 + 5_000),
        end_ms: Some(T0 + 9_000),
        ..all.clone()
    };
    let reply = query(times.clone()).await;
    assert_eq!((counters(&reply), reply.count), (vec![5, 6, 7, 8, 9], 5));
    let back = proto::ArchiveQueryRequest { backwards: true, max: 2, ..times };
    let reply = query(back).await;
    assert_eq!((counters(&reply), reply.first_index, reply.complete), (vec![8, 9], 3, false));
    let between = proto::ArchiveQueryRequest {
        after: id(3).into(),
        before: id(6).into(),
        ..all.clone()
    };
    let reply = query(between).await;
    assert!(counters(&reply) == [4, 5] && reply.complete);

    let ids = |ids: &[u64]| proto::ArchiveQueryRequest {
        ids: ids.iter().map(|n| id(*n).into()).collect(),
        ..all.clone()
    };
    let reply = query(ids(&[9, 2, 9])).await;
    assert_eq!((counters(&reply), reply.count, reply.complete), (vec![2, 9], 2, true));
    let reply = query(proto::ArchiveQueryRequest { max: 1, ..ids(&[9, 2]) }).await;
    assert!(counters(&reply) == [2] && !reply.complete);
    assert!(query(ids(&[2, 31])).await.item_not_found);
    for unknown in [
        proto::ArchiveQueryRequest { after: id(99).into(), ..all.clone() },
        proto::ArchiveQueryRequest { before: id(99).into(), ..all.clone() },
        proto::ArchiveQueryRequest { after: id(1).into(), ..ask("nobody@h", 5) },
    ] {
        assert!(query(unknown).await.item_not_found);
    }
    let empty = query(ask("nobody@h", 5)).await;
    assert!(empty.complete && !empty.item_not_found && empty.rows.is_empty());
}

pub(crate) async fn archive_replays(stores: Arc<dyn Stores>) {
    const MONTH: i64 = 31 * 86_400_000;
    let epoch = own(&*stores).await;
    append(&*stores, vec![row("a@h", epoch, 1), row("a@h", epoch, 2)]).await;
    // A replay by a new owner: same id, another place and another month.
    let replay = proto::ArchiveRow { counter: 9, at_ms: T0 + MONTH, ..row("a@h", epoch, 2) };
    let twice = row("a@h", epoch, 3);
    append(&*stores, vec![replay, twice.clone(), twice]).await;
    let reply = stores.archive_query(ask("a@h", 9)).await.unwrap();
    assert_eq!(counters(&reply), [1, 2, 3]);
    assert_eq!(reply.rows[1].at_ms, T0 + 2000, "the first one stays");
    // The same id in another archive is another row.
    append(&*stores, vec![row("b@h", epoch, 1)]).await;
    assert_eq!(stores.archive_query(ask("b@h", 9)).await.unwrap().count, 1);

    // A clock that went back, then months ahead, then back again.
    let times = [(4, T0 - MONTH), (5, T0 + 2 * MONTH), (6, T0), (7, T0 + 3 * MONTH)];
    for (counter, at_ms) in times {
        append(&*stores, vec![proto::ArchiveRow { at_ms, ..row("a@h", epoch, counter) }]).await;
    }
    let reply = stores.archive_query(ask("a@h", 99)).await.unwrap();
    assert_eq!(counters(&reply), [1, 2, 3, 4, 5, 6, 7]);
    let at: Vec<i64> = reply.rows.iter().map(|row| row.at_ms).collect();
    assert_eq!(at[3..], [T0 + 3000, T0 + 2 * MONTH, T0 + 2 * MONTH, T0 + 3 * MONTH]);

    // One that comes late takes its place by (epoch, counter), between its neighbours' times.
    append(&*stores, vec![row("c@h", epoch, 10), row("c@h", epoch, 20)]).await;
    let late = proto::ArchiveRow { at_ms: T0 + MONTH, ..row("c@h", epoch, 15) };
    append(&*stores, vec![late]).await;
    let reply = stores.archive_query(ask("c@h", 9)).await.unwrap();
    assert_eq!(counters(&reply), [10, 15, 20]);
    assert!(reply.rows.is_sorted_by_key(|row| row.at_ms), "{reply:?}");

    // A defect of one caller does not touch another's rows.
    let collision = proto::ArchiveRow { stanza_id: id(77).into(), ..row("c@h", epoch, 15) };
    let (bad, good) = tokio::join!(
        stores.archive_append(proto::ArchiveAppendRequest { rows: vec![collision] }),
        stores.archive_append(proto::ArchiveAppendRequest { rows: vec![row("d@h", epoch, 1)] }),
    );
    assert!(matches!(bad, Err(StoreError::Invalid(_))), "{bad:?}");
    good.unwrap();
    assert_eq!(stores.archive_query(ask("d@h", 9)).await.unwrap().count, 1);
    let short = proto::ArchiveRow { stanza_id: vec![1].into(), ..row("c@h", epoch, 30) };
    let short = stores.archive_append(proto::ArchiveAppendRequest { rows: vec![short] }).await;
    assert!(matches!(short, Err(StoreError::Invalid(_))), "{short:?}");
}

pub(crate) async fn fences(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let old = proto::ArchiveRow { fence: fence(1, epoch - 1), ..row("a@h", epoch, 1) };
    let future = proto::ArchiveRow { fence: fence(2, epoch + 1), ..row("a@h", epoch, 2) };
    let unowned = proto::ArchiveRow { fence: fence(4000, 0), ..row("a@h", epoch, 3) };
    let good = row("a@h", epoch, 4);
    assert_eq!(append(&*stores, vec![old, future, unowned, good]).await, [1, 2, 4000]);
    assert_eq!(counters(&stores.archive_query(ask("a@h", 9)).await.unwrap()), [4]);
    let stale = proto::OfflineRow { fence: fence(3, epoch + 1), ..offline("a@h", epoch, 1) };
    let rows = vec![stale, offline("a@h", epoch, 2)];
    let request = proto::OfflineAppendRequest { rows, max_rows: 0 };
    assert_eq!(stores.offline_append(request).await.unwrap().fenced_slots, [3]);
    let remove = proto::OfflineRemoveRequest {
        fence: fence(0, epoch + 1),
        bare: "a@h".into(),
        keys: vec![key(2)],
    };
    assert_eq!(stores.offline_remove(remove).await.unwrap().fenced_slots, [0]);
    let list = proto::OfflineListRequest { bare: "a@h".into(), limit: 0 };
    assert_eq!(stores.offline_list(list).await.unwrap().rows.len(), 1);
    let none = proto::ArchiveRow { fence: None, ..row("a@h", epoch, 9) };
    let none = stores.archive_append(proto::ArchiveAppendRequest { rows: vec![none] }).await;
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
                    if !append(&*stores, vec![row(&archive, epoch, counter)]).await.is_empty() {
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
    let reply = stores.slot_claim(claim(vec![step], &node("owner", 1))).await.unwrap();
    assert!(reply.refused_slots.is_empty());
    assert_eq!(reply.map.unwrap().epochs[0], 50);
    let mut at_claim = Vec::new();
    for writer in 0..8 {
        let reply = stores.archive_query(ask(&format!("a{writer}@h"), 0)).await.unwrap();
        at_claim.push(reply.count);
    }
    for (writer, task) in writers.into_iter().enumerate() {
        let done = task.await.unwrap();
        assert_eq!(done, at_claim[writer], "a stale write after the claim, or a lost one");
    }
    assert!(append(&*stores, vec![row("z@h", 50, 1)]).await.is_empty(), "the new owner writes");
}

pub(crate) async fn offline_messages(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let put = |rows, max_rows| {
        let stores = Arc::clone(&stores);
        async move {
            stores.offline_append(proto::OfflineAppendRequest { rows, max_rows }).await.unwrap()
        }
    };
    let listed = || async {
        let list = proto::OfflineListRequest { bare: "a@h".into(), limit: 100 };
        let rows = stores.offline_list(list).await.unwrap().rows;
        rows.iter().map(|row| row.counter).collect::<Vec<_>>()
    };
    let rows = vec![offline("a@h", epoch, 2), offline("a@h", epoch, 1), offline("a@h", epoch, 1)];
    put(rows, 3).await;
    assert_eq!(listed().await, [1, 2]);
    let list = proto::OfflineListRequest { bare: "a@h".into(), limit: 1 };
    let first = stores.offline_list(list).await.unwrap().rows.remove(0);
    assert_eq!(first, proto::OfflineRow { fence: None, ..offline("a@h", epoch, 1) });

    // Only what is beyond the limit is refused, by its index; another user has room.
    let rows = vec![
        offline("a@h", epoch, 2),
        offline("a@h", epoch, 3),
        offline("a@h", epoch, 4),
        offline("b@h", epoch, 1),
    ];
    let reply = put(rows, 3).await;
    assert_eq!((reply.full, reply.fenced_slots), (vec![2], vec![]));
    assert_eq!(listed().await, [1, 2, 3]);

    let remove = proto::OfflineRemoveRequest {
        fence: fence(0, epoch),
        bare: "a@h".into(),
        keys: vec![key(1), key(2), key(77)],
    };
    stores.offline_remove(remove.clone()).await.unwrap();
    stores.offline_remove(remove).await.unwrap();
    assert_eq!(listed().await, [3]);
    // A replay of a delivered one is done already; there is room for two others.
    let rows = vec![offline("a@h", epoch, 1), offline("a@h", epoch, 5), offline("a@h", epoch, 6)];
    assert!(put(rows, 3).await.full.is_empty());
    assert_eq!(listed().await, [3, 5, 6]);
    let keep = proto::MaintainRequest { outcome_keep_s: 3600, archive_keep_days: 0 };
    stores.maintain(keep).await.unwrap();
    put(vec![offline("a@h", epoch, 1)], 0).await;
    assert_eq!(listed().await, [3, 5, 6], "still remembered");
}

pub(crate) async fn outcomes(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    let put = |n, reply: &str, epoch| proto::OutcomePutRequest {
        fence: fence(0, epoch),
        key: Some(key(n)),
        reply: Some(stanza(reply)),
    };
    let first = stores.outcome_put(put(1, "one", epoch)).await.unwrap();
    assert_eq!(first.reply, Some(stanza("one")));
    let replay = stores.outcome_put(put(1, "two", epoch)).await.unwrap();
    assert_eq!((replay.fenced, replay.reply), (false, Some(stanza("one"))));
    let stale = stores.outcome_put(put(2, "x", epoch + 1)).await.unwrap();
    assert_eq!((stale.fenced, stale.reply), (true, None));
    let fresh = stores.outcome_put(put(2, "y", epoch)).await.unwrap();
    assert_eq!(fresh.reply, Some(stanza("y")), "the refused one left nothing");
}

pub(crate) async fn leases(stores: Arc<dyn Stores>) {
    let renew = |node: &proto::Node, ttl_ms| {
        let stores = Arc::clone(&stores);
        let request = proto::LeaseRenewRequest { node: Some(node.clone()), ttl_ms };
        async move { stores.lease_renew(request).await.unwrap().lost }
    };
    let remaining = |node: proto::Node| {
        let stores = Arc::clone(&stores);
        async move {
            let leases = stores.lease_list(proto::Empty {}).await.unwrap().leases;
            let lease = leases.into_iter().find(|lease| lease.node.as_ref() == Some(&node));
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
    let draining = proto::Node { draining: true, ..old.clone() };
    assert!(!renew(&draining, 60_000).await);
    assert!(remaining(draining.clone()).await.is_some(), "what the node says of itself is kept");
    // It runs out by the database's clock, and may be renewed while nobody claimed.
    let short = node("short", 3);
    assert!(!renew(&short, 1).await);
    while remaining(short.clone()).await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!renew(&short, 60_000).await);
    // Ended is final.
    stores.lease_end(proto::LeaseEndRequest { node: Some(old.clone()) }).await.unwrap();
    assert!(renew(&old, 60_000).await);
    assert_eq!(remaining(draining).await, Some(0));
    assert!(remaining(new).await.unwrap() > 0);
    let never = node("never", 4);
    stores.lease_end(proto::LeaseEndRequest { node: Some(never.clone()) }).await.unwrap();
    assert!(renew(&never, 60_000).await, "ended before its first renewal arrived");
}

pub(crate) async fn slot_claims(stores: Arc<dyn Stores>) {
    let (a, b) = (node("a", 1), node("b", 1));
    let renew = |node: &proto::Node, ttl_ms| {
        let request = proto::LeaseRenewRequest { node: Some(node.clone()), ttl_ms };
        let stores = Arc::clone(&stores);
        async move { stores.lease_renew(request).await.unwrap().lost }
    };
    assert!(!renew(&a, 60_000).await && !renew(&b, 60_000).await);
    let whole = (0..4096).map(|slot| first_move(slot, &a)).collect();
    let reply = stores.slot_claim(claim(whole, &a)).await.unwrap();
    assert!(reply.planner && reply.refused_slots.is_empty());
    let map = reply.map.unwrap();
    assert_eq!((map.version, map.owners.len(), map.epochs.len()), (1, 4096, 4096));
    let names: Vec<_> = map.routers.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "b"], "b owns nothing, but it is there");
    assert!(map.owners.iter().all(|owner| *owner == 1) && map.epochs.iter().all(|e| *e == 1));

    let known = |known_version| proto::SlotTableRequest { known_version };
    assert!(stores.slot_table(known(1)).await.unwrap().map.is_none());
    assert_eq!(stores.slot_table(known(0)).await.unwrap().map.unwrap(), map);

    // While the planner's lease holds, another plans nothing.
    let take = |slot, from_epoch| proto::SlotMove {
        from_name: "a".into(),
        from_incarnation: 1,
        from_epoch,
        ..first_move(slot, &b)
    };
    let reply = stores.slot_claim(claim(vec![take(0, 1)], &b)).await.unwrap();
    assert!(!reply.planner && reply.refused_slots == [0]);
    assert_eq!(reply.map.unwrap().version, 1);
    // The planner may not rob a fresh holder, nor act on a wrong belief.
    let reply = stores.slot_claim(claim(vec![take(0, 1), take(1, 7)], &a)).await.unwrap();
    assert!(reply.planner && reply.refused_slots == [0, 1]);
    assert_eq!(reply.map.unwrap().version, 1);
    // A hand-over needs neither: the holder released it.
    let released = proto::SlotMove { released: true, min_epoch: 9, ..take(5, 1) };
    let request =
        proto::SlotClaimRequest { moves: vec![released], planner: None, planner_ttl_ms: 0 };
    let reply = stores.slot_claim(request).await.unwrap();
    assert!(reply.refused_slots.is_empty() && !reply.planner);
    let map = reply.map.unwrap();
    assert_eq!((map.version, map.owners[5], map.epochs[5]), (2, 2, 9));

    // Once its lease has run out it is robbed, and a renewal that comes later is told so.
    assert!(!renew(&a, 1).await);
    loop {
        let reply = stores.slot_claim(claim(vec![take(0, 1)], &a)).await.unwrap();
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
        proto::SlotClaimRequest { moves: vec![first_move(1, &a)], ..Default::default() },
    ] {
        let refused = stores.slot_claim(bad).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
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
    let table = stores.slot_table(proto::SlotTableRequest::default()).await.unwrap();
    let map = table.map.unwrap();
    let owners: BTreeSet<u32> = map.owners[..512].iter().copied().collect();
    assert_eq!((owners.len(), map.version), (1, 1));
    assert!(map.epochs[..512].iter().all(|epoch| *epoch == 1));
}

pub(crate) async fn one_secret(stores: Arc<dyn Stores>) {
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let stores = Arc::clone(&stores);
            tokio::spawn(async move { stores.cluster_secret(proto::Empty {}).await.unwrap().secret })
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

pub(crate) async fn maintenance(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    // 2023 and far ahead, so that neither depends on today.
    let old = proto::ArchiveRow { at_ms: 1_680_000_000_000, ..row("a@h", epoch, 1) };
    let new = proto::ArchiveRow { at_ms: 4_000_000_000_000, ..row("a@h", epoch, 2) };
    append(&*stores, vec![old.clone(), new.clone()]).await;
    append(&*stores, vec![proto::ArchiveRow { archive: "b@h".into(), ..old.clone() }]).await;
    let keep = proto::MaintainRequest { archive_keep_days: 0, outcome_keep_s: 0 };
    stores.maintain(keep).await.unwrap();
    assert_eq!(stores.archive_query(ask("a@h", 9)).await.unwrap().count, 2, "kept for ever");
    let keep = proto::MaintainRequest { archive_keep_days: 30, outcome_keep_s: 0 };
    stores.maintain(keep).await.unwrap();
    assert_eq!(counters(&stores.archive_query(ask("a@h", 9)).await.unwrap()), [2]);
    assert_eq!(stores.archive_query(ask("b@h", 9)).await.unwrap().count, 0);
    let gone = proto::ArchiveQueryRequest { ids: vec![id(1).into()], ..ask("a@h", 9) };
    assert!(stores.archive_query(gone).await.unwrap().item_not_found);
    // Appending goes on, also into a month that was dropped.
    append(&*stores, vec![proto::ArchiveRow { archive: "c@h".into(), ..old }]).await;
    assert_eq!(stores.archive_query(ask("c@h", 9)).await.unwrap().count, 1);
}
