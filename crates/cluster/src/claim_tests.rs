#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use sestina_api::lease::Renewal;
use sestina_api::state_store::StateStore;

use super::*;
use crate::slot_map::SharedSlotTable;
use crate::slots::SLOTS;

#[path = "claim_fakes.rs"]
mod fakes;
use fakes::*;

#[tokio::test]
async fn only_one_router_plans() {
    let (world, mut planner, a, b) = two_routers().await;
    assert!(share(&planner, &a) > 1900 && share(&planner, &b) > 1900);
    let mut other = world.planner(&b);
    assert_eq!(
        other.run_planner_round(nothing).await.unwrap(),
        Round::default()
    );
    // The planner keeps its lease by running rounds, and loses it without them.
    for _ in 0..8 {
        world.clock.advance(Duration::from_secs(1));
        world.renew(&[&a, &b]).await;
        assert!(planner.run_planner_round(nothing).await.unwrap().planner);
        assert!(!other.run_planner_round(nothing).await.unwrap().planner);
    }
    world.pass(&[&a, &b]).await;
    assert!(other.run_planner_round(nothing).await.unwrap().planner);
    assert!(!planner.run_planner_round(nothing).await.unwrap().planner);
    assert_eq!(share(&other, &b), share(&planner, &b));
}

/// The database has lost commits: the planner waits until each process has asserted the slots that it
/// owns, or until the lease of that process ends.
#[tokio::test]
async fn nothing_is_planned_while_a_process_is_on_an_older_timeline() {
    let (world, mut planner, a, b) = two_routers().await;
    world.storage.state.lock().1.timeline = 2;
    let on = |node: &proto::Node, timeline| proto::Node {
        installed: Some(proto::Position {
            timeline,
            ..proto::Position::default()
        }),
        ..node.clone()
    };
    let (new, old) = (on(&a, 2), on(&router("c"), 1));
    world.pass(&[&new, &old]).await;
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert!(round.planner);
    assert!(round.claimed.is_empty() && round.hand_overs.is_empty());
    assert!(share(&planner, &b) > 1900, "its lease has ended");
    world.pass(&[&new, &on(&old, 2)]).await;
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert!(!round.claimed.is_empty());
    world.storage.state.lock().1.timeline = 3;
    world.pass(&[&on(&a, 3)]).await;
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert!(!round.claimed.is_empty(), "c is not waited for");
}

#[tokio::test]
async fn a_dead_routers_slots_are_claimed_above_every_known_epoch() {
    let (world, mut planner, a, b) = two_routers().await;
    let of_b: Vec<u16> = planner.ports.table.load().slots_of(&b).collect();
    let (in_redis, at_an_edge) = (of_b[0], of_b[1]);
    world
        .redis
        .state_store
        .apply(
            in_redis,
            sestina_api::state_store::Stamp::new(70, 1),
            vec![],
        )
        .await
        .unwrap();
    world.pass(&[&a]).await;
    let known = |slot| if slot == at_an_edge { 80 } else { 0 };
    let round = planner.run_planner_round(known).await.unwrap();
    assert_eq!((round.claimed.len(), round.refused.len()), (of_b.len(), 0));
    let table = planner.ports.table.load();
    assert_eq!((share(&planner, &a), share(&planner, &b)), (SLOTS, 0));
    assert_eq!(table.epoch(in_redis), 71);
    assert_eq!(table.epoch(at_an_edge), 81);
    assert_eq!(table.epoch(of_b[2]), 2);
    // The dead router cannot renew its lease with either authority.
    assert_eq!(
        world.redis.leases.renew(&held(&b), TTL).await.unwrap(),
        Renewal::Lost
    );
    assert_eq!(
        world.storage.leases.renew(&held(&b), TTL).await.unwrap(),
        Renewal::Lost
    );
    world.clock.advance(Duration::from_millis(250));
    let next = planner.run_planner_round(nothing).await.unwrap();
    assert_eq!(
        next,
        Round {
            planner: true,
            ..Round::default()
        }
    );
}

#[tokio::test]
async fn one_fresh_lease_is_enough_to_stay_owner() {
    for through_redis in [true, false] {
        let (world, mut planner, a, b) = two_routers().await;
        let before = share(&planner, &b);
        for _ in 0..6 {
            world.pass(&[&a]).await;
            match through_redis {
                true => world.redis.leases.renew(&held(&b), TTL).await.unwrap(),
                false => world.storage.leases.renew(&held(&b), TTL).await.unwrap(),
            };
            let round = planner.run_planner_round(nothing).await.unwrap();
            assert_eq!((round.claimed.len(), round.refused.len()), (0, 0));
        }
        assert_eq!(share(&planner, &b), before);
    }
}

#[tokio::test]
async fn nothing_fails_over_while_an_authority_is_away() {
    let (world, mut planner, a, b) = two_routers().await;
    let before = share(&planner, &b);
    world.pass(&[&a]).await;
    world.redis.away.store(true, Ordering::SeqCst);
    let error = planner.run_planner_round(nothing).await.unwrap_err();
    assert!(
        matches!(error, ClaimError::StateStoreUnavailable(_)),
        "{error}"
    );
    world.redis.away.store(false, Ordering::SeqCst);
    world.storage.away.store(true, Ordering::SeqCst);
    let error = planner.run_planner_round(nothing).await.unwrap_err();
    assert!(
        matches!(error, ClaimError::StorageUnavailable(_)),
        "{error}"
    );
    assert_eq!(share(&planner, &b), before);
    assert_eq!(
        world.redis.leases.renew(&held(&b), TTL).await.unwrap(),
        Renewal::Renewed,
        "marked"
    );
    world.storage.away.store(false, Ordering::SeqCst);
    world.pass(&[&a]).await;
    assert_eq!(
        planner
            .run_planner_round(nothing)
            .await
            .unwrap()
            .claimed
            .len(),
        before
    );
}

#[tokio::test]
async fn a_renewal_before_the_transaction_takes_the_mark_back() {
    let (world, mut planner, a, b) = two_routers().await;
    let before = share(&planner, &b);
    world.pass(&[&a]).await;
    *world.storage.renews_first.lock() = Some(b.clone());
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert_eq!((round.claimed.len(), round.refused.len()), (0, before));
    assert_eq!(share(&planner, &b), before);
    assert_eq!(
        world.redis.leases.renew(&held(&b), TTL).await.unwrap(),
        Renewal::Lost,
        "not marked"
    );
    let round = planner.run_planner_round(nothing).await.unwrap();
    assert_eq!((round.claimed.len(), round.refused.len()), (0, 0));
    assert_eq!(
        world.redis.leases.renew(&held(&b), TTL).await.unwrap(),
        Renewal::Renewed
    );
}

#[tokio::test]
async fn a_draining_router_is_ordered_to_hand_over_and_does() {
    let (world, mut planner, a, b) = two_routers().await;
    let draining = proto::Node {
        draining: true,
        ..b.clone()
    };
    world.renew(&[&a, &draining]).await;
    let round = planner.run_planner_round(nothing).await.unwrap();
    let limit = PlannerSettings::default().limits.max_moves;
    assert_eq!(round.hand_overs.len(), 1);
    let HandOverOrder { owner, order } = &round.hand_overs[0];
    assert_eq!((&owner.name, order.slots.len()), (&b.name, limit));
    assert_eq!(order.to.as_ref().unwrap().name, "a");
    // Repeated until the order is carried out.
    assert_eq!(planner.run_planner_round(nothing).await.unwrap(), round);

    let slots: Vec<u16> = order.slots.iter().map(|slot| *slot as u16).collect();
    let moves: Vec<_> = slots.iter().map(|slot| (*slot, a.clone())).collect();
    let mut at_b = world.planner(&b);
    at_b.run_planner_round(nothing).await.unwrap();
    let ports = at_b.ports.clone();
    let refused = ports
        .hand_over(&moves, |_| 41, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(refused, [0; 0]);
    let table = ports.table.load();
    assert!(
        slots
            .iter()
            .all(|slot| table.owned_by(*slot, &a) && table.epoch(*slot) == 42)
    );
    assert_eq!(
        world
            .storage
            .leases
            .renew(&held(&draining), TTL)
            .await
            .unwrap(),
        Renewal::Renewed
    );
    let next = planner.run_planner_round(nothing).await.unwrap();
    assert!(
        next.hand_overs[0]
            .order
            .slots
            .iter()
            .all(|slot| !order.slots.contains(slot))
    );

    // A process with an outdated table: everything is refused.
    let behind = ClaimPorts {
        table: SharedSlotTable::default(),
        ..ports.clone()
    };
    let refused = behind
        .hand_over(&moves, nothing, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(refused, slots);
    assert_eq!(
        behind.table.load().version(),
        ports.table.load().version(),
        "told nothing new"
    );
}

#[tokio::test]
async fn edges_own_nothing() {
    let world = World::new();
    let (a, mut edge) = (router("a"), router("edge"));
    edge.role = proto::NodeRole::Edge.into();
    world.renew(&[&a, &edge]).await;
    let mut planner = world.planner(&a);
    planner.run_planner_round(nothing).await.unwrap();
    assert_eq!(share(&planner, &a), SLOTS);
}
