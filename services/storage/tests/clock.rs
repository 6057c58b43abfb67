//! The clock of the database is set back, which is the same as ends that lie too far ahead.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_api::store::Stores;
use sestina_proto as proto;
use sestina_testkit::Postgres;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};
use support::{claim, first_move, node, open, renew};

/// Puts the ends of all leases and of the planner's an hour ahead.
const SET_BACK: [&str; 2] = [
    "UPDATE lease SET expires_ms = expires_ms + 3600000",
    "UPDATE planner SET expires_ms = expires_ms + 3600000",
];

/// So long may leases of `TTL_MS` last here: machines are slow.
const LIMIT: Duration = Duration::from_secs(20);
const TTL_MS: u32 = 200;

/// After a step back a lease lasts no longer than its term, and the planner's part neither.
async fn clock_set_back(stores: Arc<dyn Stores>, set_back: impl AsyncFn()) {
    let (dead, heir) = (node("dead", 1), node("heir", 2));
    renew(&*stores, &dead, TTL_MS).await;
    renew(&*stores, &heir, 60_000).await;
    let plan = |moves, by: &proto::Node| proto::SlotClaimRequest {
        planner_ttl_ms: TTL_MS,
        ..claim(moves, by)
    };
    let first = plan(vec![first_move(0, &dead)], &dead);
    assert!(stores.slot_claim(first).await.unwrap().planner);

    set_back().await;
    let list = stores.lease_list(proto::Empty {}).await.unwrap().leases;
    let of = |name: &str| {
        let lease = list
            .iter()
            .find(|l| l.node.as_ref().is_some_and(|n| n.name == name));
        lease.unwrap().remaining_ms
    };
    assert!(of("dead") <= TTL_MS, "{} ms are left", of("dead"));
    assert!(
        (30_000..=60_000).contains(&of("heir")),
        "{} ms are left",
        of("heir")
    );

    let taken = proto::SlotMove {
        from_name: "dead".into(),
        from_incarnation: 1,
        from_epoch: 1,
        ..first_move(0, &heir)
    };
    let began = Instant::now();
    loop {
        // As a planner does, which asks for the leases first.
        stores.lease_list(proto::Empty {}).await.unwrap();
        let reply = stores
            .slot_claim(plan(vec![taken.clone()], &heir))
            .await
            .unwrap();
        if reply.planner && reply.refused_slots.is_empty() {
            break;
        }
        assert!(began.elapsed() < LIMIT, "nothing fails over: {reply:?}");
    }
    assert!(
        renew(&*stores, &dead, TTL_MS).await.lost,
        "the claim has ended the lease"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_back_on_sqlite_delays_by_one_term_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("a.db").display());
    let storage = open(&url).await;
    clock_set_back(storage.clone(), async || {
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        for statement in SET_BACK {
            connection.execute(statement).await.unwrap();
        }
    })
    .await;
    storage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_back_on_postgres_delays_by_one_term_at_most() {
    let server = Postgres::start().unwrap();
    let url = server.create_database("clock").unwrap();
    let storage = open(&url).await;
    clock_set_back(storage.clone(), async || {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for statement in SET_BACK {
            connection.execute(statement).await.unwrap();
        }
    })
    .await;
    storage.close().await;
}
