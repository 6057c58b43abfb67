//! Archives: pages, filters, replays, pruning.

use std::sync::Arc;

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;

use crate::support::*;

pub(crate) async fn archive_pages(stores: Arc<dyn Stores>) {
    const ROWS: u64 = 10_000;
    let epoch = own(&*stores).await;
    let appends = (0..ROWS).step_by(100).map(|first| {
        let stores = Arc::clone(&stores);
        async move {
            let rows = (first..first + 100)
                .map(|counter| row("a@h", epoch, counter + 1))
                .collect();
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
            .archive_query(proto::ArchiveQueryRequest {
                after: after.into(),
                ..ask("a@h", 700)
            })
            .await
            .unwrap();
        let index = Some(seen.len() as u64);
        assert_eq!((reply.count, reply.first_index), (ROWS, index));
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
        assert_eq!((reply.count, reply.first_index), (ROWS, None));
        seen.extend(counters(&reply).into_iter().rev());
        before = reply.rows.first().unwrap().stanza_id.to_vec();
        if reply.complete {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, all);

    // Exactly the page that remains is complete; max 0 only counts (XEP-0059 §2.7).
    let last = proto::ArchiveQueryRequest {
        after: id(ROWS - 5).into(),
        ..ask("a@h", 5)
    };
    assert!(stores.archive_query(last.clone()).await.unwrap().complete);
    let four = stores
        .archive_query(proto::ArchiveQueryRequest { max: 4, ..last })
        .await
        .unwrap();
    assert!(!four.complete);
    let counted = stores.archive_query(ask("a@h", 0)).await.unwrap();
    assert_eq!(
        (counted.count, counted.rows.len(), counted.complete),
        (ROWS, 0, false)
    );
    let past = proto::ArchiveQueryRequest {
        after: id(ROWS).into(),
        ..ask("a@h", 5)
    };
    let past = stores.archive_query(past).await.unwrap();
    assert!(past.rows.is_empty() && past.complete && past.count == ROWS);
}

pub(crate) async fn archive_filters(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    append(
        &*stores,
        (1..=30).map(|counter| row("a@h", epoch, counter)).collect(),
    )
    .await;
    let query = |request| {
        let stores = Arc::clone(&stores);
        async move { stores.archive_query(request).await.unwrap() }
    };
    let all = ask("a@h", 100);
    let whole = query(all.clone()).await;
    // A page that is bounded in bytes is shorter, and says that there is more.
    for (backwards, expected) in [(false, vec![1]), (true, vec![30])] {
        let page = query(proto::ArchiveQueryRequest {
            max_bytes: 1,
            backwards,
            ..all.clone()
        })
        .await;
        assert_eq!((counters(&page), page.complete), (expected, false));
        assert_eq!(page.count, 30);
    }
    let page = query(proto::ArchiveQueryRequest {
        max_bytes: 1,
        ids: vec![id(7).into(), id(5).into()],
        ..all.clone()
    })
    .await;
    assert_eq!((counters(&page), page.complete), (vec![5], false));
    let roomy = query(proto::ArchiveQueryRequest {
        max_bytes: 1 << 20,
        ..all.clone()
    })
    .await;
    assert_eq!((roomy.rows.len(), roomy.complete), (30, true));
    assert_eq!(
        whole.rows[4],
        proto::ArchiveRow {
            fence: None,
            ..row("a@h", epoch, 5)
        }
    );

    let with = proto::ArchiveQueryRequest {
        with_bare: "peer1@example.org".into(),
        ..all.clone()
    };
    let reply = query(with.clone()).await;
    assert_eq!(
        counters(&reply),
        (1..=30).filter(|n| n % 3 == 1).collect::<Vec<_>>()
    );
    assert_eq!(reply.count, 10);
    let resource = proto::ArchiveQueryRequest {
        with_resource: "r1".into(),
        ..with.clone()
    };
    let reply = query(resource).await;
    assert_eq!(counters(&reply), [1, 7, 13, 19, 25]);
    let paged = proto::ArchiveQueryRequest {
        after: id(8).into(),
        max: 2,
        ..with.clone()
    };
    let reply = query(paged).await;
    assert_eq!(
        (counters(&reply), reply.first_index, reply.complete),
        (vec![10, 13], Some(3), false)
    );
    let nobody = proto::ArchiveQueryRequest {
        with_bare: "no@h".into(),
        ..all.clone()
    };
    let reply = query(nobody).await;
    assert!(reply.complete && reply.count == 0 && reply.rows.is_empty());

    let times = proto::ArchiveQueryRequest {
        start_ms: Some(T0 + 5_000),
        end_ms: Some(T0 + 9_000),
        ..all.clone()
    };
    let reply = query(times.clone()).await;
    assert_eq!((counters(&reply), reply.count), (vec![5, 6, 7, 8, 9], 5));
    let back = proto::ArchiveQueryRequest {
        backwards: true,
        max: 2,
        ..times
    };
    let reply = query(back).await;
    assert_eq!(
        (counters(&reply), reply.first_index, reply.complete),
        (vec![8, 9], None, false)
    );
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
    assert_eq!(
        (counters(&reply), reply.count, reply.complete),
        (vec![2, 9], 2, true)
    );
    let reply = query(proto::ArchiveQueryRequest {
        max: 1,
        ..ids(&[9, 2])
    })
    .await;
    assert!(counters(&reply) == [2] && !reply.complete);
    assert!(query(ids(&[2, 31])).await.item_not_found);
    for unknown in [
        proto::ArchiveQueryRequest {
            after: id(99).into(),
            ..all.clone()
        },
        proto::ArchiveQueryRequest {
            before: id(99).into(),
            ..all.clone()
        },
        proto::ArchiveQueryRequest {
            after: id(1).into(),
            ..ask("nobody@h", 5)
        },
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
    let replay = proto::ArchiveRow {
        counter: 9,
        at_ms: T0 + MONTH,
        ..row("a@h", epoch, 2)
    };
    let twice = row("a@h", epoch, 3);
    append(&*stores, vec![replay, twice.clone(), twice]).await;
    let reply = stores.archive_query(ask("a@h", 9)).await.unwrap();
    assert_eq!(counters(&reply), [1, 2, 3]);
    assert_eq!(reply.rows[1].at_ms, T0 + 2000, "the first one stays");
    // The same id in another archive is another row.
    append(&*stores, vec![row("b@h", epoch, 1)]).await;
    assert_eq!(stores.archive_query(ask("b@h", 9)).await.unwrap().count, 1);

    // A clock that went back, then months ahead, then back again: the order stays, and each time is
    // what the clock said.
    let times = [
        (4, T0 - MONTH),
        (5, T0 + 2 * MONTH),
        (6, T0),
        (7, T0 + 3 * MONTH),
    ];
    for (counter, at_ms) in times {
        append(
            &*stores,
            vec![proto::ArchiveRow {
                at_ms,
                ..row("a@h", epoch, counter)
            }],
        )
        .await;
    }
    let reply = stores.archive_query(ask("a@h", 99)).await.unwrap();
    assert_eq!(counters(&reply), [1, 2, 3, 4, 5, 6, 7]);
    let at: Vec<i64> = reply.rows.iter().map(|row| row.at_ms).collect();
    assert_eq!(at[3..], times.map(|(_, at_ms)| at_ms));
    // Pages follow the order, and times only select rows: a row that was written while the clock
    // was wrong is found under the wrong time, a later one under the right time.
    let since = |start_ms, max, after: Vec<u8>| proto::ArchiveQueryRequest {
        start_ms: Some(start_ms),
        end_ms: Some(T0 + 2 * MONTH),
        after: after.into(),
        ..ask("a@h", max)
    };
    let reply = stores
        .archive_query(since(T0, 2, Vec::new()))
        .await
        .unwrap();
    assert_eq!((counters(&reply), reply.count), (vec![1, 2], 5));
    let reply = stores.archive_query(since(T0, 2, id(2))).await.unwrap();
    assert_eq!((counters(&reply), reply.first_index), (vec![3, 5], Some(2)));
    let reply = stores.archive_query(since(T0, 2, id(5))).await.unwrap();
    assert_eq!((counters(&reply), reply.complete), (vec![6], true));
    let back = proto::ArchiveQueryRequest {
        backwards: true,
        ..since(T0, 3, Vec::new())
    };
    let reply = stores.archive_query(back).await.unwrap();
    assert_eq!(counters(&reply), [3, 5, 6]);
    // A page that is bounded in bytes follows the order, too: the first row does not fill it.
    let large = proto::ArchiveRow {
        stanza: Some(stanza(&"x".repeat(9000))),
        ..row("f@h", epoch, 2)
    };
    let small = proto::ArchiveRow {
        at_ms: T0 + MONTH,
        ..row("f@h", epoch, 1)
    };
    append(&*stores, vec![small, large, row("f@h", epoch, 3)]).await;
    let bounded = proto::ArchiveQueryRequest {
        max_bytes: 5000,
        ..ask("f@h", 9)
    };
    let reply = stores.archive_query(bounded).await.unwrap();
    assert_eq!((counters(&reply), reply.complete), (vec![1, 2], false));
    // A small step back is levelled out: a query from the time of the last row on misses nothing.
    for (counter, at_ms) in [(1, T0 + 5000), (2, T0 + 4990)] {
        let row = proto::ArchiveRow {
            at_ms,
            ..row("e@h", epoch, counter)
        };
        append(&*stores, vec![row]).await;
    }
    let reply = stores.archive_query(ask("e@h", 9)).await.unwrap();
    let at: Vec<i64> = reply.rows.iter().map(|row| row.at_ms).collect();
    assert_eq!(at, [T0 + 5000, T0 + 5000]);

    // A row that comes late takes its place by (epoch, counter), and a time near those of its
    // neighbours.
    append(&*stores, vec![row("c@h", epoch, 10), row("c@h", epoch, 20)]).await;
    let late = proto::ArchiveRow {
        at_ms: T0 + 21_000,
        ..row("c@h", epoch, 15)
    };
    append(&*stores, vec![late]).await;
    let reply = stores.archive_query(ask("c@h", 9)).await.unwrap();
    assert_eq!(counters(&reply), [10, 15, 20]);
    assert!(reply.rows.is_sorted_by_key(|row| row.at_ms), "{reply:?}");

    // A defect of one caller does not touch another's rows.
    let collision = proto::ArchiveRow {
        stanza_id: id(77).into(),
        ..row("c@h", epoch, 15)
    };
    let (bad, good) = tokio::join!(
        stores.archive_append(proto::ArchiveAppendRequest {
            rows: vec![collision]
        }),
        stores.archive_append(proto::ArchiveAppendRequest {
            rows: vec![row("d@h", epoch, 1)]
        }),
    );
    assert!(matches!(bad, Err(StoreError::Invalid(_))), "{bad:?}");
    good.unwrap();
    assert_eq!(stores.archive_query(ask("d@h", 9)).await.unwrap().count, 1);
    let short = proto::ArchiveRow {
        stanza_id: vec![1].into(),
        ..row("c@h", epoch, 30)
    };
    let short = stores
        .archive_append(proto::ArchiveAppendRequest { rows: vec![short] })
        .await;
    assert!(matches!(short, Err(StoreError::Invalid(_))), "{short:?}");
}

pub(crate) async fn archive_moves(stores: Arc<dyn Stores>) {
    const MONTH: i64 = 31 * 86_400_000;
    let epoch = own(&*stores).await;
    let before = |counter| proto::ArchiveRow {
        epoch: epoch - 1,
        ..row("a@h", epoch, counter)
    };
    append(&*stores, vec![before(1), before(2), before(3)]).await;
    // Archived by an owner that died before it delivered it: delivered by the next, after another.
    let moved = proto::ArchiveRow {
        counter: 5,
        at_ms: T0 + MONTH,
        moves: true,
        ..row("a@h", epoch, 2)
    };
    append(&*stores, vec![row("a@h", epoch, 4), moved.clone()]).await;
    let ids = |reply: &proto::ArchiveQueryReply| -> Vec<Vec<u8>> {
        let rows = reply.rows.iter();
        rows.map(|row| row.stanza_id.to_vec()).collect()
    };
    let expected = [1, 3, 4, 2].map(|n| id(n).to_vec());
    let reply = stores.archive_query(ask("a@h", 9)).await.unwrap();
    assert_eq!((ids(&reply), reply.count), (expected.to_vec(), 4));
    assert!(reply.rows.is_sorted_by_key(|row| row.at_ms), "{reply:?}");
    assert_eq!(reply.rows[3].at_ms, T0 + MONTH);
    // Further back, never ahead, and only if it says so.
    let ahead = proto::ArchiveRow {
        counter: 3,
        ..moved.clone()
    };
    let stays = proto::ArchiveRow {
        counter: 7,
        ..row("a@h", epoch, 1)
    };
    append(&*stores, vec![ahead, stays]).await;
    let reply = stores.archive_query(ask("a@h", 9)).await.unwrap();
    assert_eq!(ids(&reply), expected);
    // In the same epoch too: an owner had archived what a session held that then ended without it.
    let again = proto::ArchiveRow {
        counter: 9,
        moves: true,
        ..row("a@h", epoch, 4)
    };
    append(&*stores, vec![again]).await;
    let expected = [1, 3, 2, 4].map(|n| id(n).to_vec());
    let reply = stores.archive_query(ask("a@h", 9)).await.unwrap();
    assert_eq!(ids(&reply), expected);
    // Both places in one batch.
    let first = row("a@h", epoch, 10);
    let then = proto::ArchiveRow {
        counter: 12,
        moves: true,
        ..first.clone()
    };
    append(&*stores, vec![first, row("a@h", epoch, 11), then]).await;
    let expected = [1, 3, 2, 4, 11, 10].map(|n| id(n).to_vec());
    let reply = stores.archive_query(ask("a@h", 9)).await.unwrap();
    assert_eq!(ids(&reply), expected);
    // A row that moves and is not there yet is appended like any other.
    let new = proto::ArchiveRow {
        counter: 13,
        stanza_id: id(9).into(),
        ..moved
    };
    append(&*stores, vec![new]).await;
    let reply = stores.archive_query(ask("a@h", 9)).await.unwrap();
    assert_eq!(reply.rows.last().unwrap().stanza_id, id(9).to_vec());
}

pub(crate) async fn maintenance(stores: Arc<dyn Stores>) {
    let epoch = own(&*stores).await;
    // In 2023 and in the far future, so that the test does not depend on the date.
    let old = proto::ArchiveRow {
        at_ms: 1_680_000_000_000,
        ..row("a@h", epoch, 1)
    };
    let new = proto::ArchiveRow {
        at_ms: 4_000_000_000_000,
        ..row("a@h", epoch, 2)
    };
    append(&*stores, vec![old.clone(), new.clone()]).await;
    append(
        &*stores,
        vec![proto::ArchiveRow {
            archive: "b@h".into(),
            ..old.clone()
        }],
    )
    .await;
    let keep = proto::MaintainRequest {
        archive_keep_days: 0,
        outcome_keep_s: 0,
    };
    stores.maintain(keep).await.unwrap();
    assert_eq!(
        stores.archive_query(ask("a@h", 9)).await.unwrap().count,
        2,
        "kept for ever"
    );
    let keep = proto::MaintainRequest {
        archive_keep_days: 30,
        outcome_keep_s: 0,
    };
    stores.maintain(keep).await.unwrap();
    assert_eq!(
        counters(&stores.archive_query(ask("a@h", 9)).await.unwrap()),
        [2]
    );
    assert_eq!(stores.archive_query(ask("b@h", 9)).await.unwrap().count, 0);
    let gone = proto::ArchiveQueryRequest {
        ids: vec![id(1).into()],
        ..ask("a@h", 9)
    };
    assert!(stores.archive_query(gone).await.unwrap().item_not_found);
    // Appending goes on, also into a month that was dropped.
    append(
        &*stores,
        vec![proto::ArchiveRow {
            archive: "c@h".into(),
            ..old
        }],
    )
    .await;
    assert_eq!(stores.archive_query(ask("c@h", 9)).await.unwrap().count, 1);
}
