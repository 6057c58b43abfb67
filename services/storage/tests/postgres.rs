//! What is PostgreSQL's own: replicas that start at once, outages, query plans.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;
use sestina_storage::{Storage, StorageConfig};
use sestina_testkit::{Postgres, PostgresOptions};
use sqlx::Connection;
use support::*;

fn impatient(url: &str) -> StorageConfig {
    StorageConfig {
        acquire_timeout: Duration::from_millis(500),
        statement_timeout: Duration::from_millis(500),
        ..StorageConfig::new(url)
    }
}

/// Repeats a call while the database is unavailable, and returns its reply.
async fn while_away<T>(call: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let start = Instant::now();
    loop {
        match call().await {
            Ok(reply) => return reply,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it never came back"
        );
    }
}

/// Waits until the database is back.
async fn back(storage: &Storage) -> proto::ClusterSecretReply {
    while_away(async || storage.cluster_secret(proto::Empty {}).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_start_at_once_and_share_archives() {
    let server = Postgres::start().unwrap();
    let url = server.create_database("replicas").unwrap();
    let opening: Vec<_> = (0..4)
        .map(|_| {
            let config = StorageConfig::new(&url);
            tokio::spawn(async move { Storage::open(config).await.unwrap() })
        })
        .collect();
    let mut replicas = Vec::new();
    for storage in opening {
        replicas.push(storage.await.unwrap());
    }
    let epoch = own(&*replicas[0]).await;
    // All append to the same archives at once: no deadlock, nothing lost, nothing twice.
    let writers: Vec<_> = (0..40_u64)
        .map(|n| {
            let storage = Arc::clone(&replicas[n as usize % 4]);
            tokio::spawn(async move {
                let rows = (0..50).map(|m| {
                    let counter = n * 50 + m;
                    let slot = (counter % 8) as u32;
                    let archive = format!("a{}@h", counter % 11);
                    proto::ArchiveRow {
                        fence: fence(slot, epoch),
                        ..row(&archive, epoch, counter)
                    }
                });
                let rows: Vec<_> = rows.collect();
                assert!(append(&*storage, rows.clone()).await.is_empty());
                assert!(append(&*storage, rows).await.is_empty());
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for archive in 0..11 {
        let reply = replicas[3]
            .archive_query(ask(&format!("a{archive}@h"), 1000))
            .await
            .unwrap();
        let expected: Vec<u64> = (0..2000)
            .filter(|counter| counter % 11 == archive)
            .collect();
        assert_eq!(counters(&reply), expected);
        assert!(reply.rows.is_sorted_by_key(|row| row.at_ms));
    }
    for storage in replicas {
        storage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_or_killed_database_is_away_and_comes_back() {
    let mut server = Postgres::start_own(&PostgresOptions::default()).unwrap();
    let storage = Storage::open(impatient(server.url())).await.unwrap();
    let epoch = own(&*storage).await;
    let secret = back(&storage).await;
    assert!(
        append(&*storage, vec![row("a@h", epoch, 1)])
            .await
            .is_empty()
    );

    // Hung: every operation ends within its deadline, as many as there may be.
    server.suspend();
    let start = Instant::now();
    let hung: Vec<_> = (0..50_u64)
        .map(|n| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                let rows = vec![row("a@h", epoch, n + 2)];
                let append = storage.archive_append(proto::ArchiveAppendRequest { rows });
                let (append, read) = tokio::join!(append, storage.archive_query(ask("a@h", 1)));
                assert!(
                    matches!(append, Err(StoreError::Unavailable(_))),
                    "{append:?}"
                );
                assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
                let lease = storage.lease_renew(renewal(&node("x", 1), 1)).await;
                assert!(
                    matches!(lease, Err(StoreError::Unavailable(_))),
                    "{lease:?}"
                );
            })
        })
        .collect();
    for task in hung {
        task.await.unwrap();
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    server.resume();
    assert_eq!(back(&storage).await, secret);
    // Whether the hung ones were written is unknown; repeating them settles it, each once.
    let rows = (0..50).map(|n| row("a@h", epoch, n + 2)).collect();
    repeat(&storage, rows).await;
    assert_eq!(
        storage.archive_query(ask("a@h", 0)).await.unwrap().count,
        51
    );

    // Killed: the same, after a restart.
    server.kill9();
    let dead = storage.cluster_secret(proto::Empty {}).await;
    assert!(matches!(dead, Err(StoreError::Unavailable(_))), "{dead:?}");
    server.restart().unwrap();
    assert_eq!(back(&storage).await, secret);
    assert_eq!(
        storage.archive_query(ask("a@h", 0)).await.unwrap().count,
        51
    );
    repeat(&storage, vec![row("a@h", epoch, 99)]).await;
    storage.close().await;
}

/// Appends as the router does: again while storage is unavailable.
async fn repeat(storage: &Storage, rows: Vec<proto::ArchiveRow>) {
    let append = async || {
        let request = proto::ArchiveAppendRequest { rows: rows.clone() };
        storage.archive_append(request).await
    };
    assert!(while_away(append).await.fenced_slots.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_do_not_wait_for_archives() {
    let server = Postgres::start().unwrap();
    let url = server.create_database("lanes").unwrap();
    let storage = Storage::open(StorageConfig::new(&url)).await.unwrap();
    let epoch = own(&*storage).await;
    append(&*storage, vec![row("a@h", epoch, 1)]).await;
    // Stops all archive traffic for as long as the session lives.
    let blocker = std::thread::spawn({
        let url = url.clone();
        move || {
            let sql = "BEGIN; LOCK TABLE archive IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(2)";
            std::process::Command::new("psql")
                .args([&url, "-qAtc", sql])
                .status()
                .unwrap()
        }
    });
    let query = || storage.archive_query(ask("a@h", 1));
    while tokio::time::timeout(Duration::from_millis(300), query())
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    let queries: Vec<_> = (0..30)
        .map(|_| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move { storage.archive_query(ask("a@h", 1)).await })
        })
        .collect();
    let start = Instant::now();
    renew(&*storage, &node("x", 1), 4000).await;
    assert!(
        start.elapsed() < Duration::from_millis(1000),
        "{:?}",
        start.elapsed()
    );
    for query in queries {
        drop(query.await.unwrap());
    }
    assert!(blocker.join().unwrap().success());
    storage.close().await;
}

/// A write that has passed its fence holds a claim of its slot up until it is committed. The write
/// is stopped in between by a lock on a table that it needs next.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_the_writes_under_way() {
    let server = Postgres::start().unwrap();
    let url = server.create_database("fences").unwrap();
    let config = StorageConfig {
        statement_timeout: Duration::from_secs(60),
        ..StorageConfig::new(&url)
    };
    let storage = Storage::open(config).await.unwrap();
    let epoch = own(&*storage).await;
    // So that the month is there: making one repeats the whole write.
    append(&*storage, vec![row("a@h", epoch, 0)]).await;
    let mut blocker = sqlx::PgConnection::connect(&url).await.unwrap();
    let mut watcher = sqlx::PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; LOCK TABLE archive_peer IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut blocker).await.unwrap();
    let write = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move { append(&*storage, vec![row("a@h", epoch, 1)]).await }
    });
    waiting(&mut watcher, "relation").await;
    let next = node("next", 2);
    let step = proto::SlotMove {
        from_name: "owner".into(),
        from_incarnation: 1,
        from_epoch: epoch,
        ..first_move(0, &next)
    };
    let claimed = tokio::spawn({
        let storage = Arc::clone(&storage);
        let request = claim(vec![step], &node("owner", 1));
        async move {
            let reply = storage.slot_claim(request).await.unwrap();
            let seen = storage.archive_query(ask("a@h", 0)).await.unwrap().count;
            (reply.refused_slots, seen)
        }
    });
    waiting(&mut watcher, "advisory").await;
    assert!(!claimed.is_finished() && !write.is_finished());
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut blocker)
        .await
        .unwrap();
    assert!(write.await.unwrap().is_empty(), "it was first");
    assert_eq!(claimed.await.unwrap(), (vec![], 2), "the new owner sees it");
    assert_eq!(
        append(&*storage, vec![row("a@h", epoch, 2)]).await,
        [0],
        "too late"
    );
    storage.close().await;
}

/// Waits until a session of this database waits for a lock of that type.
async fn waiting(watcher: &mut sqlx::PgConnection, lock: &str) {
    let start = Instant::now();
    loop {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = $1 AND database =
             (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .bind(lock)
        .fetch_one(&mut *watcher)
        .await
        .unwrap();
        if count > 0 {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "no session waits for a lock of type {lock}"
        );
    }
}

/// A page reads the months it needs through the index, in order, and sorts nothing.
#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_the_index() {
    let server = Postgres::start().unwrap();
    let url = server.create_database("plans").unwrap();
    let storage = Storage::open(StorageConfig::new(&url)).await.unwrap();
    let epoch = own(&*storage).await;
    for month in 0..6 {
        let rows = (0..500).map(|n| {
            let counter = month * 500 + n;
            let at_ms = T0 + month as i64 * 31 * 86_400_000 + n as i64;
            proto::ArchiveRow {
                at_ms,
                ..row("a@h", epoch, counter)
            }
        });
        append(&*storage, rows.collect()).await;
    }
    storage.close().await;
    let explain = format!(
        "ANALYZE; EXPLAIN SELECT * FROM archive a WHERE a.archive = 1
         AND (a.epoch, a.counter) > (0, 0)
         AND (a.epoch, a.counter) < (9e18::BIGINT, 0)
         AND a.at_ms >= {T0} AND a.at_ms <= 9e18::BIGINT
         ORDER BY a.epoch, a.counter LIMIT 50"
    );
    let output = std::process::Command::new("psql")
        .args([&url, "-qAtc", &explain])
        .output()
        .unwrap();
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(
        plan.contains("Append") && plan.contains("Index Scan"),
        "{plan}"
    );
    assert!(
        !plan.contains("Sort  (") && !plan.contains("Seq Scan"),
        "{plan}"
    );
}
