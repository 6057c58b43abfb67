#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use sestina_api::shadow::{Loaded, ShadowObject, Stamp};
use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};

use crate::worker::core::LaneRef;
use crate::worker::input::{Input, JobDone};
use crate::worker::session::{Attachment, Older, Session};
use crate::worker::slot::new_origin;
use crate::worker::testing::{LANE, Router};

const ROMEO: &str = "romeo@c.example/orchard";
const EPOCH: u64 = 2;

fn edge_says(router: &mut Router, slot: u16, body: Body) {
    let frame = proto::ToRouter {
        slot: slot.into(),
        epoch: EPOCH,
        body: Some(body),
    };
    router.turn(vec![Input::Edge { lane: LANE, frame }]);
}

fn record(slot: u16) -> proto::SessionState {
    let (session_hi, session_lo) = sestina_api::key::split(new_origin(slot));
    proto::SessionState {
        session_hi,
        session_lo,
        jid: ROMEO.to_owned(),
        generation: 1,
        sm: true,
        sm_resume: true,
        sm_max_s: 300,
        ..proto::SessionState::default()
    }
}

/// A router that has taken Romeo's slot, of which the state store has these objects.
fn taken(router: &mut Router, slot: u16, objects: Vec<ShadowObject>) {
    let edge = proto::Node {
        name: "edge".to_owned(),
        incarnation: LANE.edge,
        ..proto::Node::default()
    };
    router.turn(vec![
        Input::Take {
            slot,
            epoch: EPOCH,
            live: Arc::from([edge]),
        },
        Input::Done(JobDone::ShadowLoaded {
            slot,
            epoch: EPOCH,
            result: Ok(Loaded {
                objects,
                ..Loaded::default()
            }),
        }),
    ]);
}

/// A router that has taken Romeo's slot, and his slot: the owner before had accepted five stanzas of
/// his, of which three are settled.
fn successor() -> (Router, u16) {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.config.slot_of(&Jid::from_wire(ROMEO));
    taken(&mut router, slot, Vec::new());
    let record = record(slot);
    let session = proto::SessionReport {
        handle: 1,
        generation: 1,
        session_hi: record.session_hi,
        session_lo: record.session_lo,
        jid: ROMEO.to_owned(),
        state: record.encode_to_vec().into(),
        settled: 3,
        accepted: 5,
        sent: 6,
        ..proto::SessionReport::default()
    };
    let report = proto::EpochReport {
        sessions: vec![session],
        ..proto::EpochReport::default()
    };
    edge_says(&mut router, slot, Body::EpochReport(report));
    (router, slot)
}

fn sole(router: &Router) -> usize {
    router.worker.counts().sole
}

/// Also run as the child of the next test, with the guard off.
#[test]
fn what_one_process_alone_holds_is_counted() {
    sestina_runtime::faults_from_env().unwrap();
    let (mut router, slot) = successor();
    for n in [4, 5] {
        assert_eq!(sole(&router), 1, "the edge alone has number {n}");
        let mut stanza = Stanza::new(Kind::Message);
        stanza.to = "juliet@c.example".to_owned();
        let inbound = proto::Inbound {
            handle: 1,
            generation: 1,
            n,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        };
        edge_says(&mut router, slot, Body::Inbound(inbound));
    }
    assert_eq!(sole(&router), 0);
    router.turn(vec![Input::EdgeLaneClosed {
        lane: LANE,
        instance: 1,
    }]);
    assert_eq!(sole(&router), 1, "the edge may be dead");
}

/// It is in the state store, and no edge holds anything of it: it waits for its client alone.
#[test]
fn a_session_that_waits_in_the_state_store_is_held_by_two() {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.config.slot_of(&Jid::from_wire(ROMEO));
    let record = proto::SessionState {
        accepted: 5,
        ..record(slot)
    };
    let id = sestina_api::key::join(record.session_hi, record.session_lo);
    let object = ShadowObject {
        object: format!("s:{id:032x}"),
        version: Stamp::new(1, 1),
        fields: vec![("meta".to_owned(), record.encode_to_vec().into())],
    };
    taken(&mut router, slot, vec![object]);
    let nothing = proto::EpochReport::default();
    edge_says(&mut router, slot, Body::EpochReport(nothing));
    let counts = router.worker.counts();
    assert_eq!(
        (counts.sessions, counts.sole),
        (1, 0),
        "{:?}",
        counts.sole_one
    );
}

#[test]
fn the_guard_is_missed() {
    let name = "worker::sole::tests::what_one_process_alone_holds_is_counted";
    let text = sestina_runtime::mutation::test_without("sole", name).unwrap();
    assert!(text.contains("1 failed"), "{text}");
}

/// Five stanzas were accepted, four of them through an attachment before the last one, whose edge knows
/// that three are settled.
fn resumed_and_detached() -> Session {
    let detached = Attachment::Detached {
        deadline_ms: 0,
        until_ms: 0,
        committed: true,
    };
    let mut session = Session::from_record(proto::SessionState::default(), detached);
    (session.accepted, session.settled, session.mark) = (5, 4, 3);
    let last = LaneRef { edge: 8, lane: 0 };
    session.detached_from = Some((last, 2));
    session.older.push(Older {
        lane: LANE,
        handle: 1,
        generation: 1,
        until: 4,
    });
    session
}

/// Otherwise a new owner would hear from the last edge that three are settled, and wait for the fourth.
#[test]
fn an_older_attachment_of_a_detached_session_is_kept_until_the_last_one_knows_what_is_settled() {
    let mut session = resumed_and_detached();
    assert_eq!(session.older_done().len(), 0);
    session.mark = 4;
    assert_eq!(session.older_done().len(), 1);
}

#[test]
fn an_older_attachment_is_not_kept_for_an_edge_that_has_died() {
    let mut session = resumed_and_detached();
    session.detached_from = None;
    session.lose_copies(session.accepted);
    assert_eq!(session.older_done().len(), 1);
}
