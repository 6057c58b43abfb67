//! Owners change, lanes break, and nothing is lost or doubled.

use std::time::Duration;

use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;

use super::client::SECURE;
use super::rig::{Bound, Rig, config, until};
use super::router::{Cluster, Router, next_frame};
use crate::EdgeConfig;
use crate::metrics::Count;

fn install(router: &Router) -> ToEdge {
    ToEdge::InstallEpoch(proto::InstallEpoch {
        owner: Some(router.node.clone()),
    })
}

fn restored(items: Vec<proto::ProgressItem>) -> ToEdge {
    ToEdge::Restored(proto::Restored { items })
}

/// Three stanzas of the client, of which the first is settled and the second accepted.
async fn three(bound: &mut Bound) {
    bound.say(&["one", "two", "three"]).await;
    for (n, id) in [(1, "one"), (2, "two"), (3, "three")] {
        bound.heard(&bound.router, n, id).await;
    }
    bound.progress(2, 1);
}

#[tokio::test]
async fn a_new_owner_gets_everything_and_the_old_one_is_refused() {
    let rig = Rig::new(2).await;
    let (old, new) = (rig.cluster.router(0), rig.cluster.router(1));
    let mut bound = rig.managed(SECURE).await;
    bound.frame(ToEdge::KeepState(proto::KeepState {
        handle: bound.handle,
        generation: 1,
        state: vec![1, 2, 3].into(),
    }));
    three(&mut bound).await;
    for number in 1..=3 {
        bound.deliver(number, &format!("text {number}"));
    }
    bound.client.until("text 3</body></message>").await;
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='2'/>").await;
    assert_eq!(old.acked().await.number, 2);
    bound.frame(ToEdge::Progress(proto::Progress {
        items: vec![bound.item(2, 1, 1)],
    }));

    new.send("edge1", bound.slot, 5, install(&new));
    let (slot, epoch, report) = next_frame!(new, EpochReport);
    assert_eq!((slot, epoch), (bound.slot, 5));
    assert_eq!((report.part, report.more), (0, false));
    let payloads = report.payloads.len();
    let [report] = &report.sessions[..] else {
        panic!("one session")
    };
    assert_eq!(report.jid, "juliet@c.example/balcony");
    assert_eq!(&report.state[..], [1, 2, 3]);
    assert_eq!((report.settled, report.received), (1, 3));
    assert_eq!((report.acked, report.released), (2, 1));
    let held: Vec<_> = report.held.iter().map(|h| (h.number, h.payload)).collect();
    assert_eq!(
        (held, payloads),
        (vec![(2, 1), (3, 2)], 2),
        "an acknowledged message is still there for the new owner's archive"
    );
    assert_eq!(report.held[1].key.as_ref().unwrap().n, 3);

    // Nothing goes to the old owner, nor is anything of it taken.
    bound.say(&["four"]).await;
    bound.deliver(4, "stale");
    until("refused", || rig.tally.get(Count::RefusedEpoch) == 1).await;
    let refused = (u32::from(bound.slot), 5);
    until("told so", || *old.refused.lock() == [refused]).await;
    assert!(old.is_quiet() && new.is_quiet());

    new.send("edge1", slot, 5, restored(vec![bound.item(1, 1, 1)]));
    for (n, id) in [(2, "two"), (3, "three")] {
        assert_eq!(bound.heard(&new, n, id).await, 5);
    }
    assert_eq!(bound.heard(&new, 4, "four").await, 5);
    bound.router = new;
    bound.epoch = 5;
    bound.deliver(4, "fresh");
    let text = bound.client.until("</message>").await;
    assert!(text.contains("fresh"), "{text}");
}

#[tokio::test]
async fn sessions_that_the_new_owner_does_not_know_are_closed() {
    let rig = Rig::new(2).await;
    let new = rig.cluster.router(1);
    let mut bound = rig.managed(SECURE).await;
    new.send("edge1", bound.slot, 2, install(&new));
    next_frame!(new, EpochReport);
    new.send("edge1", bound.slot, 2, restored(vec![]));
    let end = bound.client.rest().await;
    assert!(end.contains("<reset "), "{end}");
    assert_eq!(rig.tally.get(Count::NotRestored), 1);
}

#[tokio::test]
async fn a_lost_socket_is_reported_until_it_is_detached() {
    let rig = Rig::new(2).await;
    let new = rig.cluster.router(1);
    let bound = rig.managed(SECURE).await;
    bound.deliver(1, "hello");
    drop(bound.client);
    next_frame!(bound.router, Close);
    new.send("edge1", bound.slot, 2, install(&new));
    let (_, _, report) = next_frame!(new, EpochReport);
    assert_eq!(report.sessions[0].held.len(), 1);
    let item = proto::ProgressItem {
        handle: bound.handle,
        generation: 1,
        ..Default::default()
    };
    new.send("edge1", bound.slot, 2, restored(vec![item]));
    let (_, epoch, close) = next_frame!(new, Close);
    assert_eq!((epoch, close.clean), (2, false));
    let gone = proto::Detached {
        handle: bound.handle,
        generation: 1,
    };
    new.send("edge1", bound.slot, 2, ToEdge::Detached(gone));
    new.send("edge1", bound.slot, 3, install(&new));
    assert!(next_frame!(new, EpochReport).2.sessions.is_empty());
}

#[tokio::test]
async fn a_broken_lane_is_opened_again_and_all_that_is_unanswered_is_sent_again() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    three(&mut bound).await;
    bound.client.send("<enable xmlns='urn:xmpp:sm:3'/>").await;
    assert_eq!(next_frame!(bound.router, EnableSm).2.n, 3);
    bound.router.break_lanes();
    rig.lanes_open(1).await;
    bound.heard(&bound.router, 3, "three").await;
    assert_eq!(next_frame!(bound.router, EnableSm).2.n, 3);
    bound.say(&["four"]).await;
    bound.heard(&bound.router, 4, "four").await;
}

#[tokio::test]
async fn redirected_frames_are_sent_again_in_order() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    three(&mut bound).await;
    bound
        .router
        .batch("edge1", bound.slot, bound.epoch, vec![bound.redirect(3)]);
    bound.heard(&bound.router, 3, "three").await;
    bound.say(&["four"]).await;
    bound.heard(&bound.router, 4, "four").await;
    assert_eq!(rig.tally.get(Count::Redirected), 1);
}

#[tokio::test]
async fn a_session_that_no_owner_takes_is_closed_in_the_end() {
    let cluster = Cluster::new(1);
    let config = EdgeConfig {
        owner_deadline: Duration::from_millis(100),
        ..config("edge1")
    };
    let rig = Rig::with(cluster, config, 1).await;
    let mut bound = rig.session().await;
    let map = rig.cluster.move_slot(bound.slot, 0, 9);
    bound.router.publish(&map);
    bound.say(&["one"]).await;
    let end = bound.client.rest().await;
    assert!(end.contains("<resource-constraint "), "{end}");
    assert!(bound.router.is_quiet());
    assert_eq!(rig.tally.get(Count::OwnerTimeout), 1);
}

#[tokio::test]
async fn a_bind_waits_for_an_owner() {
    let rig = Rig::new(2).await;
    let slot = sestina_cluster::slots::slot_of_bare("juliet@c.example");
    let mut client = rig.client(SECURE).await;
    client.log_in().await;
    let map = rig.cluster.move_slot(slot, 0, 1);
    rig.cluster.router(0).publish(&map);
    client.bind("balcony").await;
    let map = rig.cluster.move_slot(slot, 2, 2);
    let new = rig.cluster.router(1);
    new.publish(&map);
    let (_, epoch, bind) = next_frame!(new, Bind);
    assert_eq!(epoch, 2);
    new.bound("edge1", slot, epoch, &bind);
    client.until("</iq>").await;
}

#[tokio::test]
async fn a_gap_in_the_numbers_cuts_the_socket() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    bound.deliver(1, "first");
    bound.deliver(1, "again");
    assert_eq!(rig.tally.get(Count::Repeated), 1);
    bound.deliver(3, "third");
    assert_eq!(rig.tally.get(Count::NumberGap), 1);
    assert!(!next_frame!(bound.router, Close).2.clean);
    let text = bound.client.rest().await;
    assert!(text.contains("first") && !text.contains("again"), "{text}");
}

#[tokio::test]
async fn a_restoration_that_was_lost_with_its_lane_does_not_stop_a_session() {
    let rig = Rig::new(2).await;
    let new = rig.cluster.router(1);
    let mut bound = rig.managed(SECURE).await;
    three(&mut bound).await;
    new.send("edge1", bound.slot, 2, install(&new));
    next_frame!(new, EpochReport);
    new.break_lanes();
    rig.lanes_open(2).await;
    // All that is not settled, whatever the old owner had accepted.
    for (n, id) in [(2, "two"), (3, "three")] {
        assert_eq!(bound.heard(&new, n, id).await, 2);
    }
}

#[tokio::test]
async fn an_owner_that_thaws_is_sent_everything_again() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    three(&mut bound).await;
    // It has less than it said: what is settled is the floor.
    let frames = vec![bound.redirect(3), bound.redirect(2)];
    bound.router.batch("edge1", bound.slot, bound.epoch, frames);
    for (n, id) in [(2, "two"), (3, "three")] {
        bound.heard(&bound.router, n, id).await;
    }
}

/// The record of a session that two rooms have let in, and that waits at the door of a third.
pub(super) fn record() -> bytes::Bytes {
    use prost::Message as _;
    let joined = |room: &str, inside: bool| proto::JoinedRoom {
        room: room.to_owned(),
        nick: "j".to_owned(),
        member: inside.then(|| proto::RoomMember {
            nick: "Juliet".to_owned(),
            affiliation_and_role: 4 << 8 | 3,
            presence: Some(proto::Stanza::default()),
            seq: 7,
        }),
    };
    let state = proto::SessionState {
        joined: vec![
            joined("garden@muc.c.example", true),
            joined("hall@muc.c.example", true),
            joined("tomb@muc.c.example", false),
        ],
        ..proto::SessionState::default()
    };
    state.encode_to_vec().into()
}

#[tokio::test]
async fn a_new_owner_of_a_room_is_told_who_is_in_it() {
    let rig = Rig::new(2).await;
    let new = rig.cluster.router(1);
    let mut bound = rig.managed(SECURE).await;
    let keep = |bound: &Bound, state: bytes::Bytes| {
        let handle = bound.handle;
        bound.frame(ToEdge::KeepState(proto::KeepState {
            handle,
            generation: 1,
            state,
        }));
    };
    keep(&bound, record());
    bound.deliver(1, "in");
    bound.client.until("in</body></message>").await;
    let slot_of = sestina_cluster::slots::slot_of_bare;
    let rooms = ["garden@muc.c.example", "tomb@muc.c.example"];
    let (mut session_hi, mut session_lo) = (0, 0);
    for (room, known) in [(rooms[0], true), (rooms[1], false)] {
        new.send("edge1", slot_of(room), 5, install(&new));
        if known {
            let (slot, _, told) = next_frame!(new, RoomMembers);
            assert_eq!(slot, slot_of(room));
            assert!(told.more, "the report");
            let [told] = &told.members[..] else {
                panic!("{:?}", told.members);
            };
            let member = told.member.as_ref().unwrap();
            assert_eq!((told.room.as_str(), member.seq), (room, 7));
            assert_eq!(member.presence, None);
            (session_hi, session_lo) = (told.session_hi, told.session_lo);
            assert_eq!(told.presence_hash, proto::Stanza::default().hash());
        }
        let (slot, _, report) = next_frame!(new, EpochReport);
        assert_eq!(slot, slot_of(room));
        assert!(report.sessions.is_empty(), "none of this slot");
        let asked = proto::AskedMember {
            room: room.to_owned(),
            session_hi,
            session_lo,
        };
        let ask = proto::AskMembers {
            members: vec![asked],
        };
        new.send("edge1", slot, 5, ToEdge::AskMembers(ask));
        let (_, _, answer) = next_frame!(new, RoomMembers);
        assert!(!answer.more);
        let members: Vec<_> = answer
            .members
            .iter()
            .map(|m| (m.room.as_str(), m.jid.as_str(), m.slot))
            .collect();
        let juliet = (room, "juliet@c.example/balcony", u32::from(bound.slot));
        assert_eq!(members, if known { vec![juliet] } else { Vec::new() });
        let presence = |m: &proto::RoomMembership| m.member.as_ref().unwrap().presence.clone();
        assert!(answer.members.iter().all(|m| presence(m).is_some()));
    }
    // It left them all.
    keep(&bound, bytes::Bytes::new());
    bound.deliver(2, "out");
    bound.client.until("out</body></message>").await;
    new.send("edge1", slot_of(rooms[0]), 6, install(&new));
    // Nothing but the report, and the next thing after it.
    next_frame!(new, EpochReport);
    let ask = proto::AskMembers::default();
    new.send("edge1", slot_of(rooms[0]), 6, ToEdge::AskMembers(ask));
    let (_, _, answer) = next_frame!(new, RoomMembers);
    assert!(answer.members.is_empty() && !answer.more);
}
