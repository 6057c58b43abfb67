//! Lanes that are full: what they refuse waits where it is, and follows in order.

use std::sync::atomic::Ordering::Relaxed;

use sestina_api::link::BULK;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;

use super::client::SECURE;
use super::rig::{Bound, Rig, until};
use super::router::{Router, next_frame};
use crate::metrics::Count;

fn install(router: &Router) -> ToEdge {
    ToEdge::InstallEpoch(proto::InstallEpoch {
        owner: Some(router.node.clone()),
    })
}

/// Five deliveries, two of which are more than a part holds.
fn hoard(bound: &Bound) {
    for number in 1..=5 {
        bound.deliver(number, &"x".repeat(200 << 10));
    }
}

fn numbers(report: &proto::EpochReport) -> Vec<u64> {
    let held = report.sessions.iter().flat_map(|s| &s.held);
    held.map(|h| h.number).collect()
}

#[tokio::test]
async fn a_large_report_goes_in_parts_and_holds_up_no_other_slot() {
    let rig = Rig::new(2).await;
    let new = rig.cluster.router(1);
    let bound = rig.managed(SECURE).await;
    hoard(&bound);
    // Nothing goes in bulk while much waits on the lane.
    new.waiting.store(BULK, Relaxed);
    // A slot of others, on the same lane.
    let other = (bound.slot + 4) % 4096;
    new.send("edge1", bound.slot, 5, install(&new));
    new.send("edge1", other, 5, install(&new));
    assert!(new.is_quiet());
    new.waiting.store(0, Relaxed);
    let mut parts = Vec::new();
    for _ in 0..4 {
        let (slot, epoch, report) = next_frame!(new, EpochReport);
        assert_eq!(epoch, 5);
        parts.push((slot, report.part, report.more, numbers(&report)));
    }
    assert_eq!(
        parts,
        [
            (bound.slot, 0, true, vec![1, 2]),
            (other, 0, false, vec![]),
            (bound.slot, 1, true, vec![3, 4]),
            (bound.slot, 2, false, vec![5]),
        ]
    );
}

#[tokio::test]
async fn a_report_begins_anew_when_its_lane_breaks() {
    let rig = Rig::new(2).await;
    let new = rig.cluster.router(1);
    let mut bound = rig.managed(SECURE).await;
    hoard(&bound);
    bound.say(&["one"]).await;
    bound.heard(&bound.router, 1, "one").await;
    *new.room.lock() = Some(1);
    new.send("edge1", bound.slot, 5, install(&new));
    let (_, _, before) = next_frame!(new, EpochReport);
    assert_eq!((before.part, before.more), (0, true));
    new.break_lanes();
    *new.room.lock() = None;
    until("the lanes are lost", || rig.tally.get(Count::LaneLost) == 4).await;
    rig.lanes_open(2).await;
    assert!(new.is_quiet(), "until its owner installs the epoch again");
    new.send("edge1", bound.slot, 5, install(&new));
    let mut all = Vec::new();
    for part in 0..3 {
        let (_, _, report) = next_frame!(new, EpochReport);
        assert!(report.report > before.report);
        assert_eq!((report.part, report.more), (part, part < 2));
        all.extend(numbers(&report));
    }
    assert_eq!(all, [1, 2, 3, 4, 5]);
    let restored = proto::Restored {
        items: vec![bound.item(0, 0, 0)],
    };
    new.send("edge1", bound.slot, 5, ToEdge::Restored(restored));
    assert_eq!(bound.heard(&new, 1, "one").await, 5);
}

#[tokio::test]
async fn a_stanza_that_several_sessions_hold_is_reported_once() {
    let rig = Rig::new(2).await;
    let new = rig.cluster.router(1);
    let first = rig.managed(SECURE).await;
    let second = rig.managed(SECURE).await;
    assert_eq!(first.slot, second.slot);
    let (ToEdge::Deliver(mut deliver), ToEdge::Deliver(other)) =
        (first.delivery(1, "for both"), second.delivery(1, ""))
    else {
        panic!("two deliveries")
    };
    deliver.targets.extend(other.targets);
    first.frame(ToEdge::Deliver(deliver));
    second.deliver(2, "for one");
    new.send("edge1", first.slot, 5, install(&new));
    let (_, _, report) = next_frame!(new, EpochReport);
    assert_eq!(report.payloads.len(), 2);
    let mut held: Vec<Vec<u32>> = Vec::new();
    for session in &report.sessions {
        assert!(session.held.iter().all(|h| h.stanza.is_none()));
        held.push(session.held.iter().map(|h| h.payload).collect());
    }
    held.sort();
    assert_eq!(held, [vec![1], vec![1, 2]]);
}

#[tokio::test]
async fn what_a_full_lane_refuses_follows_in_order_and_before_the_end() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    let router = bound.router.clone();
    *router.room.lock() = Some(1);
    bound.say(&["one", "two", "three"]).await;
    bound.heard(&router, 1, "one").await;
    bound.client.send("</stream:stream>").await;
    // The edge has read the end: it has answered it.
    bound.client.until("</stream:stream>").await;
    assert!(router.is_quiet(), "the end overtook what came before it");
    *router.room.lock() = None;
    bound.heard(&router, 2, "two").await;
    bound.heard(&router, 3, "three").await;
    let (_, _, close) = next_frame!(router, Close);
    assert!(close.clean);
}

/// A later version sends what this one does not know.
#[tokio::test]
async fn a_frame_of_an_unknown_kind_is_ignored_and_what_is_around_it_is_taken() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    let bodies = vec![
        Some(bound.delivery(1, "before")),
        None,
        Some(bound.delivery(2, "behind")),
    ];
    bound
        .router
        .frames("edge1", bound.slot, bound.epoch, bodies);
    let heard = bound.client.until("behind").await;
    assert!(heard.contains("before"), "{heard}");
    // The same holds for an unknown frame with an old epoch, or of a slot that does not exist.
    for (slot, epoch) in [(bound.slot, 0), (u16::MAX - 3, 1)] {
        bound.router.frames("edge1", slot, epoch, vec![None]);
    }
    let last = bound.router.last_seq();
    until("each batch is acknowledged", || {
        bound.router.lane_acked.load(Relaxed) == last
    })
    .await;
    assert_eq!(rig.tally.get(Count::UnknownFrame), 3);
    assert_eq!(*bound.router.refused.lock(), [], "it was refused");
    assert_eq!(rig.tally.get(Count::LaneLost), 0);
}

/// The router accepts the lane and sends no Welcome. Without a limit the edge would wait for it as long
/// as the connection lives, and no session could use the lane.
#[tokio::test]
async fn a_lane_whose_hello_is_not_answered_is_opened_again() {
    let rig = Rig::new(1).await;
    let bound = rig.managed(SECURE).await;
    let opened = rig.tally.get(Count::LaneOpened);
    bound.router.mute.store(1, Relaxed);
    bound.router.break_lanes();
    until("unanswered", || bound.router.mute.load(Relaxed) == 0).await;
    until("open again", || {
        rig.tally.get(Count::LaneOpened) == 2 * opened
    })
    .await;
}
