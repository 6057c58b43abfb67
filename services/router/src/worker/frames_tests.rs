#![allow(clippy::unwrap_used)]

use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::*;
use crate::worker::core::Job;
use crate::worker::input::{Input, JobDone};
use crate::worker::testing::{LANE, Router};

const ROMEO: &str = "romeo@c.example/orchard";
const BALCONY: &str = "juliet@c.example/balcony";

/// A router, and the slots of Romeo and Juliet: he has sent her a message, which is on its way to her
/// edge.
fn verona() -> (Router, u16, u16) {
    let mut router = Router::new(1, &[], || 0);
    let romeo = router.session(ROMEO, 1);
    let juliet = router.session(BALCONY, 2);
    asks(&mut router, romeo);
    (router, romeo, juliet)
}

/// Romeo asks Juliet.
fn asks(router: &mut Router, romeo: u16) {
    let mut stanza = Stanza::new(Kind::Iq);
    stanza.type_ = "get".to_owned();
    stanza.id = "question".to_owned();
    stanza.to = BALCONY.to_owned();
    let inbound = proto::Inbound {
        handle: 1,
        generation: 1,
        n: 1,
        stanza: Some(stanza.into()),
        ..proto::Inbound::default()
    };
    let jobs = router.edge_says(romeo, RouterBody::Inbound(inbound), 0);
    for job in jobs {
        if let Job::Archive { rows, operations } = job {
            let slots = rows.iter().map(|_| (romeo, 1)).collect();
            let fenced = Vec::new();
            let done = JobDone::Archive {
                slots,
                operations,
                fenced,
            };
            router.turn(vec![Input::Done(done)]);
        }
    }
}

/// Up to which of his stanzas all are settled.
fn settled(router: &mut Router, slot: u16) -> u64 {
    let slot = router.worker.slots.get_mut(slot).unwrap();
    let session = slot.session_of(&Jid::from_wire(ROMEO)).unwrap();
    slot.sessions[&session].channel.incoming.settled
}

fn acknowledges(router: &mut Router, refused: &[u16]) {
    let seq = router.edge.1.lock().unwrap();
    let ack = proto::LaneAck {
        worker: 0,
        seq,
        refused_slots: refused.iter().map(|slot| u32::from(*slot)).collect(),
        refused_epochs: refused.iter().map(|_| 0).collect(),
    };
    router.edge_says(0, RouterBody::LaneAck(ack), 0);
}

/// Also run as the child of a test below, with the guard off.
#[test]
fn what_an_edge_has_refused_is_not_held_there() {
    sestina_runtime::faults_from_env().unwrap();
    for refuses in [false, true] {
        let (mut router, romeo, juliet) = verona();
        assert_eq!(settled(&mut router, romeo), 0);
        let refused: &[u16] = if refuses { &[juliet] } else { &[] };
        acknowledges(&mut router, refused);
        assert_eq!(settled(&mut router, romeo), u64::from(!refuses));
    }
}

/// What comes to an edge before the session is no copy: the edge drops it. Also run as the child of the
/// next test, with the guard off.
#[test]
fn an_edge_that_does_not_know_the_session_holds_nothing_of_it() {
    sestina_runtime::faults_from_env().unwrap();
    let (mut router, _, juliet) = verona();
    let worker = &mut router.worker;
    let slot = worker.slots.get_mut(juliet).unwrap();
    let id = slot.session_of(&Jid::from_wire(BALCONY)).unwrap();
    let attached_no = slot.sessions[&id].channel.copies.attached_no;
    for held in [0, 1] {
        slot.deliveries_held(&mut worker.core, LANE, id, 1, 1);
        assert_eq!(slot.sessions[&id].channel.outgoing.held, held);
        slot.attachment_held(&mut worker.core, id, attached_no);
    }
}

/// The edge got the answer to a resumption when its client was gone, and dropped what came behind it.
#[test]
fn what_came_behind_an_answer_that_nobody_waited_for_is_not_held() {
    let mut router = Router::new(1, &[], || 0);
    let romeo = router.session(ROMEO, 1);
    let juliet = router.session(BALCONY, 2);
    router.enable(juliet, 2);
    let slot = router.worker.slots.get_mut(juliet).unwrap();
    let session = slot.session_of(&Jid::from_wire(BALCONY)).unwrap();
    let (session_hi, session_lo) = sestina_api::key::split(session);
    let resume = proto::Resume {
        handle: 3,
        session_hi,
        session_lo,
        bare: "juliet@c.example".to_owned(),
        ..proto::Resume::default()
    };
    router.edge_says(juliet, RouterBody::Resume(resume), 0);
    asks(&mut router, romeo);
    let close = proto::Close {
        handle: 3,
        generation: 2,
        clean: false,
    };
    router.edge_says(juliet, RouterBody::Close(close), 0);
    acknowledges(&mut router, &[]);
    assert_eq!(settled(&mut router, romeo), 0);
}

/// The answers to a bind and a message were lost with the lane: the edge has to know the session before
/// what it holds of it counts.
#[test]
fn a_lane_that_opens_again_tells_of_a_session_before_what_is_for_it() {
    let (mut router, romeo, _) = verona();
    let edge = router.edge.clone();
    router.turn(vec![Input::EdgeLaneClosed {
        lane: LANE,
        instance: 1,
    }]);
    edge.0.lock().clear();
    router.turn(vec![Input::EdgeLane {
        lane: LANE,
        instance: 2,
        lanes: 1,
        sink: edge.clone(),
    }]);
    let told = std::mem::take(&mut *edge.0.lock());
    let bound = |body: &EdgeBody| matches!(body, EdgeBody::Bound(bound) if bound.handle == 2);
    let delivered = |body: &EdgeBody| matches!(body, EdgeBody::Deliver(_));
    let bound = told.iter().position(bound).unwrap();
    let delivered = told.iter().position(delivered).unwrap();
    assert!(bound < delivered);
    acknowledges(&mut router, &[]);
    assert_eq!(settled(&mut router, romeo), 1);
}

#[test]
fn the_guards_are_missed() {
    for (guard, test) in [
        (
            "refused-slots",
            "what_an_edge_has_refused_is_not_held_there",
        ),
        (
            "edge-knowledge",
            "an_edge_that_does_not_know_the_session_holds_nothing_of_it",
        ),
    ] {
        let name = format!("worker::frames::tests::{test}");
        let text = sestina_runtime::mutation::test_without(guard, &name).unwrap();
        assert!(text.contains("1 failed"), "{guard}: {text}");
    }
}
