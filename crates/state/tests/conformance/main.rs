//! One suite for all state stores and lease authorities: memory, one Redis, Sentinel, Redis
//! Cluster. Properties of a single kind (fail-over, redirection) have tests below; connections over
//! TLS, and their refusals, are in `tls`.
#![allow(clippy::unwrap_used, missing_docs)]

mod late;
mod leases;
mod state_store;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use sestina_api::lease::{LeaseAuthority, Renewal};
use sestina_api::state_store::{Found, Loading, ReplicaOp, Stamp, StateStore, StateStoreError};
use sestina_runtime::clock::BootClock;
use sestina_state::{MemoryLeases, MemoryStateStore, RedisConfig, RedisLeases, RedisStateStore};
use sestina_testkit::{Redis, RedisCluster, RedisSentinel, Reply};
use tokio::time::{Instant, sleep};

use leases::*;
use state_store::*;

#[tokio::test]
async fn memory() {
    // The next test runs this one with a guard off.
    sestina_runtime::faults_from_env().unwrap();
    state_store_suite(&MemoryStateStore::new()).await;
    lease_suite(&MemoryLeases::new(Arc::new(BootClock))).await;
}

#[test]
fn the_guards_are_missed() {
    for guard in ["incarnation-secret", "base-version"] {
        let text = sestina_runtime::mutation::test_without(guard, "memory").unwrap();
        assert!(text.contains("1 failed"), "{guard}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_redis() {
    let redis = Redis::start().unwrap();
    let config = RedisConfig::single(redis.url());
    state_store_suite(&RedisStateStore::connect(&config).unwrap()).await;
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;
}

/// A program that knows one staging place only does not remove what is left in another.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_in_a_staging_place_expires_and_objects_do_not() {
    let redis = Redis::start_own().unwrap();
    let state_store = RedisStateStore::connect(&RedisConfig::single(redis.url())).unwrap();
    objects_that_are_staged_together_change_together(&state_store).await;
    let left = |key: &str| {
        let key = format!("{{s{STAGED_TOGETHER}}}:{key}");
        sestina_testkit::command(redis.port(), &["TTL", &key]).unwrap()
    };
    assert!(matches!(left("p:1"), Reply::Int(1..=3600)));
    assert_eq!(left("p:2"), Reply::Int(-2), "used up");
    for object in ["o:r:a", "o:r:b", "o:r:d"] {
        assert_eq!(left(object), Reply::Int(-1), "{object} does not expire");
    }
}

/// The clock of Redis is set back: the end of the lease is then too far in the future.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lasts_no_longer_than_its_term_when_the_clock_is_set_back() {
    let redis = Redis::start_own().unwrap();
    let leases = RedisLeases::connect(&RedisConfig::single(redis.url())).unwrap();
    let (dead, alive) = (held(&node("dead", 1)), held(&node("alive", 2)));
    let term = Duration::from_millis(500);
    assert_eq!(leases.renew(&dead, term).await, Ok(Renewal::Renewed));
    assert_eq!(leases.renew(&alive, TTL).await, Ok(Renewal::Renewed));
    for name in ["dead", "alive"] {
        let key = format!("{{lease}}:h:{name}");
        let set = sestina_testkit::command(redis.port(), &["PEXPIRE", &key, "3600000"]);
        assert_eq!(set.unwrap(), sestina_testkit::Reply::Int(1));
    }
    let began = Instant::now();
    for (node, left) in leases.fresh().await.unwrap() {
        let longest = if node == dead.node { term } else { TTL };
        assert!(left <= longest, "{} has {left:?} left", node.name);
    }
    while fresh(&leases).await.contains(&dead.node) {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(leases.mark_ended(&dead.node).await.unwrap());
    assert_eq!(fresh(&leases).await, [alive.node]);
}

/// State of a later version is neither read nor changed, and the error says why.
#[tokio::test(flavor = "multi_thread")]
async fn state_in_a_later_format_is_refused_by_name() {
    let redis = Redis::start_own().unwrap();
    let config = RedisConfig {
        prefix: "later:".to_owned(),
        ..RedisConfig::single(redis.url())
    };
    let write = |format: &str| {
        let key = "later:{lease}:format";
        sestina_testkit::command(redis.port(), &["SET", key, format]).unwrap()
    };
    write("2");
    let (leases, state_store) = (
        RedisLeases::connect(&config).unwrap(),
        RedisStateStore::connect(&config).unwrap(),
    );
    let me = held(&node("router-0", 1));
    let refused = leases.renew(&me, TTL).await.unwrap_err().to_string();
    assert!(
        refused.contains("in format 2") && refused.contains("up to 1"),
        "{refused}"
    );
    let written = put(&state_store, 7, at(1, 1), replace("x", &[])).await;
    assert!(
        matches!(&written, Err(StateStoreError::Unavailable(why)) if why.contains("in format 2")),
        "{written:?}"
    );
    // Once the state is put back, it is used without a restart.
    write("1");
    let began = Instant::now();
    while leases.renew(&me, TTL).await != Ok(Renewal::Renewed) {
        assert!(began.elapsed() < Duration::from_secs(20), "never used");
        sleep(Duration::from_millis(20)).await;
    }
    let key = "fresh:{lease}:format";
    let config = RedisConfig {
        prefix: "fresh:".to_owned(),
        ..config
    };
    let leases = RedisLeases::connect(&config).unwrap();
    assert_eq!(leases.renew(&me, TTL).await, Ok(Renewal::Renewed));
    let noted = sestina_testkit::command(redis.port(), &["GET", key]).unwrap();
    assert_eq!(noted, Reply::Text("1".to_owned()), "the format in use");
}

/// Two clusters on one Redis have separate state.
#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_on_one_redis_do_not_touch_each_other() {
    let redis = Redis::start().unwrap();
    let config = |prefix: &str| RedisConfig {
        prefix: prefix.to_owned(),
        ..RedisConfig::single(redis.url())
    };
    let (a, b) = (config("a1:"), config("b2:"));
    let (ours, theirs) = (
        RedisLeases::connect(&a).unwrap(),
        RedisLeases::connect(&b).unwrap(),
    );
    let me = held(&node("router-0", 1));
    assert_eq!(ours.renew(&me, TTL).await, Ok(Renewal::Renewed));
    assert_eq!(fresh(&theirs).await, []);
    assert!(
        theirs.mark_ended(&me.node).await.unwrap(),
        "it is none of theirs"
    );
    assert_eq!(ours.renew(&me, TTL).await, Ok(Renewal::Renewed));
    let other = held(&node("router-0", 2));
    assert_eq!(theirs.renew(&other, TTL).await, Ok(Renewal::Renewed));
    assert_eq!(fresh(&ours).await, std::slice::from_ref(&me.node));
    theirs.release(&other).await.unwrap();
    assert_eq!(fresh(&ours).await, [me.node]);

    let (ours, theirs) = (
        RedisStateStore::connect(&a).unwrap(),
        RedisStateStore::connect(&b).unwrap(),
    );
    let written = eventually(&ours, 7, replace("x", &[])).await;
    assert_eq!(contents(&theirs, 7, 9).await, []);
    assert_eq!(ours.epochs(&[7]).await, Ok(vec![1]));
    assert_eq!(theirs.epochs(&[7]).await, Ok(vec![9]));
    assert_eq!(contents(&ours, 7, 1).await, [object("x", written, &[])]);
}

/// A hash slot moves: the redirection is followed, and the objects must be rewritten.
async fn follows_a_hash_slot(state_store: &RedisStateStore, redis: &RedisCluster) {
    put(state_store, 500, at(1, 1), replace("a", &[]))
        .await
        .unwrap();
    redis.move_slot_of("{s500}:e").unwrap();
    let lost = put(state_store, 500, at(1, 2), update("a", at(1, 1), &[], &[])).await;
    assert_eq!(stale(lost), ["a"]);
    put(state_store, 500, at(1, 3), replace("a", &[]))
        .await
        .unwrap();
    assert_eq!(
        contents(state_store, 500, 1).await,
        [object("a", at(1, 3), &[])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster() {
    let mut redis = RedisCluster::start().unwrap();
    let config = RedisConfig::cluster(redis.urls());
    let state_store = RedisStateStore::connect(&config).unwrap();
    state_store_suite(&state_store).await;
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;

    follows_a_hash_slot(&state_store, &redis).await;

    let port = |node: usize| redis.ports()[node];
    // One node hangs: slots on the others are served, those on it are unavailable in time.
    let holder = |slot: u16| {
        let asked = (0..3).find(|node| {
            let key = format!("{{s{slot}}}:e");
            sestina_testkit::command(port(*node), &["GET", &key]).is_ok()
        });
        asked.unwrap()
    };
    let hung: u16 = (600..).find(|slot| holder(*slot) == 0).unwrap();
    let well: u16 = (600..).find(|slot| holder(*slot) == 1).unwrap();
    redis.suspend(0);
    let began = Instant::now();
    let away = put(&state_store, hung, at(1, 1), replace("a", &[])).await;
    assert!(
        matches!(away, Err(StateStoreError::Unavailable(_))),
        "{away:?}"
    );
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
    let op = replace("a", &[]);
    put(&state_store, well, at(1, 1), op).await.unwrap();
    redis.resume(0);
    eventually(&state_store, hung, replace("a", &[])).await;

    // One node dies and comes back empty.
    redis.kill9(0);
    let op = replace("a", &[]);
    put(&state_store, well, at(1, 2), op).await.unwrap();
    let away = load(&state_store, hung, 1).await;
    assert!(
        matches!(away, Err(StateStoreError::Unavailable(_))),
        "{away:?}"
    );
    redis.restart(0).unwrap();
    eventually(&state_store, hung, replace("a", &[])).await;
}

async fn put(
    state_store: &dyn StateStore,
    slot: u16,
    at: Stamp,
    op: ReplicaOp,
) -> Result<Found, StateStoreError> {
    state_store.apply(slot, at, vec![op]).await
}

/// Applies until the store is available again, each time with another number; returns the number
/// that was applied.
async fn eventually(state_store: &dyn StateStore, slot: u16, op: ReplicaOp) -> Stamp {
    eventually_from(state_store, slot, op, 1000).await
}

/// The same, with numbers from `first` on.
async fn eventually_from(
    state_store: &dyn StateStore,
    slot: u16,
    op: ReplicaOp,
    first: u64,
) -> Stamp {
    let end = Instant::now() + Duration::from_secs(30);
    for n in first.. {
        match put(state_store, slot, at(1, n), op.clone()).await {
            Err(StateStoreError::Unavailable(_)) if Instant::now() < end => {
                sleep(Duration::from_millis(20)).await;
            }
            other => {
                other.unwrap();
                return at(1, n);
            }
        }
    }
    unreachable!("there are numbers enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_failover() {
    let mut redis = RedisSentinel::start().unwrap();
    let config = RedisConfig::sentinel(RedisSentinel::MASTER, redis.urls());
    let state_store = RedisStateStore::connect(&config).unwrap();
    let leases = RedisLeases::connect(&config).unwrap();
    state_store_suite(&state_store).await;
    lease_suite(&leases).await;

    // Writes that the master had not replicated are lost with it: the owner sees that its last
    // write is not known, and that the base is stale.
    let before = redis.master_port().unwrap();
    let op = replace("a", &[("x", "1")]);
    put(&state_store, 700, at(1, 1), op).await.unwrap();
    let replicated = sestina_testkit::command(before, &["WAIT", "1", "5000"]).unwrap();
    assert_eq!(replicated, sestina_testkit::Reply::Int(1));
    let replica = redis.replica_port().unwrap();
    sestina_testkit::command(replica, &["REPLICAOF", "NO", "ONE"]).unwrap();
    let op = update("a", at(1, 1), &[("x", "2")], &[]);
    assert_eq!(put(&state_store, 700, at(1, 2), op).await, Ok(found(1, 1)));
    redis.kill9().unwrap();
    redis.wait_failover(before).unwrap();
    eventually(&state_store, 701, replace("b", &[])).await;
    assert_eq!(
        put(&state_store, 700, at(1, 3), update("a", at(1, 2), &[], &[])).await,
        Err(StateStoreError::Stale {
            found: found(1, 1),
            objects: vec!["a".to_owned()]
        })
    );
    assert_eq!(
        contents(&state_store, 700, 1).await,
        [object("a", at(1, 1), &[("x", "1")])]
    );
    let op = replace("a", &[]);
    put(&state_store, 700, at(1, 4), op).await.unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while leases.renew(&held(&node("z", 1)), TTL).await != Ok(Renewal::Renewed) {
        assert!(Instant::now() < end, "leases do not come back");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_start_does_not_matter() {
    let mut redis = Redis::start_own().unwrap();
    redis.kill9();
    let config = RedisConfig::single(redis.url());
    let state_store = RedisStateStore::connect(&config).unwrap();
    let leases = RedisLeases::connect(&config).unwrap();
    let away = load(&state_store, 1, 1).await;
    assert!(
        matches!(away, Err(StateStoreError::Unavailable(_))),
        "{away:?}"
    );
    assert!(leases.fresh().await.is_err());
    redis.restart().unwrap();
    eventually(&state_store, 1, replace("a", &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_redis_is_away_in_time_and_comes_back() {
    let redis = Redis::start_own().unwrap();
    let config = RedisConfig::single(redis.url());
    let state_store = RedisStateStore::connect(&config).unwrap();
    let leases = RedisLeases::connect(&config).unwrap();
    let op = replace("a", &[]);
    put(&state_store, 1, at(1, 1), op).await.unwrap();
    leases.renew(&held(&node("a", 1)), TTL).await.unwrap();
    redis.suspend();
    for n in 2..8 {
        let began = Instant::now();
        let away = put(&state_store, 1, at(1, n), update("a", at(1, 1), &[], &[])).await;
        assert!(
            matches!(away, Err(StateStoreError::Unavailable(_))),
            "{away:?}"
        );
        assert!(began.elapsed() < config.state_store_timeout + Duration::from_millis(400));
        let began = Instant::now();
        assert!(leases.renew(&held(&node("a", 1)), TTL).await.is_err());
        assert!(began.elapsed() < config.lease_timeout + Duration::from_millis(400));
    }
    // By now the store is known to be unavailable, so no call waits for the limit.
    let began = Instant::now();
    let many: Vec<_> = (0..10).map(|_| state_store.epochs(&[1])).collect();
    for epochs in many {
        assert!(epochs.await.is_err());
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    redis.resume();
    let last = eventually(&state_store, 1, replace("a", &[("x", "9")])).await;
    assert_eq!(
        contents(&state_store, 1, 1).await,
        [object("a", last, &[("x", "9")])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_flush_deltas_are_stale() {
    let redis = Redis::start_own().unwrap();
    let state_store = RedisStateStore::connect(&RedisConfig::single(redis.url())).unwrap();
    let both = vec![replace("a", &[]), replace("b", &[])];
    state_store.apply(1, at(7, 1), both).await.unwrap();
    let evict = ["DEL", "{s1}:o:b"];
    sestina_testkit::command(redis.port(), &evict).unwrap();
    let evicted = put(&state_store, 1, at(7, 2), update("b", at(7, 1), &[], &[])).await;
    assert_eq!(stale(evicted), ["b"]);
    let contents_before = contents(&state_store, 1, 7).await;
    assert_eq!(contents_before, [object("a", at(7, 1), &[])]);
    for flush in [["FLUSHALL", "SYNC"], ["SCRIPT", "FLUSH"]] {
        sestina_testkit::command(redis.port(), &flush).unwrap();
    }
    assert_eq!(
        put(&state_store, 1, at(7, 3), update("a", at(7, 1), &[], &[])).await,
        Err(StateStoreError::Stale {
            found: found(0, 0),
            objects: vec!["a".to_owned()]
        })
    );
    assert_eq!(state_store.epochs(&[1]).await.unwrap(), [7]);
    let op = replace("a", &[]);
    put(&state_store, 1, at(7, 4), op).await.unwrap();
    assert_eq!(
        contents(&state_store, 1, 7).await,
        [object("a", at(7, 4), &[])]
    );
}

/// Another server takes over while a slot is loaded: the parts do not belong together.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_sees_that_the_store_has_changed() {
    let redis = Redis::start_own().unwrap();
    let state_store = RedisStateStore::connect(&RedisConfig::single(redis.url())).unwrap();
    let many = (0..100).map(|n| replace(&format!("s:{n:03}"), &[("n", "1")]));
    state_store
        .apply(1, at(1, 1), many.collect())
        .await
        .unwrap();
    let mut loading = Loading::new(state_store.list(1, at(2, 0)).await.unwrap());
    let (names, after) = loading.next().unwrap();
    let first = state_store.load_part(1, names, after).await.unwrap();
    assert!(loading.take(first, false));
    // The state of a replica that did not get the new epoch.
    let older = ["SET", "{s1}:e", "1 1 0 0 0"];
    sestina_testkit::command(redis.port(), &older).unwrap();
    let (names, after) = loading.next().unwrap();
    let second = state_store.load_part(1, names, after).await.unwrap();
    assert!(!loading.take(second, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slots_commit_at_once() {
    let redis = Redis::start().unwrap();
    let state_store =
        Arc::new(RedisStateStore::connect(&RedisConfig::single(redis.url())).unwrap());
    let mut commits = tokio::task::JoinSet::new();
    for slot in 0..2000 {
        let state_store = state_store.clone();
        commits.spawn(async move {
            put(&*state_store, slot, at(1, 1), replace("a", &[("x", "1")])).await
        });
    }
    while let Some(commit) = commits.join_next().await {
        commit.unwrap().unwrap();
    }
    let slots: Vec<u16> = (0..2000).collect();
    assert!(
        state_store
            .epochs(&slots)
            .await
            .unwrap()
            .iter()
            .all(|epoch| *epoch == 1)
    );
}
