#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use tokio::sync::oneshot;

use super::*;
use crate::worker::core::Job;
use crate::worker::input::{Command, Input, JobDone};
use crate::worker::slot::new_origin;
use crate::worker::successor::{self, EPOCH, Successor};

const ROMEO: &str = "romeo@c.example/orchard";

/// Romeo's edge sends his n-th stanza again. Returns the frames that the router sends to the edge.
fn again(successor: &mut Successor, n: u64) -> Vec<EdgeBody> {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.to = "juliet@c.example".to_owned();
    successor.client_says(n, stanza);
    successor.told()
}

fn sessions(successor: &mut Successor) -> usize {
    let slot = successor.router.worker.slots.get_mut(successor.slot);
    let all = slot.unwrap().sessions.values();
    all.filter(|s| s.is_live()).count()
}

fn closed(bodies: &[EdgeBody]) -> Option<&str> {
    bodies.iter().find_map(|body| match body {
        EdgeBody::Close(close) => Some(close.condition.as_str()),
        _ => None,
    })
}

/// The next owner of Romeo's slot: the owner before had accepted five stanzas of his session and settled
/// three of them, and his edge holds six.
fn owing() -> Successor {
    let mut successor = Successor::new(ROMEO);
    successor.take(successor::edge(), Vec::new());
    let record = successor::record(successor.slot, ROMEO);
    successor.reported(vec![proto::SessionReport {
        settled: 3,
        accepted: 5,
        sent: 6,
        ..successor::report(&record, 1)
    }]);
    successor
}

/// What the client knows to be accepted is not lost when its session is closed just then.
#[test]
fn a_session_is_closed_once_its_edge_has_sent_all_of_it_again() {
    let mut successor = owing();
    let (answer, asked) = oneshot::channel();
    let jid = ROMEO.to_owned();
    successor
        .router
        .turn(vec![Input::Command(Command::Close { jid, answer })]);
    assert_eq!(asked.blocking_recv(), Ok(1));
    assert_eq!(closed(&successor.told()), None);
    let fourth = again(&mut successor, 4);
    assert_eq!(closed(&fourth), None);
    let fifth = again(&mut successor, 5);
    assert_eq!(closed(&fifth), Some("not-authorized"));
    assert_eq!(sessions(&mut successor), 0);
}

/// Its socket is lost before that: the session waits for a resumption only when all of it has come.
#[test]
fn a_session_is_detached_once_its_edge_has_sent_all_of_it_again() {
    let mut successor = owing();
    let lost = |successor: &mut Successor| {
        successor.told();
        successor.edge_says(RouterBody::Close(proto::Close {
            handle: 1,
            generation: 1,
            clean: false,
        }));
        let told = successor.told();
        let asked = told.iter().find_map(|body| match body {
            Body::Redirect(redirect) => Some(redirect.n),
            _ => None,
        });
        let slot = successor.router.worker.slots.get_mut(successor.slot);
        let session = slot.unwrap().sessions.values().next().unwrap();
        (asked, session.edge().is_none())
    };
    assert_eq!(lost(&mut successor), (Some(4), false));
    again(&mut successor, 4);
    assert_eq!(lost(&mut successor), (Some(5), false));
    again(&mut successor, 5);
    assert_eq!(lost(&mut successor), (None, true));
}

/// The edge of the older attachment knows less than that of the newer one: nothing of it is lost.
#[test]
fn an_attachment_that_was_resumed_from_is_told_so_by_a_new_owner() {
    let mut successor = Successor::new(ROMEO);
    successor.take(successor::edge(), Vec::new());
    let record = successor::record(successor.slot, ROMEO);
    let older = proto::SessionReport {
        settled: 1,
        accepted: 3,
        ..successor::report(&record, 1)
    };
    let newer = proto::SessionReport {
        generation: 2,
        began: 3,
        settled: 3,
        accepted: 3,
        ..successor::report(&record, 2)
    };
    successor.reported(vec![older, newer]);
    let told = successor.told();
    let restored = told.iter().find_map(|body| match body {
        Body::Restored(restored) => Some(restored),
        _ => None,
    });
    let items = restored.unwrap().items.iter();
    let mut items: Vec<_> = items.map(|item| (item.handle, item.settled)).collect();
    items.sort_unstable();
    assert_eq!(items, [(1, 3), (2, 3)]);
    let closed: Vec<_> = told
        .iter()
        .filter_map(|body| match body {
            Body::Close(close) => Some((close.handle, close.keep, &close.condition[..])),
            _ => None,
        })
        .collect();
    assert_eq!(closed, [(1, true, "conflict")]);
}

/// How many seconds a session from the shadow waits under its new owner.
fn waits(resumable_until_ms: i64) -> u64 {
    let mut successor = Successor::new(ROMEO);
    let record = proto::SessionState {
        resumable_until_ms,
        ..successor::record(successor.slot, ROMEO)
    };
    successor.take(Arc::from([]), vec![successor::stored(&record)]);
    assert_eq!(sessions(&mut successor), 1);
    let began = successor.router.now_ms;
    while sessions(&mut successor) == 1 {
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

/// A question that a session had, which ends before its replay is handled, is not put to the
/// session that comes after it.
#[test]
fn what_a_session_had_is_not_asked_of_the_next() {
    let mut successor = Successor::new(ROMEO);
    let origin = new_origin(1);
    successor.take(successor::edge(), Vec::new());
    let mut message = Stanza::new(Kind::Message);
    message.to = "romeo@c.example".to_owned();
    message.from = "juliet@c.example/balcony".to_owned();
    let question = question();
    let record = successor::record(successor.slot, ROMEO);
    successor.reported(vec![proto::SessionReport {
        received: 1,
        acked: 1,
        held: vec![successor::held(1, origin, 26, &question)],
        ..successor::report(&record, 1)
    }]);
    // The message waits for what storage knows of it, and the question behind it.
    let mut jobs = successor.comes_again(origin, 25, 1, &message);
    jobs.extend(successor.comes_again(origin, 26, 2, &question));
    assert!(jobs.iter().any(|job| matches!(job, Job::UserKnown { .. })));
    successor.client_closes();
    successor.told();
    successor.edge_says(RouterBody::Bind(proto::Bind {
        handle: 2,
        bare: "romeo@c.example".to_owned(),
        resource: "orchard".to_owned(),
        ..proto::Bind::default()
    }));
    let told = successor.told();
    assert!(told.iter().any(|body| matches!(body, EdgeBody::Bound(_))));
    successor.not_stored("romeo@c.example");
    let told = successor.told();
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
    let mut successor = Successor::new(ROMEO);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    let question = question();
    let replaced = proto::SessionReport {
        received: 1,
        acked: 1,
        held: vec![successor::held(1, origin, 25, &question)],
        ..successor::report(&successor::record(slot, ROMEO), 1)
    };
    let later = successor::report(&successor::record(slot, ROMEO), 2);
    successor.reported(vec![later, replaced]);
    successor.told();
    successor.comes_again(origin, 25, 1, &question);
    let told = successor.told();
    let asked = told.iter().any(|body| matches!(body, EdgeBody::Deliver(_)));
    assert!(!asked, "{told:?}");
}

fn question() -> Stanza {
    let mut question = Stanza::new(Kind::Iq);
    question.to = ROMEO.to_owned();
    question.from = "juliet@c.example/balcony".to_owned();
    question.type_ = "get".to_owned();
    question.id = "q".to_owned();
    question
}

const GARDEN: &str = "garden@muc.c.example";

/// A private message of a room that a dead owner delivered, and may not have archived.
#[test]
fn what_a_room_said_to_a_user_is_archived_by_the_next_owner() {
    let mut successor = Successor::new(ROMEO);
    let (slot, room) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    let mut private = Stanza::new(Kind::Message);
    private.type_ = "chat".to_owned();
    private.from = format!("{GARDEN}/Juliet");
    private.push_raw(b"<body>psst</body>", "body", sestina_xmpp::ns::CLIENT);
    let mut stamped = private.clone();
    crate::worker::receive::stamp(&mut stamped, &Jid::from_wire("romeo@c.example"), "00");
    let event = EffectKey::indexed(room, 7, EffectKind::RoomEvent, 0);
    let held = proto::Outbound {
        key: Some(event.into()),
        ..successor::held(1, room, 7, &stamped)
    };
    let record = successor::record(slot, ROMEO);
    let (session_hi, session_lo) = (record.session_hi, record.session_lo);
    let archived = |jobs: Vec<Job>| -> Vec<(proto::ArchiveRow, _)> {
        let batches = jobs.into_iter().filter_map(|job| match job {
            Job::Archive { rows, works } => Some(rows.into_iter().zip(works)),
            _ => None,
        });
        batches.flatten().collect()
    };
    let first = archived(successor.reported(vec![proto::SessionReport {
        received: 1,
        acked: 1,
        held: vec![held],
        ..successor::report(&record, 1)
    }]));
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
    let told = successor.told();
    assert!(!told.iter().any(|b| matches!(b, EdgeBody::Deliver(_))));
}
