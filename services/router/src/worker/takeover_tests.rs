#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use sestina_api::key::{EffectKey, EffectKind};
use sestina_api::shadow::{Loaded, ShadowObject, Stamp};
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use tokio::sync::oneshot;

use super::*;
use crate::worker::core::Job;
use crate::worker::input::{Command, Input, JobDone, Known};
use crate::worker::slot::new_origin;
use crate::worker::testing::{LANE, Router};

const ROMEO: &str = "romeo@c.example/orchard";
const EPOCH: u64 = 2;

/// A router that takes Romeo's slot from another owner.
struct Successor {
    router: Router,
    slot: u16,
    record: proto::SessionState,
}

impl Successor {
    fn new() -> Successor {
        let router = Router::new(1, &[], || 0);
        let slot = router.config.slot_of(&Jid::from_wire(ROMEO));
        let (session_hi, session_lo) = sestina_api::key::split(new_origin(slot));
        let record = proto::SessionState {
            session_hi,
            session_lo,
            jid: ROMEO.to_owned(),
            generation: 1,
            sm: true,
            sm_resume: true,
            sm_max_s: 300,
            ..proto::SessionState::default()
        };
        Successor {
            router,
            slot,
            record,
        }
    }

    fn take(&mut self, live: Arc<[proto::Node]>, objects: Vec<ShadowObject>) {
        let (slot, epoch) = (self.slot, EPOCH);
        self.router.turn(vec![
            Input::Take { slot, epoch, live },
            Input::Done(JobDone::ShadowLoaded {
                slot,
                epoch,
                result: Ok(Loaded {
                    objects,
                    ..Loaded::default()
                }),
            }),
        ]);
    }

    fn edge_says(&mut self, body: RouterBody) -> Vec<EdgeBody> {
        let frame = proto::ToRouter {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        self.router.turn(vec![Input::Edge { lane: LANE, frame }]);
        std::mem::take(&mut *self.router.edge.0.lock())
    }

    /// Romeo's n-th stanza, sent again.
    fn again(&mut self, n: u64) -> Vec<EdgeBody> {
        let mut stanza = Stanza::new(Kind::Message);
        stanza.to = "juliet@c.example".to_owned();
        self.edge_says(RouterBody::Inbound(proto::Inbound {
            handle: 1,
            generation: 1,
            n,
            stanza: Some(stanza.into()),
            ..proto::Inbound::default()
        }))
    }

    fn sessions(&mut self) -> usize {
        let slot = self.router.worker.slots.get_mut(self.slot).unwrap();
        slot.sessions.values().filter(|s| s.is_live()).count()
    }
}

fn closed(bodies: &[EdgeBody]) -> Option<&str> {
    bodies.iter().find_map(|body| match body {
        EdgeBody::Close(close) => Some(close.condition.as_str()),
        _ => None,
    })
}

/// What the client knows to be accepted is not lost when its session is closed just then.
#[test]
fn a_session_is_closed_once_its_edge_has_sent_all_of_it_again() {
    let mut successor = Successor::new();
    let edge = proto::Node {
        name: "edge".to_owned(),
        incarnation: LANE.edge,
        ..proto::Node::default()
    };
    successor.take(Arc::from([edge]), Vec::new());
    let record = &successor.record;
    let report = proto::SessionReport {
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
        sessions: vec![report],
        ..proto::EpochReport::default()
    };
    successor.edge_says(RouterBody::EpochReport(report));
    let (answer, asked) = oneshot::channel();
    let jid = ROMEO.to_owned();
    successor
        .router
        .turn(vec![Input::Command(Command::Close { jid, answer })]);
    assert_eq!(asked.blocking_recv(), Ok(1));
    let told = std::mem::take(&mut *successor.router.edge.0.lock());
    assert_eq!(closed(&told), None);
    let fourth = successor.again(4);
    assert_eq!(closed(&fourth), None);
    let fifth = successor.again(5);
    assert_eq!(closed(&fifth), Some("not-authorized"));
    assert_eq!(successor.sessions(), 0);
}

/// How many seconds a session from the shadow waits under its new owner.
fn waits(resumable_until_ms: i64) -> u64 {
    let mut successor = Successor::new();
    successor.record.resumable_until_ms = resumable_until_ms;
    let record = &successor.record;
    let id = join(record.session_hi, record.session_lo);
    let object = ShadowObject {
        object: format!("s:{id:032x}"),
        version: Stamp::new(1, 1),
        fields: vec![("meta".to_owned(), record.encode_to_vec().into())],
    };
    successor.take(Arc::from([]), vec![object]);
    assert_eq!(successor.sessions(), 1);
    let began = successor.router.now_ms;
    while successor.sessions() == 1 {
        successor.router.now_ms += successor.router.config.tick_ms;
        successor.router.turn(Vec::new());
    }
    (successor.router.now_ms - began) / 1000
}

/// XEP-0198 §5: the time after which a session ends does not begin again with each owner.
#[test]
fn a_detached_session_keeps_its_deadline() {
    // The clock of the day stands at 0 here. It is looked about once a second.
    let about = |seconds: u64| seconds..seconds + 3;
    assert!(about(120).contains(&waits(120_000)));
    let whole = about(300);
    assert!(whole.contains(&waits(0)), "it had a socket");
    assert!(whole.contains(&waits(3_600_000)), "the clocks differ");
    assert!(about(30).contains(&waits(1)), "its client found nobody");
}

/// Another router's effect for Romeo, that the owner before may have handled.
fn effect(slot: u16, origin: u128, n: u64, stanza: &Stanza) -> Input {
    let effect = proto::Effect {
        key: Some(EffectKey::new(origin, n, EffectKind::Route).into()),
        origin_slot: 1,
        origin_epoch: 1,
        stanza: Some(stanza.clone().into()),
        stream: 1,
        seq: n - 24,
        ..proto::Effect::default()
    };
    Input::Peer {
        from: PeerRef(2),
        frame: proto::PeerFrame {
            slot: slot.into(),
            epoch: EPOCH,
            body: Some(proto::peer_frame::Body::Effect(effect)),
        },
    }
}

/// A question that a session had, which ends before its replay is handled, is not put to the
/// session that comes after it.
#[test]
fn what_a_session_had_is_not_asked_of_the_next() {
    let mut successor = Successor::new();
    let (slot, origin) = (successor.slot, new_origin(1));
    let edge = proto::Node {
        incarnation: LANE.edge,
        ..proto::Node::default()
    };
    successor.take(Arc::from([edge]), Vec::new());
    let mut message = Stanza::new(Kind::Message);
    message.to = "romeo@c.example".to_owned();
    message.from = "juliet@c.example/balcony".to_owned();
    let mut question = Stanza::new(Kind::Iq);
    question.to = ROMEO.to_owned();
    question.from = message.from.clone();
    question.type_ = "get".to_owned();
    question.id = "q".to_owned();
    let record = &successor.record;
    let held = proto::Outbound {
        number: 1,
        key: Some(EffectKey::new(origin, 26, EffectKind::Route).into()),
        stanza: Some(question.clone().into()),
        at_ms: 0,
        ..proto::Outbound::default()
    };
    let report = proto::SessionReport {
        handle: 1,
        generation: 1,
        session_hi: record.session_hi,
        session_lo: record.session_lo,
        jid: ROMEO.to_owned(),
        state: record.encode_to_vec().into(),
        received: 1,
        acked: 1,
        held: vec![held],
        ..proto::SessionReport::default()
    };
    successor.edge_says(RouterBody::EpochReport(proto::EpochReport {
        sessions: vec![report],
        ..proto::EpochReport::default()
    }));
    // The message waits for what storage knows of it, and the question behind it.
    let inputs = vec![
        effect(slot, origin, 25, &message),
        effect(slot, origin, 26, &question),
    ];
    let jobs = successor.router.turn(inputs);
    assert!(jobs.iter().any(|job| matches!(job, Job::UserKnown { .. })));
    successor.edge_says(RouterBody::Close(proto::Close {
        handle: 1,
        generation: 1,
        clean: true,
    }));
    let told = successor.edge_says(RouterBody::Bind(proto::Bind {
        handle: 2,
        bare: "romeo@c.example".to_owned(),
        resource: "orchard".to_owned(),
        ..proto::Bind::default()
    }));
    assert!(told.iter().any(|body| matches!(body, EdgeBody::Bound(_))));
    let known = Known {
        exists: true,
        stored: Vec::new(),
    };
    successor.router.turn(vec![Input::Done(JobDone::UserKnown {
        slot,
        bare: "romeo@c.example".to_owned(),
        known: Ok(known),
    })]);
    let told = std::mem::take(&mut *successor.router.edge.0.lock());
    let delivered = told.iter().filter_map(|body| match body {
        EdgeBody::Deliver(deliver) => Some(deliver),
        _ => None,
    });
    let kinds: Vec<proto::StanzaKind> = delivered
        .flat_map(|deliver| &deliver.variants)
        .filter_map(|variant| variant.stanza.as_ref())
        .map(proto::Stanza::kind)
        .collect();
    assert!(!kinds.contains(&proto::StanzaKind::Iq), "{kinds:?}");
}

/// The same when the edge of the session that comes after it is heard first, and the end of the
/// one that had the question is still on its way.
#[test]
fn a_question_that_a_replaced_session_had_is_not_put_to_the_later_one() {
    let mut successor = Successor::new();
    let (slot, origin) = (successor.slot, new_origin(1));
    let edge = |incarnation| proto::Node {
        incarnation,
        ..proto::Node::default()
    };
    successor.take(Arc::from([edge(LANE.edge)]), Vec::new());
    let mut question = Stanza::new(Kind::Iq);
    question.to = ROMEO.to_owned();
    question.from = "juliet@c.example/balcony".to_owned();
    question.type_ = "get".to_owned();
    let held = proto::Outbound {
        number: 1,
        key: Some(EffectKey::new(origin, 25, EffectKind::Route).into()),
        stanza: Some(question.clone().into()),
        at_ms: 0,
        ..proto::Outbound::default()
    };
    let record = &successor.record;
    let replaced = proto::SessionReport {
        handle: 1,
        generation: 1,
        session_hi: record.session_hi,
        session_lo: record.session_lo,
        jid: ROMEO.to_owned(),
        state: record.encode_to_vec().into(),
        received: 1,
        acked: 1,
        held: vec![held],
        ..proto::SessionReport::default()
    };
    let (session_hi, session_lo) = sestina_api::key::split(new_origin(slot));
    let later = proto::SessionState {
        session_hi,
        session_lo,
        ..record.clone()
    };
    let later = proto::SessionReport {
        handle: 2,
        generation: 1,
        session_hi,
        session_lo,
        jid: ROMEO.to_owned(),
        state: later.encode_to_vec().into(),
        ..proto::SessionReport::default()
    };
    successor.edge_says(RouterBody::EpochReport(proto::EpochReport {
        sessions: vec![later, replaced],
        ..proto::EpochReport::default()
    }));
    successor
        .router
        .turn(vec![effect(slot, origin, 25, &question)]);
    let told = std::mem::take(&mut *successor.router.edge.0.lock());
    let asked = told.iter().any(|body| matches!(body, EdgeBody::Deliver(_)));
    assert!(!asked, "{told:?}");
}

const GARDEN: &str = "garden@muc.c.example";

/// A private message of a room that a dead owner delivered, and may not have archived.
#[test]
fn what_a_room_said_to_a_user_is_archived_by_the_next_owner() {
    let mut successor = Successor::new();
    let (slot, room) = (successor.slot, new_origin(1));
    let edge = proto::Node {
        incarnation: LANE.edge,
        ..proto::Node::default()
    };
    successor.take(Arc::from([edge]), Vec::new());
    let mut private = Stanza::new(Kind::Message);
    private.type_ = "chat".to_owned();
    private.from = format!("{GARDEN}/Juliet");
    private.push_raw(b"<body>psst</body>", "body", sestina_xmpp::ns::CLIENT);
    let mut stamped = private.clone();
    crate::worker::receive::stamp(&mut stamped, &Jid::from_wire("romeo@c.example"), "00");
    let held = proto::Outbound {
        number: 1,
        key: Some(EffectKey::indexed(room, 7, EffectKind::RoomEvent, 0).into()),
        stanza: Some(stamped.into()),
        at_ms: 0,
        ..proto::Outbound::default()
    };
    let record = &successor.record;
    let (session_hi, session_lo) = (record.session_hi, record.session_lo);
    let report = proto::SessionReport {
        handle: 1,
        generation: 1,
        session_hi,
        session_lo,
        jid: ROMEO.to_owned(),
        state: record.encode_to_vec().into(),
        received: 1,
        acked: 1,
        held: vec![held],
        ..proto::SessionReport::default()
    };
    let frame = proto::ToRouter {
        slot: slot.into(),
        epoch: EPOCH,
        body: Some(RouterBody::EpochReport(proto::EpochReport {
            sessions: vec![report],
            ..proto::EpochReport::default()
        })),
    };
    let archived = |jobs: Vec<Job>| -> Vec<(proto::ArchiveRow, _)> {
        let batches = jobs.into_iter().filter_map(|job| match job {
            Job::Archive { rows, works } => Some(rows.into_iter().zip(works)),
            _ => None,
        });
        batches.flatten().collect()
    };
    let first = archived(
        successor
            .router
            .turn(vec![Input::Edge { lane: LANE, frame }]),
    );
    let [(row, work)] = &first[..] else {
        panic!("{first:?}")
    };
    assert_eq!(
        (row.with_bare.as_str(), row.with_resource.as_str()),
        (GARDEN, "Juliet")
    );
    let stanza = Stanza::from(row.stanza.clone().unwrap());
    assert_eq!(stanza.payload, private.payload);

    // The room tells it again, to the new owner: it is delivered no more, and taken when the row is
    // committed.
    successor.router.turn(vec![Input::Done(JobDone::Archive {
        slots: vec![(slot, EPOCH)],
        works: vec![*work],
        fenced: Vec::new(),
    })]);
    successor.router.edge.0.lock().clear();
    let event = proto::RoomEvent {
        key: Some(EffectKey::new(room, 7, EffectKind::RoomEvent).into()),
        room_slot: 1,
        room_epoch: 1,
        variants: vec![private.into()],
        targets: vec![proto::RoomTarget {
            slot: slot.into(),
            session_hi,
            session_lo,
            ..proto::RoomTarget::default()
        }],
        ..proto::RoomEvent::default()
    };
    let frame = proto::PeerFrame {
        slot: 1,
        epoch: 1,
        body: Some(proto::peer_frame::Body::RoomEvent(event)),
    };
    let from = PeerRef(2);
    let again = archived(successor.router.turn(vec![Input::Peer { from, frame }]));
    let acks = |successor: &Successor| -> usize {
        let frames = successor.router.peer.0.lock();
        let is_ack =
            |f: &&proto::PeerFrame| matches!(f.body, Some(proto::peer_frame::Body::RoomAck(_)));
        frames.iter().filter(is_ack).count()
    };
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].0.stanza_id, row.stanza_id);
    assert_eq!(acks(&successor), 0);
    successor.router.turn(vec![Input::Done(JobDone::Archive {
        slots: vec![(slot, EPOCH)],
        works: vec![again[0].1],
        fenced: Vec::new(),
    })]);
    assert_eq!(acks(&successor), 1);
    let told = std::mem::take(&mut *successor.router.edge.0.lock());
    assert!(!told.iter().any(|b| matches!(b, EdgeBody::Deliver(_))));
}
