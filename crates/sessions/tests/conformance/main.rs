//! One suite for all shadow stores and lease authorities: memory, one Redis, Sentinel, Redis
//! Cluster. What only some of them can do (fail over, redirect) has tests of its own below; what
//! is the same over TLS, and what TLS refuses, is in `tls`.
#![allow(clippy::unwrap_used, missing_docs)]

mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sestina_api::lease::{LeaseAuthority, Renewal};
use sestina_api::shadow::{Shadow, ShadowError, ShadowObject, ShadowOp};
use sestina_proto as proto;
use sestina_runtime::clock::BootClock;
use sestina_sessions::{MemoryLeases, MemoryShadow, RedisConfig, RedisLeases, RedisShadow};
use sestina_testkit::{Redis, RedisCluster, RedisSentinel};
use tokio::time::{Instant, sleep};

type Fields = Vec<(String, Bytes)>;

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), own(value)))
        .collect()
}

fn replace(object: &str, version: u64, pairs: &[(&str, &str)]) -> ShadowOp {
    ShadowOp::Replace {
        object: object.into(),
        version,
        fields: fields(pairs),
    }
}

fn update(object: &str, base: u64, set: &[(&str, &str)], remove: &[&str]) -> ShadowOp {
    let remove = remove.iter().map(|field| (*field).to_owned()).collect();
    ShadowOp::Update {
        object: object.into(),
        base,
        set: fields(set),
        remove,
    }
}

fn delete(object: &str) -> ShadowOp {
    ShadowOp::Delete {
        object: object.into(),
    }
}

fn stale(objects: &[&str]) -> Result<(), ShadowError> {
    Err(ShadowError::Stale(
        objects.iter().map(|object| (*object).to_owned()).collect(),
    ))
}

/// The slot's objects in order, each with its fields in order.
async fn contents(shadow: &dyn Shadow, slot: u16, epoch: u64) -> Vec<ShadowObject> {
    let mut objects = shadow.load(slot, epoch).await.unwrap();
    objects.iter_mut().for_each(|object| object.fields.sort());
    objects.sort_by(|a, b| a.object.cmp(&b.object));
    objects
}

fn object(name: &str, version: u64, pairs: &[(&str, &str)]) -> ShadowObject {
    ShadowObject {
        object: name.into(),
        version,
        fields: fields(pairs),
    }
}

async fn shadow_suite(shadow: &dyn Shadow) {
    changes_are_atomic_and_versioned(shadow).await;
    epochs_only_rise(shadow).await;
    sizes_and_bytes(shadow).await;
    slots_do_not_touch(shadow).await;
}

async fn changes_are_atomic_and_versioned(shadow: &dyn Shadow) {
    let slot = 1;
    assert_eq!(shadow.load(slot, 1).await.unwrap(), []);
    assert_eq!(
        shadow
            .apply(slot, 1, vec![update("r:a", 0, &[], &[])])
            .await,
        stale(&["r:a"])
    );
    let first = vec![
        replace("r:a", 5, &[("x", "1"), ("y", "2"), ("z", "3")]),
        replace("s:b", 1, &[]),
        delete("s:never"),
    ];
    shadow.apply(slot, 1, first).await.unwrap();
    let expected = [
        object("r:a", 5, &[("x", "1"), ("y", "2"), ("z", "3")]),
        object("s:b", 1, &[]),
    ];
    assert_eq!(contents(shadow, slot, 1).await, expected);

    // One stale delta refuses all of them, in whatever place.
    let mixed = vec![
        replace("s:c", 1, &[("new", "1")]),
        update("r:a", 5, &[("x", "9")], &[]),
        update("s:b", 7, &[("x", "9")], &[]),
        delete("r:a"),
        update("s:gone", 1, &[], &[]),
    ];
    assert_eq!(
        shadow.apply(slot, 1, mixed).await,
        stale(&["s:b", "s:gone"])
    );
    assert_eq!(contents(shadow, slot, 1).await, expected);

    // Operations see those before them in the same step.
    let chain = vec![
        update("r:a", 5, &[("x", "5")], &["y"]),
        update("r:a", 6, &[("w", "6")], &["no-such-field"]),
        delete("s:b"),
        replace("s:b", 40, &[("q", "40")]),
        update("s:b", 40, &[("q", "41")], &[]),
        replace("s:d", 1, &[("gone", "soon")]),
        delete("s:d"),
    ];
    shadow.apply(slot, 1, chain).await.unwrap();
    let expected = [
        object("r:a", 7, &[("w", "6"), ("x", "5"), ("z", "3")]),
        object("s:b", 41, &[("q", "41")]),
    ];
    assert_eq!(contents(shadow, slot, 1).await, expected);
    let after_delete = vec![delete("r:a"), update("r:a", 7, &[], &[])];
    assert_eq!(shadow.apply(slot, 1, after_delete).await, stale(&["r:a"]));

    // A replacement leaves nothing of what was there; a field set and removed at once is set.
    shadow
        .apply(slot, 1, vec![replace("r:a", 1, &[("only", "1")])])
        .await
        .unwrap();
    shadow
        .apply(slot, 1, vec![update("r:a", 1, &[("only", "2")], &["only"])])
        .await
        .unwrap();
    shadow.apply(slot, 1, vec![delete("s:b")]).await.unwrap();
    assert_eq!(
        contents(shadow, slot, 1).await,
        [object("r:a", 2, &[("only", "2")])]
    );
}

async fn epochs_only_rise(shadow: &dyn Shadow) {
    let (slot, never) = (2, 4095);
    assert_eq!(shadow.epochs(&[slot, never]).await.unwrap(), [0, 0]);
    shadow
        .apply(slot, 9, vec![replace("a", 1, &[])])
        .await
        .unwrap();
    // As text "9" is the higher one.
    shadow
        .apply(slot, 10, vec![replace("a", 2, &[])])
        .await
        .unwrap();
    let fenced = ShadowError::Fenced { known: 10 };
    assert_eq!(
        shadow.apply(slot, 9, vec![delete("a")]).await,
        Err(fenced.clone())
    );
    assert_eq!(shadow.load(slot, 9).await, Err(fenced));
    assert_eq!(shadow.load(slot, 12).await.unwrap().len(), 1);
    let fenced = ShadowError::Fenced { known: 12 };
    assert_eq!(shadow.apply(slot, 10, vec![delete("a")]).await, Err(fenced));
    assert_eq!(contents(shadow, slot, 12).await, [object("a", 2, &[])]);
    assert_eq!(shadow.epochs(&[never, slot]).await.unwrap(), [0, 12]);
    let all: Vec<u16> = (0..4096).collect();
    let epochs = shadow.epochs(&all).await.unwrap();
    assert_eq!((epochs.len(), epochs[2], epochs[4095]), (4096, 12, 0));
    // Beyond what a double holds exactly.
    shadow.apply(slot, u64::MAX - 1, vec![]).await.unwrap();
    let fenced = ShadowError::Fenced {
        known: u64::MAX - 1,
    };
    assert_eq!(shadow.apply(slot, u64::MAX - 2, vec![]).await, Err(fenced));
    let huge = (1 << 60) + 1;
    shadow
        .apply(slot, u64::MAX, vec![replace("big", huge, &[])])
        .await
        .unwrap();
    let off_by_one = shadow
        .apply(slot, u64::MAX, vec![update("big", huge - 1, &[], &[])])
        .await;
    assert_eq!(off_by_one, stale(&["big"]));
    shadow
        .apply(slot, u64::MAX, vec![update("big", huge, &[], &[])])
        .await
        .unwrap();
}

async fn sizes_and_bytes(shadow: &dyn Shadow) {
    let slot = 3;
    let odd = Bytes::from_static(b"\0\r\n\xff\xfe*3");
    let many: Fields = (0..5000)
        .map(|n| (format!("o:{n:05}"), odd.clone()))
        .collect();
    let object = "r:{curly}:stand up@x.example".to_owned();
    let op = ShadowOp::Replace {
        object: object.clone(),
        version: 1,
        fields: many.clone(),
    };
    shadow.apply(slot, 1, vec![op]).await.unwrap();
    let loaded = contents(shadow, slot, 1).await;
    assert_eq!(
        loaded,
        [ShadowObject {
            object: object.clone(),
            version: 1,
            fields: many.clone()
        }]
    );
    let remove = many
        .iter()
        .skip(1)
        .map(|(field, _)| field.clone())
        .collect();
    let op = ShadowOp::Update {
        object: object.clone(),
        base: 1,
        set: Vec::new(),
        remove,
    };
    shadow.apply(slot, 1, vec![op]).await.unwrap();
    assert_eq!(contents(shadow, slot, 1).await[0].fields, many[..1]);
    let ops = (0..300)
        .map(|n| replace(&format!("s:{n:03}"), 1, &[("n", "1")]))
        .collect();
    shadow.apply(slot, 1, ops).await.unwrap();
    assert_eq!(contents(shadow, slot, 1).await.len(), 301);
}

async fn slots_do_not_touch(shadow: &dyn Shadow) {
    for slot in [10, 11, 100, 1011] {
        let name = slot.to_string();
        shadow
            .apply(slot, 1, vec![replace("same", 1, &[("slot", &name)])])
            .await
            .unwrap();
    }
    shadow.apply(11, 1, vec![delete("same")]).await.unwrap();
    for (slot, count) in [(10, 1), (11, 0), (100, 1), (1011, 1)] {
        let name = slot.to_string();
        let expected = vec![object("same", 1, &[("slot", &name)]); count];
        assert_eq!(contents(shadow, slot, 1).await, expected);
    }
}

const TTL: Duration = Duration::from_secs(60);

fn node(name: &str, incarnation: u64) -> proto::Node {
    let role = proto::NodeRole::Router.into();
    let address = format!("{name}.example:5280");
    proto::Node {
        name: name.into(),
        incarnation,
        role,
        address,
        draining: false,
    }
}

async fn fresh(leases: &dyn LeaseAuthority) -> Vec<proto::Node> {
    let mut nodes: Vec<_> = leases
        .fresh()
        .await
        .unwrap()
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

async fn lease_suite(leases: &dyn LeaseAuthority) {
    let (a, a2, b) = (node("a", 1), node("a", 2), node("b", u64::MAX));
    assert_eq!(fresh(leases).await, []);
    assert_eq!(leases.renew(&a, TTL).await.unwrap(), Renewal::Renewed);
    assert_eq!(leases.renew(&a, TTL).await.unwrap(), Renewal::Renewed);
    assert_eq!(leases.renew(&a2, TTL).await.unwrap(), Renewal::Lost);
    assert_eq!(leases.renew(&b, TTL).await.unwrap(), Renewal::Renewed);
    assert_eq!(fresh(leases).await, [a.clone(), b.clone()]);
    for (_, remaining) in leases.fresh().await.unwrap() {
        assert!(
            remaining <= TTL && remaining > TTL - Duration::from_secs(30),
            "{remaining:?}"
        );
    }

    // The node's own news travel with its renewals.
    let draining = proto::Node {
        draining: true,
        ..b.clone()
    };
    leases.renew(&draining, TTL).await.unwrap();
    assert_eq!(fresh(leases).await, [a.clone(), draining.clone()]);

    // Fresh leases cannot be marked; ended ones can, and are never renewed then.
    assert!(!leases.mark_ended(&a).await.unwrap());
    assert_eq!(
        leases.renew(&a, Duration::from_millis(1)).await.unwrap(),
        Renewal::Renewed
    );
    while fresh(leases).await.contains(&a) {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(leases.mark_ended(&a).await.unwrap());
    assert_eq!(leases.renew(&a, TTL).await.unwrap(), Renewal::Lost);
    assert_eq!(fresh(leases).await, std::slice::from_ref(&draining));
    leases.unmark(&a).await.unwrap();
    assert_eq!(leases.renew(&a, TTL).await.unwrap(), Renewal::Renewed);

    // Given back: free for the next incarnation, and not for a late renewal.
    leases.release(&a2).await.unwrap();
    assert_eq!(
        fresh(leases).await.len(),
        2,
        "another incarnation's release ended the lease"
    );
    leases.release(&a).await.unwrap();
    assert_eq!(leases.renew(&a, TTL).await.unwrap(), Renewal::Lost);
    let a3 = node("a", 3);
    assert_eq!(leases.renew(&a3, TTL).await.unwrap(), Renewal::Renewed);
    assert!(
        leases.mark_ended(&a).await.unwrap(),
        "the former incarnation has ended"
    );
    assert_eq!(
        leases.renew(&a3, TTL).await.unwrap(),
        Renewal::Renewed,
        "its mark hit another"
    );
    assert_eq!(fresh(leases).await, [a3, draining]);
}

#[tokio::test]
async fn memory() {
    shadow_suite(&MemoryShadow::new()).await;
    lease_suite(&MemoryLeases::new(Arc::new(BootClock))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_redis() {
    let redis = Redis::start().unwrap();
    let config = RedisConfig::single(redis.url());
    shadow_suite(&RedisShadow::connect(&config).unwrap()).await;
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;
}

/// A hash slot moves: the redirection is followed, and the objects must be written anew.
async fn follows_a_hash_slot(shadow: &RedisShadow, redis: &RedisCluster) {
    shadow
        .apply(500, 1, vec![replace("a", 1, &[])])
        .await
        .unwrap();
    redis.move_slot_of("{s500}:e").unwrap();
    assert_eq!(
        shadow.apply(500, 1, vec![update("a", 1, &[], &[])]).await,
        stale(&["a"])
    );
    shadow
        .apply(500, 1, vec![replace("a", 2, &[])])
        .await
        .unwrap();
    assert_eq!(contents(shadow, 500, 1).await, [object("a", 2, &[])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster() {
    let mut redis = RedisCluster::start().unwrap();
    let config = RedisConfig::cluster(redis.urls());
    let shadow = RedisShadow::connect(&config).unwrap();
    shadow_suite(&shadow).await;
    lease_suite(&RedisLeases::connect(&config).unwrap()).await;

    follows_a_hash_slot(&shadow, &redis).await;

    let port = |node: usize| redis.ports()[node];
    // One node hangs: slots on the others are served, those on it are away in time.
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
    let away = shadow.apply(hung, 1, vec![replace("a", 1, &[])]).await;
    assert!(matches!(away, Err(ShadowError::Away(_))), "{away:?}");
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
    shadow
        .apply(well, 1, vec![replace("a", 1, &[])])
        .await
        .unwrap();
    redis.resume(0);
    eventually(&shadow, hung, replace("a", 1, &[])).await;

    // One node dies and comes back empty.
    redis.kill9(0);
    shadow
        .apply(well, 1, vec![replace("a", 2, &[])])
        .await
        .unwrap();
    assert!(matches!(
        shadow.load(hung, 1).await,
        Err(ShadowError::Away(_))
    ));
    redis.restart(0).unwrap();
    eventually(&shadow, hung, replace("a", 1, &[])).await;
}

/// Applies until it is not away any more.
async fn eventually(shadow: &dyn Shadow, slot: u16, op: ShadowOp) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match shadow.apply(slot, 1, vec![op.clone()]).await {
            Err(ShadowError::Away(_)) if Instant::now() < end => {
                sleep(Duration::from_millis(20)).await;
            }
            other => return other.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_failover() {
    let mut redis = RedisSentinel::start().unwrap();
    let config = RedisConfig::sentinel(RedisSentinel::MASTER, redis.urls());
    let shadow = RedisShadow::connect(&config).unwrap();
    let leases = RedisLeases::connect(&config).unwrap();
    shadow_suite(&shadow).await;
    lease_suite(&leases).await;

    // What the master had not replicated is lost with it: the base is stale then.
    let before = redis.master_port().unwrap();
    shadow
        .apply(700, 1, vec![replace("a", 1, &[("x", "1")])])
        .await
        .unwrap();
    let replicated = sestina_testkit::command(before, &["WAIT", "1", "5000"]).unwrap();
    assert_eq!(replicated, sestina_testkit::Reply::Int(1));
    let replica = redis.replica_port().unwrap();
    sestina_testkit::command(replica, &["REPLICAOF", "NO", "ONE"]).unwrap();
    shadow
        .apply(700, 1, vec![update("a", 1, &[("x", "2")], &[])])
        .await
        .unwrap();
    redis.kill9().unwrap();
    redis.wait_failover(before).unwrap();
    eventually(&shadow, 701, replace("b", 1, &[])).await;
    assert_eq!(
        shadow.apply(700, 1, vec![update("a", 2, &[], &[])]).await,
        stale(&["a"])
    );
    assert_eq!(
        contents(&shadow, 700, 1).await,
        [object("a", 1, &[("x", "1")])]
    );
    shadow
        .apply(700, 1, vec![replace("a", 3, &[])])
        .await
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while leases.renew(&node("z", 1), TTL).await != Ok(Renewal::Renewed) {
        assert!(Instant::now() < end, "leases do not come back");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_start_does_not_matter() {
    let mut redis = Redis::start_own().unwrap();
    redis.kill9();
    let config = RedisConfig::single(redis.url());
    let shadow = RedisShadow::connect(&config).unwrap();
    let leases = RedisLeases::connect(&config).unwrap();
    let away = shadow.load(1, 1).await;
    assert!(matches!(away, Err(ShadowError::Away(_))), "{away:?}");
    assert!(leases.fresh().await.is_err());
    redis.restart().unwrap();
    eventually(&shadow, 1, replace("a", 1, &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_redis_is_away_in_time_and_comes_back() {
    let redis = Redis::start_own().unwrap();
    let config = RedisConfig::single(redis.url());
    let shadow = RedisShadow::connect(&config).unwrap();
    let leases = RedisLeases::connect(&config).unwrap();
    shadow
        .apply(1, 1, vec![replace("a", 1, &[])])
        .await
        .unwrap();
    leases.renew(&node("a", 1), TTL).await.unwrap();
    redis.suspend();
    for _ in 0..6 {
        let began = Instant::now();
        let away = shadow.apply(1, 1, vec![update("a", 1, &[], &[])]).await;
        assert!(matches!(away, Err(ShadowError::Away(_))), "{away:?}");
        assert!(began.elapsed() < config.shadow_timeout + Duration::from_millis(400));
        let began = Instant::now();
        assert!(leases.renew(&node("a", 1), TTL).await.is_err());
        assert!(began.elapsed() < config.lease_timeout + Duration::from_millis(400));
    }
    // By now it is known to be away: nobody waits for the limit.
    let began = Instant::now();
    let many: Vec<_> = (0..10).map(|_| shadow.epochs(&[1])).collect();
    for epochs in many {
        assert!(epochs.await.is_err());
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    redis.resume();
    eventually(&shadow, 1, replace("a", 9, &[])).await;
    assert_eq!(contents(&shadow, 1, 1).await, [object("a", 9, &[])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_flush_deltas_are_stale() {
    let redis = Redis::start_own().unwrap();
    let shadow = RedisShadow::connect(&RedisConfig::single(redis.url())).unwrap();
    shadow
        .apply(1, 7, vec![replace("a", 1, &[]), replace("b", 1, &[])])
        .await
        .unwrap();
    let evict = ["DEL", "{s1}:o:b"];
    sestina_testkit::command(redis.port(), &evict).unwrap();
    assert_eq!(
        shadow.apply(1, 7, vec![update("b", 1, &[], &[])]).await,
        stale(&["b"])
    );
    assert_eq!(contents(&shadow, 1, 7).await, [object("a", 1, &[])]);
    for flush in [["FLUSHALL", "SYNC"], ["SCRIPT", "FLUSH"]] {
        sestina_testkit::command(redis.port(), &flush).unwrap();
    }
    assert_eq!(
        shadow.apply(1, 7, vec![update("a", 1, &[], &[])]).await,
        stale(&["a"])
    );
    assert_eq!(shadow.epochs(&[1]).await.unwrap(), [7]);
    shadow
        .apply(1, 7, vec![replace("a", 2, &[])])
        .await
        .unwrap();
    assert_eq!(contents(&shadow, 1, 7).await, [object("a", 2, &[])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slots_commit_at_once() {
    let redis = Redis::start().unwrap();
    let shadow = Arc::new(RedisShadow::connect(&RedisConfig::single(redis.url())).unwrap());
    let mut commits = tokio::task::JoinSet::new();
    for slot in 0..2000 {
        let shadow = shadow.clone();
        commits.spawn(async move {
            shadow
                .apply(slot, 1, vec![replace("a", 1, &[("x", "1")])])
                .await
        });
    }
    while let Some(commit) = commits.join_next().await {
        commit.unwrap().unwrap();
    }
    let slots: Vec<u16> = (0..2000).collect();
    assert!(
        shadow
            .epochs(&slots)
            .await
            .unwrap()
            .iter()
            .all(|epoch| *epoch == 1)
    );
}
