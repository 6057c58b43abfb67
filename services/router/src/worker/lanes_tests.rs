#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering::Relaxed;

use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use crate::config::{RouterConfig, RouterLimits};
use crate::worker::input::Input;
use crate::worker::testing::{LANE, Router};

const ROMEO: &str = "romeo@c.example/orchard";
const JULIET: &str = "juliet@c.example/balcony";

/// A question to the server, answered at once with a few hundred bytes.
fn disco(handle: u64, n: u64) -> RouterBody {
    let mut stanza = Stanza::new(Kind::Iq);
    stanza.id = format!("d{n}");
    stanza.to = "c.example".to_owned();
    stanza.type_ = "get".to_owned();
    let query = Element::new("query", "http://jabber.org/protocol/disco#info");
    stanza.push_element(&query);
    RouterBody::Inbound(proto::Inbound {
        handle,
        generation: 1,
        n,
        stanza: Some(stanza.into()),
        ..proto::Inbound::default()
    })
}

/// What the edge was given since: (handle, number) of deliveries.
fn given(router: &Router) -> Vec<(u64, u64)> {
    let bodies = std::mem::take(&mut *router.edge.0.lock());
    let mut all = Vec::new();
    for body in bodies {
        if let EdgeBody::Deliver(deliver) = body {
            all.extend(deliver.targets.iter().map(|t| (t.handle, t.number)));
        }
    }
    all
}

/// The edge has taken what it was sent.
fn take(router: &mut Router) {
    let seq = router.edge.1.lock().unwrap_or(0);
    let ack = RouterBody::LaneAck(proto::LaneAck {
        worker: 0,
        seq,
        ..proto::LaneAck::default()
    });
    router.edge_says(0, ack, 0);
}

#[test]
fn deliveries_wait_in_their_sessions_while_the_edge_takes_nothing() {
    let settings = RouterConfig {
        limits: RouterLimits {
            lane_bytes: 2_000,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    };
    let mut router = Router::with(settings, 1, &[], || 0);
    let slots = [router.session(ROMEO, 1), router.session(JULIET, 2)];
    take(&mut router);
    given(&router);
    const EACH: u64 = 20;
    for n in 1..=EACH {
        router.edge_says(slots[0], disco(1, n), 0);
        router.edge_says(slots[1], disco(2, n), 0);
    }
    let before = given(&router);
    assert!(!before.is_empty());
    assert!(before.len() < 10, "the lane was full after {before:?}");
    let mut all = before;
    let mut rounds = 0;
    while all.len() < 2 * EACH as usize {
        take(&mut router);
        let now = given(&router);
        assert!(now.len() < 10, "in parts: {now:?}");
        all.extend(now);
        rounds += 1;
        assert!(rounds < 100, "only {all:?}");
    }
    for handle in [1, 2] {
        let numbers: Vec<u64> = all.iter().filter(|d| d.0 == handle).map(|d| d.1).collect();
        assert_eq!(numbers, (1..=EACH).collect::<Vec<_>>());
    }
}

#[test]
fn a_batch_that_a_full_lane_refused_goes_before_later_ones() {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    take(&mut router);
    given(&router);
    router.edge.2.store(true, Relaxed);
    router.edge_says(slot, disco(1, 1), 0);
    router.edge_says(slot, disco(1, 2), 0);
    assert_eq!(given(&router), []);
    router.edge.2.store(false, Relaxed);
    router.edge_says(slot, disco(1, 3), 0);
    assert_eq!(given(&router), [(1, 1), (1, 2), (1, 3)]);
}

#[test]
fn a_lane_that_opens_anew_is_given_what_it_lacks_in_parts() {
    let settings = RouterConfig {
        limits: RouterLimits {
            lane_bytes: 2_000,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    };
    let mut router = Router::with(settings, 1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    const ALL: u64 = 30;
    for n in 1..=ALL {
        router.edge_says(slot, disco(1, n), 0);
        take(&mut router);
    }
    given(&router);
    let opened = Input::EdgeLane {
        lane: LANE,
        instance: 2,
        lanes: 1,
        sink: router.edge.clone(),
    };
    router.turn(vec![opened]);
    let mut all = Vec::new();
    for _ in 0..50 {
        let now = given(&router);
        assert!(now.len() < 10, "in parts: {now:?}");
        all.extend(now);
        take(&mut router);
    }
    assert_eq!(all, (1..=ALL).map(|n| (1, n)).collect::<Vec<_>>());
}

#[test]
fn what_is_sent_again_and_was_written_before_is_not_charged_to_the_credit() {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    for n in 1..=10 {
        router.edge_says(slot, disco(1, n), 0);
        take(&mut router);
    }
    let flying = |router: &mut Router| {
        let slot = router.worker.slots.get_mut(slot).unwrap();
        slot.sessions
            .values()
            .map(|s| s.channel.outgoing.flying_bytes)
            .sum::<usize>()
    };
    let acked = RouterBody::Acked(proto::Acked {
        handle: 1,
        generation: 1,
        number: 0,
        written: 10,
    });
    router.edge_says(slot, acked, 0);
    assert_eq!(flying(&mut router), 0);
    let opened = Input::EdgeLane {
        lane: LANE,
        instance: 2,
        lanes: 1,
        sink: router.edge.clone(),
    };
    given(&router);
    router.turn(vec![opened]);
    assert_eq!(given(&router).len(), 10, "sent again");
    assert_eq!(flying(&mut router), 0, "written before");
    router.edge_says(slot, disco(1, 11), 0);
    assert!(flying(&mut router) > 0, "the eleventh was not");
}

/// Slot messages to the other router: their keys' numbers, as its lane was given them.
fn messages(router: &Router) -> Vec<u64> {
    use proto::peer_frame::Body;
    let frames = std::mem::take(&mut *router.peer.0.lock());
    let messages = frames.into_iter().filter_map(|frame| match frame.body {
        Some(Body::SlotMessage(message)) => message.key.map(|key| key.n),
        _ => None,
    });
    messages.collect()
}

fn message(n: u64) -> RouterBody {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.type_ = "chat".to_owned();
    stanza.to = JULIET.to_owned();
    stanza.push_element(&Element::new("body", "jabber:client").with_text("good night"));
    RouterBody::Inbound(proto::Inbound {
        handle: 1,
        generation: 1,
        n,
        stanza: Some(stanza.into()),
        ..proto::Inbound::default()
    })
}

#[test]
fn messages_wait_while_the_lane_of_their_router_is_full_and_follow_in_order() {
    let juliet = {
        let probe = Router::new(1, &[], || 0);
        probe
            .config
            .slot_of(&sestina_xmpp::jid::Jid::from_wire(JULIET))
    };
    let mut router = Router::new(1, &[juliet], || 0);
    let slot = router.session(ROMEO, 1);
    *router.peer.1.lock() = Some(2);
    for n in 1..=6 {
        router.edge_says(slot, message(n), 0);
    }
    assert_eq!(messages(&router), [1, 2]);
    assert!(
        router.worker.patience().is_some(),
        "it looks again by itself"
    );
    let mut all = Vec::new();
    for _ in 0..6 {
        *router.peer.1.lock() = Some(1);
        router.now_ms += router.config.times.tick_ms;
        router.turn(Vec::new());
        all.extend(messages(&router));
    }
    assert_eq!(all, [3, 4, 5, 6]);
    assert_eq!(router.worker.patience(), None);
}

/// Its owner may die before it says anything more: the next one asks the edge what the session was.
#[test]
fn the_edge_that_a_session_is_resumed_at_is_given_its_record_with_the_answer() {
    let (mut router, slot) = resumable();
    let presence = proto::Inbound {
        handle: 1,
        generation: 1,
        n: 1,
        stanza: Some(Stanza::new(Kind::Presence).into()),
        ..proto::Inbound::default()
    };
    router.edge_says(slot, RouterBody::Inbound(presence), 0);
    let resume = resume(&mut router, slot);
    router.edge.0.lock().clear();
    router.edge_says(slot, RouterBody::Resume(resume), 0);
    let bodies = std::mem::take(&mut *router.edge.0.lock());
    let resumed = bodies.iter().find_map(|body| match body {
        EdgeBody::Resumed(resumed) => Some(resumed),
        _ => None,
    });
    let record = resumed.unwrap().state.clone();
    let record: proto::SessionState = prost::Message::decode(record).unwrap();
    assert_eq!(record.generation, 2);
    assert!(record.presence.is_some());
    assert!(record.sm_resume);
}

/// A router with a session of Romeo's that can be resumed; its handle is 1.
fn resumable() -> (Router, u16) {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    router.enable(slot, 1);
    (router, slot)
}

/// A resumption of Romeo's session at another socket.
fn resume(router: &mut Router, slot: u16) -> proto::Resume {
    let slot = router.worker.slots.get_mut(slot).unwrap();
    let id = *slot.sessions.keys().next().unwrap();
    let (session_hi, session_lo) = sestina_api::key::split(id);
    proto::Resume {
        handle: 2,
        session_hi,
        session_lo,
        bare: "romeo@c.example".to_owned(),
        ..proto::Resume::default()
    }
}

/// What the client sent on the older socket before, and is not settled, is at that edge alone.
#[test]
fn a_late_stanza_on_the_socket_of_a_resumed_session_leaves_its_edge_what_it_holds() {
    let (mut router, slot) = resumable();
    let resume = resume(&mut router, slot);
    router.edge_says(slot, RouterBody::Resume(resume), 0);
    router.edge.0.lock().clear();
    router.edge_says(slot, disco(1, 1), 0);
    let bodies = std::mem::take(&mut *router.edge.0.lock());
    let closed: Vec<_> = bodies
        .iter()
        .filter_map(|body| match body {
            EdgeBody::Close(close) => Some((close.handle, close.keep, &close.condition[..])),
            _ => None,
        })
        .collect();
    assert_eq!(closed, [(1, true, "conflict")]);
}
