#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn router(name: &str, incarnation: u64) -> proto::Node {
    let role = proto::NodeRole::Router.into();
    proto::Node {
        name: name.into(),
        incarnation,
        role,
        ..Default::default()
    }
}

/// A plan where every process reaches every router.
fn plan(table: &SlotTable, live: &[proto::Node], limits: PlanLimits) -> Plan {
    super::plan(table, live, &Reach::of(&connected(live)), limits)
}

/// The same processes, each with lanes to every router.
fn connected(live: &[proto::Node]) -> Vec<proto::Node> {
    let reaches: Vec<u64> = live.iter().map(|node| node.incarnation).collect();
    let with = |node: &proto::Node| proto::Node {
        reaches: reaches.clone(),
        ..node.clone()
    };
    live.iter().map(with).collect()
}

/// Carries a plan out, as a claim and hand-overs would.
fn apply(table: &SlotTable, plan: &Plan) -> SlotTable {
    let mut map = table.as_proto().clone();
    map.version += 1;
    let claims = plan.claims.iter().map(|claim| (claim.slot, &claim.to));
    for (slot, to) in claims.chain(plan.moves.iter().map(|m| (m.slot, &m.to))) {
        let at = map
            .routers
            .iter()
            .position(|node| same(node, to))
            .unwrap_or_else(|| {
                map.routers.push(to.clone());
                map.routers.len() - 1
            });
        map.owners[usize::from(slot)] = at as u32 + 1;
        map.epochs[usize::from(slot)] += 1;
    }
    SlotTable::new(map).unwrap()
}

/// Rounds until the plan is empty.
fn settle(mut table: SlotTable, live: &[proto::Node], limits: PlanLimits) -> (SlotTable, usize) {
    for round in 0..1000 {
        let next = plan(&table, live, limits);
        if next == Plan::default() {
            return (table, round);
        }
        table = apply(&table, &next);
    }
    panic!("no end after 1000 rounds");
}

fn share(table: &SlotTable, node: &proto::Node) -> usize {
    table.slots_of(node).count()
}

#[test]
fn the_first_router_gets_all_at_once() {
    let a = router("a", 1);
    let plan = plan(
        &SlotTable::empty(),
        std::slice::from_ref(&a),
        PlanLimits::default(),
    );
    assert_eq!((plan.claims.len(), plan.moves.len()), (SLOTS, 0));
    assert!(
        plan.claims
            .iter()
            .all(|claim| claim.from.is_none() && claim.to == a)
    );
}

#[test]
fn without_live_routers_the_plan_is_empty() {
    assert_eq!(
        plan(&SlotTable::empty(), &[], PlanLimits::default()),
        Plan::default()
    );
}

#[test]
fn a_new_router_gets_its_share_in_limited_rounds() {
    let (a, b) = (router("a", 1), router("b", 1));
    let limits = PlanLimits {
        max_moves: 50,
        hysteresis_percent: 10,
    };
    let (table, _) = settle(SlotTable::empty(), std::slice::from_ref(&a), limits);
    let first = plan(&table, &[a.clone(), b.clone()], limits);
    assert!(first.claims.is_empty());
    assert_eq!(first.moves.len(), 50);
    assert_eq!(
        first,
        plan(&table, &[b.clone(), a.clone()], limits),
        "a plan depends on the order"
    );
    let (table, rounds) = settle(table, &[a.clone(), b.clone()], limits);
    assert!(rounds > 30 && rounds < 50, "{rounds}");
    assert!(share(&table, &b) > 1700, "{}", share(&table, &b));
}

#[test]
fn without_hysteresis_every_slot_goes_where_it_belongs() {
    let (a, b) = (router("a", 1), router("b", 1));
    let limits = PlanLimits::default();
    let live = [a.clone(), b.clone()];
    let (home, _) = settle(SlotTable::empty(), &live, limits);
    // The same number in both directions: the shares are right, but the slots are at the wrong
    // routers.
    let mut swapped = Plan::default();
    for (from, to) in [(&a, &b), (&b, &a)] {
        swapped
            .moves
            .extend(home.slots_of(from).take(28).map(|slot| Move {
                slot,
                from: from.clone(),
                to: to.clone(),
            }));
    }
    let away = apply(&home, &swapped);
    assert_eq!(plan(&away, &live, limits), Plan::default());
    let exact = PlanLimits {
        hysteresis_percent: 0,
        ..limits
    };
    assert_eq!(plan(&away, &live, exact).moves.len(), 56);
    let (settled, _) = settle(away, &live, exact);
    for node in [&a, &b] {
        assert!(settled.slots_of(node).eq(home.slots_of(node)));
    }
}

#[test]
fn a_small_imbalance_moves_nothing() {
    let (a, b) = (router("a", 1), router("b", 1));
    let limits = PlanLimits::default();
    let live = [a.clone(), b.clone()];
    let (table, _) = settle(SlotTable::empty(), &live, limits);
    let some: Vec<u16> = table.slots_of(&b).take(200).collect();
    let to_a = |slots: &[u16]| Plan {
        claims: Vec::new(),
        moves: slots
            .iter()
            .map(|slot| Move {
                slot: *slot,
                from: b.clone(),
                to: a.clone(),
            })
            .collect(),
    };
    assert_eq!(
        plan(&apply(&table, &to_a(&some)), &live, limits),
        Plan::default()
    );
    let many: Vec<u16> = table.slots_of(&b).take(210).collect();
    let moves = plan(&apply(&table, &to_a(&many)), &live, limits).moves;
    assert!(
        !moves.is_empty() && moves.iter().all(|m| m.to == b),
        "{}",
        moves.len()
    );
}

#[test]
fn a_new_incarnation_claims_what_the_old_one_held() {
    let old = router("a", 1);
    let new = router("a", 2);
    let limits = PlanLimits::default();
    let (table, _) = settle(SlotTable::empty(), std::slice::from_ref(&old), limits);
    let plan = plan(&table, &[new], limits);
    assert_eq!(plan.claims.len(), SLOTS);
    assert!(
        plan.claims
            .iter()
            .all(|claim| claim.from.as_ref() == Some(&old))
    );
}

#[test]
fn the_last_drainer_keeps_its_slots_and_still_takes_those_of_the_dead() {
    let (a, mut b) = (router("a", 1), router("b", 1));
    let limits = PlanLimits::default();
    let (table, _) = settle(SlotTable::empty(), &[a.clone(), b.clone()], limits);
    b.draining = true;
    let alone = plan(&table, &[b.clone()], limits);
    assert!(alone.moves.is_empty());
    assert_eq!(alone.claims.len(), share(&table, &a));
    assert!(alone.claims.iter().all(|claim| claim.to == b));
}

#[derive(Clone, Debug)]
struct Member {
    up: bool,
    draining: bool,
    incarnation: u64,
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let one = (any::<bool>(), prop::bool::weighted(0.2), 1u64..3).prop_map(
        |(up, draining, incarnation)| Member {
            up,
            draining,
            incarnation,
        },
    );
    proptest::collection::vec(one, 1..6)
}

fn live(members: &[Member]) -> Vec<proto::Node> {
    let up = members.iter().enumerate().filter(|(_, member)| member.up);
    up.map(|(at, member)| proto::Node {
        draining: member.draining,
        ..router(&format!("router-{at}"), member.incarnation)
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_happens_slots_get_live_owners_and_plans_converge(
        history in proptest::collection::vec(members(), 1..5),
        max_moves in 1usize..300,
        hysteresis_percent in 0usize..30,
    ) {
        let limits = PlanLimits { max_moves: max_moves.max(64), hysteresis_percent };
        let mut table = SlotTable::empty();
        for step in &history {
            let live = live(step);
            let first = plan(&table, &live, PlanLimits { max_moves, hysteresis_percent });
            prop_assert!(first.moves.len() <= max_moves);
            let is_live = |node: &proto::Node| live.iter().any(|other| same(other, node));
            let staying: Vec<_> = live.iter().filter(|node| !node.draining).collect();
            for claim in &first.claims {
                // A claim never takes a slot of a live owner, and always gives it to a live one.
                let dead = table.owner(claim.slot).is_none_or(|owner| !is_live(owner));
                prop_assert!(dead && is_live(&claim.to));
                prop_assert!(staying.is_empty() || !claim.to.draining);
            }
            for m in &first.moves {
                prop_assert!(is_live(&m.from) && !m.to.draining && !same(&m.from, &m.to));
                prop_assert!(table.owned_by(m.slot, &m.from));
            }
            let (settled, _) = settle(table, &live, limits);
            table = settled;
            for slot in 0..SLOTS as u16 {
                let Some(owner) = table.owner(slot) else {
                    prop_assert!(live.is_empty());
                    continue;
                };
                prop_assert!(live.is_empty() || is_live(owner), "slot {} has a dead owner", slot);
                let draining = live.iter().any(|node| same(node, owner) && node.draining);
                prop_assert!(!draining || staying.is_empty(), "slot {} is not drained", slot);
            }
        }
    }

    #[test]
    fn a_death_moves_nothing_of_the_living(count in 2usize..6, dead in 0usize..6) {
        let all: Vec<proto::Node> = (0..count).map(|n| router(&format!("router-{n}"), 1)).collect();
        let limits = PlanLimits::default();
        let (table, _) = settle(SlotTable::empty(), &all, limits);
        let dead = dead % count;
        let left: Vec<_> = all.iter().filter(|node| **node != all[dead]).cloned().collect();
        let next = plan(&table, &left, limits);
        prop_assert!(next.moves.is_empty());
        prop_assert_eq!(next.claims.len(), share(&table, &all[dead]));
        prop_assert_eq!(plan(&apply(&table, &next), &left, limits), Plan::default());
    }
}
