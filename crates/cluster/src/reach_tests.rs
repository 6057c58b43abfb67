//! Plans where not every process reaches every router.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const LIMITS: PlanLimits = PlanLimits {
    max_moves: 64,
    hysteresis_percent: 0,
};

fn process(name: &str, incarnation: u64, role: proto::NodeRole, reaches: &[u64]) -> proto::Node {
    proto::Node {
        name: name.into(),
        incarnation,
        role: role.into(),
        reaches: reaches.to_vec(),
        ..Default::default()
    }
}

fn router(incarnation: u64, reaches: &[u64]) -> proto::Node {
    let name = format!("router-{incarnation}");
    process(&name, incarnation, proto::NodeRole::Router, reaches)
}

fn edge(incarnation: u64, reaches: &[u64]) -> proto::Node {
    let name = format!("edge-{incarnation}");
    process(&name, incarnation, proto::NodeRole::Edge, reaches)
}

fn planned(table: &SlotTable, processes: &[proto::Node]) -> Plan {
    let role = |node: &&proto::Node| node.role() == proto::NodeRole::Router;
    let routers: Vec<proto::Node> = processes.iter().filter(role).cloned().collect();
    plan(table, &routers, &Reach::of(processes), LIMITS)
}

/// All slots with these routers, divided as if there were no others.
fn owned_by(routers: &[u64]) -> SlotTable {
    let nodes: Vec<proto::Node> = routers.iter().map(|n| router(*n, &[])).collect();
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let place = |slot| rendezvous::owner(slot, &names).unwrap() as u32 + 1;
    SlotTable::new(proto::SlotMap {
        version: 1,
        owners: (0..SLOTS as u16).map(place).collect(),
        epochs: vec![1; SLOTS],
        routers: nodes,
        ..proto::SlotMap::default()
    })
    .unwrap()
}

/// How many slots a plan gives to a router.
fn given(plan: &Plan, to: u64) -> usize {
    let claims = plan.claims.iter().map(|claim| &claim.to);
    let moves = plan.moves.iter().map(|m| &m.to);
    let all = claims.chain(moves);
    all.filter(|node| node.incarnation == to).count()
}

/// Router 3 announces an address at which no process reaches it; it reaches the others.
fn wrong_address() -> Vec<proto::Node> {
    vec![
        router(1, &[2]),
        router(2, &[1]),
        router(3, &[1, 2]),
        edge(9, &[1, 2]),
    ]
}

/// Also run as the child of the next test, without the guard.
#[test]
fn a_router_that_is_not_reached_gets_no_slot() {
    sestina_runtime::faults_from_env().unwrap();
    let table = owned_by(&[1, 2]);
    let all = wrong_address();
    assert_eq!(planned(&table, &all), Plan::default(), "moved to router 3");
    // Router 3 does not get the slots of a dead or draining router either.
    let dead = planned(&table, &[all[0].clone(), all[2].clone(), all[3].clone()]);
    assert_eq!(given(&dead, 3), 0);
    assert_eq!(given(&dead, 1), table.slots_of(&all[1]).count());
    let mut draining = all.clone();
    draining[1].draining = true;
    let drained = planned(&table, &draining);
    assert_eq!((given(&drained, 3), given(&drained, 1)), (0, 64));
    // One edge that does not reach it is enough.
    let mut partly = all.clone();
    partly[0].reaches.push(3);
    partly[1].reaches.push(3);
    assert_eq!(
        planned(&table, &partly),
        Plan::default(),
        "moved to router 3"
    );
    // With its address corrected it gets its share.
    partly[3].reaches.push(3);
    assert_eq!(given(&planned(&table, &partly), 3), 64);
}

#[test]
fn the_guard_that_keeps_slots_from_a_router_that_is_not_reached_is_missed() {
    let name = "plan::reach_tests::a_router_that_is_not_reached_gets_no_slot";
    let text = sestina_runtime::mutation::test_without("reached", name).unwrap();
    assert!(text.contains("moved to router 3"), "{text}");
}

#[test]
fn packets_go_one_way_only_the_router_gets_no_slot() {
    let table = owned_by(&[1, 2]);
    // All reach router 3, and it reaches none of them.
    let all = [
        router(1, &[2, 3]),
        router(2, &[1, 3]),
        router(3, &[]),
        edge(9, &[1, 2, 3]),
    ];
    assert_eq!(planned(&table, &all), Plan::default());
    let dead = planned(&table, &[all[0].clone(), all[2].clone(), all[3].clone()]);
    assert_eq!(given(&dead, 3) + given(&dead, 1), dead.claims.len());
}

#[test]
fn no_router_is_reached_by_all_ownerless_slots_go_where_most_reach() {
    let table = owned_by(&[1, 2, 3]);
    // Router 3 has died; each of the others misses an edge, router 2 two of them.
    let all = [
        router(1, &[2]),
        router(2, &[1]),
        edge(7, &[1]),
        edge(8, &[1]),
        edge(9, &[2]),
    ];
    let next = planned(&table, &all);
    let left = table.slots_of(&router(3, &[])).count();
    assert_eq!((given(&next, 1), given(&next, 2)), (left, 0));
    assert!(next.moves.is_empty(), "{:?}", next.moves);
}

#[test]
fn the_first_owners_are_those_that_the_others_reach() {
    // No slot has an owner, and there is no edge yet.
    let all = [router(1, &[2]), router(2, &[1]), router(3, &[1, 2])];
    let next = planned(&SlotTable::empty(), &all);
    assert_eq!((next.claims.len(), given(&next, 3)), (SLOTS, 0));
    assert!(given(&next, 1) > 1900 && given(&next, 2) > 1900);
    // Of two routers where only one reaches the other, the reached one gets the slots.
    let two = [router(1, &[]), router(3, &[1])];
    assert_eq!(given(&planned(&SlotTable::empty(), &two), 1), SLOTS);
}

#[test]
fn unreached_pairs_are_named() {
    let all = wrong_address();
    let reach = Reach::of(&all);
    let unreached = reach.unreached();
    let pairs: Vec<_> = unreached
        .map(|(process, router)| (process.name.as_str(), router.name.as_str()))
        .collect();
    assert_eq!(
        pairs,
        [
            ("router-1", "router-3"),
            ("router-2", "router-3"),
            ("edge-9", "router-3")
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Routers 1 to 4 and edges 11 to 13, each with some of the routers.
    #[test]
    fn slots_in_use_go_where_all_reach_and_no_slot_waits_for_an_owner(
        reached in proptest::collection::vec(proptest::collection::vec(1u64..5, 0..6), 7),
        owners in proptest::collection::btree_set(1u64..5, 1..4),
        dead in 1u64..5,
        draining in 1u64..5,
    ) {
        let mut all = Vec::new();
        for (at, reaches) in reached.iter().enumerate() {
            let number = at as u64 + 1;
            all.push(if number < 5 { router(number, reaches) } else { edge(number + 6, reaches) });
        }
        all.retain(|node| node.incarnation != dead);
        for node in &mut all {
            node.draining = node.incarnation == draining;
        }
        let owners: Vec<u64> = owners.into_iter().collect();
        let table = owned_by(&owners);
        let next = planned(&table, &all);
        let ownerless = table.slots_of(&router(dead, &[])).count();
        prop_assert_eq!(next.claims.len(), ownerless);
        for m in &next.moves {
            for process in &all {
                let counts = process.incarnation > 10 || owners.contains(&process.incarnation);
                let reaches = process.incarnation == m.to.incarnation
                    || process.reaches.contains(&m.to.incarnation);
                prop_assert!(!counts || reaches, "{} does not reach {}", process.name, m.to.name);
            }
        }
    }
}
