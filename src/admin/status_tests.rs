#![allow(clippy::unwrap_used)]

use sestina_router::admin::Counts;

use super::*;

fn node(name: &str, role: proto::NodeRole) -> proto::Node {
    proto::Node {
        name: name.to_owned(),
        incarnation: 5,
        role: role.into(),
        reaches: vec![5],
        ..proto::Node::default()
    }
}

fn table(owner: u32) -> SlotTable {
    let map = proto::SlotMap {
        version: 3,
        routers: vec![node("r", proto::NodeRole::Router)],
        owners: vec![owner; SLOTS],
        epochs: vec![1; SLOTS],
        ..proto::SlotMap::default()
    };
    SlotTable::new(map).unwrap()
}

fn heard(name: &str, nodes: &[proto::Node]) -> Heard {
    let status = AuthorityStatus {
        name: name.into(),
        reachable: true,
        reason: String::new(),
    };
    (status, nodes.to_vec())
}

fn router(counts: Counts) -> RouterStatus {
    RouterStatus {
        name: "r".into(),
        ready: true,
        counts,
        ..RouterStatus::default()
    }
}

fn all() -> Vec<proto::Node> {
    vec![
        node("r", proto::NodeRole::Router),
        node("e", proto::NodeRole::Edge),
    ]
}

fn good() -> Counts {
    Counts {
        slots: SLOTS,
        sessions: 4,
        ..Counts::default()
    }
}

fn missing(
    owner: u32,
    redis: Heard,
    storage: Heard,
    counts: Counts,
    unheard: &[&str],
) -> Vec<String> {
    let unheard = unheard.iter().map(|text| (*text).to_owned()).collect();
    let status = judge(&table(owner), redis, storage, vec![router(counts)], unheard);
    assert_eq!(status.redundant, status.missing.is_empty());
    status.missing
}

#[test]
fn redundant_when_nothing_is_missing() {
    let status = judge(
        &table(1),
        heard("redis", &all()),
        heard("storage", &all()),
        vec![router(good())],
        Vec::new(),
    );
    assert!(status.redundant, "{:?}", status.missing);
    assert!(status.complete);
    assert_eq!((status.sessions, status.processes.len()), (4, 2));
}

#[test]
fn each_thing_that_is_missing_is_named() {
    let both = || (heard("redis", &all()), heard("storage", &all()));
    let (redis, storage) = both();
    assert_eq!(
        missing(0, redis, storage, good(), &[]),
        ["4096 slots have no owner"]
    );

    let moving = Counts {
        moving: 3,
        ..good()
    };
    let (redis, storage) = both();
    assert_eq!(
        missing(1, redis, storage, moving, &[]),
        ["router r has 3 slots moved"]
    );

    let sole = Counts {
        sole: 2,
        sole_one: Some("romeo@c.example/a: its edge is not connected".to_owned()),
        ..good()
    };
    let (redis, storage) = both();
    assert_eq!(
        missing(1, redis, storage, sole, &[]),
        [
            "router r waits until two processes hold each of 2 sessions \
          (romeo@c.example/a: its edge is not connected)"
        ]
    );

    let edge_only = [node("e", proto::NodeRole::Edge)];
    let found = missing(
        1,
        heard("redis", &edge_only),
        heard("storage", &edge_only),
        good(),
        &[],
    );
    assert_eq!(found, ["the owner of 4096 slots, router r, has no lease"]);

    let found = missing(
        1,
        heard("redis", &all()),
        heard("storage", &all()[..1]),
        good(),
        &[],
    );
    assert_eq!(found, ["the lease of edge e is not fresh in storage"]);

    let apart = |name: &str| proto::Node {
        reaches: Vec::new(),
        ..node(name, proto::NodeRole::Edge)
    };
    let mut edges: Vec<proto::Node> = ["e", "f", "g", "h"].map(apart).to_vec();
    edges.push(node("r", proto::NodeRole::Router));
    assert_eq!(
        missing(
            1,
            heard("redis", &edges),
            heard("storage", &edges),
            good(),
            &[]
        ),
        ["router r is not reached by e, f, g and 1 more"]
    );

    let (mut redis, storage) = both();
    redis.0 = AuthorityStatus {
        name: "redis".into(),
        reachable: false,
        reason: "hung".into(),
    };
    redis.1.clear();
    assert_eq!(
        missing(1, redis, storage, good(), &[]),
        ["redis cannot be reached: hung"]
    );

    let (redis, storage) = both();
    let taking = Counts {
        slots: SLOTS - 2,
        taking: 2,
        ..Counts::default()
    };
    assert_eq!(
        missing(1, redis, storage, taking, &[]),
        ["router r is taking over 2 slots"]
    );

    let (redis, storage) = both();
    let quiescing = Counts {
        slots: SLOTS - 1,
        quiescing: 1,
        ..Counts::default()
    };
    assert_eq!(
        missing(1, redis, storage, quiescing, &[]),
        Vec::<String>::new(),
        "what is handed over is served"
    );

    let (redis, storage) = both();
    let fewer = Counts {
        slots: 4000,
        ..Counts::default()
    };
    assert_eq!(
        missing(1, redis, storage, fewer, &[]),
        ["4000 of 4096 slots are served"]
    );

    let (redis, storage) = both();
    assert_eq!(
        missing(1, redis, storage, good(), &["router q: away"]),
        ["router q: away"]
    );
}

#[test]
fn one_process_is_one_row_without_redis_and_tells_of_its_disk() {
    let mut status = judge(
        &table(1),
        heard("redis", &all()),
        heard("storage", &all()),
        vec![router(good())],
        Vec::new(),
    );
    let node = node("r", proto::NodeRole::Router);
    one_process(&mut status, &node, [Ok(()), Ok(())]);
    assert!(status.redundant);
    let authorities: Vec<_> = status.authorities.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(authorities, ["storage"]);
    assert_eq!(status.processes.len(), 1);
    assert_eq!(status.processes[0].role, "serve");
    one_process(
        &mut status,
        &node,
        [Err("the disk is full".to_owned()), Ok(())],
    );
    assert!(!status.redundant && !status.processes[0].storage);
    assert_eq!(status.missing, ["the disk is full"]);
}
