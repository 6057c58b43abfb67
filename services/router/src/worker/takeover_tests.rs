#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_api::state_store::Stamp;
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
use crate::worker::testing::Router;

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
    all.filter(|s| s.channel.is_live()).count()
}

fn closed(bodies: &[EdgeBody]) -> Option<&str> {
    bodies.iter().find_map(|body| match body {
        EdgeBody::Close(close) => Some(close.condition.as_str()),
        _ => None,
    })
}

/// The next owner of Romeo's slot: his edge had sent six stanzas of his session to the owner before, which had said that
/// five are accepted and three settled. It may have accepted the sixth, too.
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

/// What the owner before may have handled is handled again when the session is closed just then: the client may know it to
/// be accepted, or a part of what it causes may be done.
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
    assert_eq!(closed(&fifth), None);
    let sixth = again(&mut successor, 6);
    assert_eq!(closed(&sixth), Some("not-authorized"));
    assert_eq!(sessions(&mut successor), 0);
}

/// Another session asks for its address meanwhile, and has to wait.
#[test]
fn an_address_is_given_away_once_its_edge_has_sent_all_of_its_session_again() {
    let mut successor = owing();
    let bound = |successor: &mut Successor| {
        let told = successor.second_binds();
        let bound = told.iter().any(|body| matches!(body, Body::Bound(_)));
        assert_eq!(closed(&told), bound.then_some("conflict"));
        bound
    };
    for n in [4, 5, 6] {
        assert!(!bound(&mut successor), "before number {n}");
        again(&mut successor, n);
    }
    assert!(bound(&mut successor));
}

/// The owner before had ended a session because another one was bound with its address, and died before the edge of the
/// first one knew: the first one ends once its edge has sent all of it again. If it is not known which one was bound
/// later, both go on.
#[test]
fn of_two_sessions_with_one_address_the_one_that_was_bound_later_goes_on() {
    for (bound, over) in [((1, 1), true), ((0, 0), false), ((1, 3), false)] {
        let mut successor = Successor::new(ROMEO);
        successor.take(successor::edge(), Vec::new());
        let slot = successor.slot;
        let report = |handle: u64, bound: (u64, u64), sent: u64| {
            let record = proto::SessionState {
                bound_epoch: bound.0,
                bound_counter: bound.1,
                ..successor::record(slot, ROMEO)
            };
            proto::SessionReport {
                sent,
                ..successor::report(&record, handle)
            }
        };
        // The later one has sent more, which does not come again here.
        successor.reported(vec![report(1, bound, 1), report(2, (1, 2), 2)]);
        assert_eq!(closed(&successor.told()), None);
        let first = again(&mut successor, 1);
        assert_eq!(closed(&first), over.then_some("conflict"));
        assert_eq!(sessions(&mut successor), if over { 1 } else { 2 });
    }
}

/// The commits that a new owner makes at once for a slot of which the state store has no objects, each with the number
/// of objects that it changes. `before` is the last write of the owners before.
fn first_commits(before: Stamp) -> Vec<(Stamp, usize)> {
    let mut router = Router::new(1, &[], || 0);
    let (slot, epoch, live) = (7, EPOCH, Arc::from([]));
    let loaded = Loaded {
        at: Stamp::new(epoch, 0),
        before,
        objects: Vec::new(),
    };
    let loaded = JobDone::ReplicaLoaded {
        slot,
        epoch,
        result: Ok(loaded),
    };
    let jobs = router.turn(vec![Input::Take { slot, epoch, live }, Input::Done(loaded)]);
    let commits = jobs.into_iter().filter_map(|job| match job {
        Job::ReplicaCommit { at, ops, .. } => Some((at, ops.len())),
        _ => None,
    });
    commits.collect()
}

/// A late write of an earlier owner may come to a state store that has forgotten all epochs. A slot without
/// objects would never hear of it if it had written nothing itself.
#[test]
fn a_slot_whose_objects_were_all_removed_makes_itself_known_to_the_state_store() {
    assert_eq!(first_commits(Stamp::new(1, 5)), [(Stamp::new(EPOCH, 1), 0)]);
    assert!(first_commits(Stamp::new(1, 0)).is_empty());
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
        (asked, session.channel.edge().is_none())
    };
    assert_eq!(lost(&mut successor), (Some(4), false));
    again(&mut successor, 4);
    assert_eq!(lost(&mut successor), (Some(5), false));
    again(&mut successor, 5);
    assert_eq!(lost(&mut successor), (Some(6), false));
    again(&mut successor, 6);
    assert_eq!(lost(&mut successor), (None, true));
}

/// The edge of the older attachment knows less than that of the newer one: nothing of it is lost.
#[test]
fn an_attachment_that_was_resumed_from_is_told_so_by_a_new_owner() {
    let mut successor = Successor::new(ROMEO);
    successor.take(successor::edge(), Vec::new());
    let record = successor::record(successor.slot, ROMEO);
    let previous = proto::SessionReport {
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
    successor.reported(vec![previous, newer]);
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

/// The nick that a session has under its new owner: its edge and the state store have records of it, with the number of
/// stanzas that the owner before had sent to the client by then, and the nick.
fn nick(at_edge: (u64, &str), in_store: (u64, &str)) -> String {
    let mut successor = Successor::new(ROMEO);
    let session = successor::record(successor.slot, ROMEO);
    let of = |(sent, nick): (u64, &str)| proto::SessionState {
        next: sent,
        acked: sent,
        joined: vec![proto::JoinedRoom {
            room: "verona@rooms.example".to_owned(),
            nick: nick.to_owned(),
            member: None,
        }],
        ..session.clone()
    };
    let (reported, stored) = (of(at_edge), of(in_store));
    successor.take(successor::edge(), vec![successor::stored(&stored)]);
    successor.reported(vec![successor::report(&reported, 1)]);
    let slot = successor.router.worker.slots.get_mut(successor.slot);
    let session = slot.unwrap().sessions.values().next().unwrap();
    let joined = session.client.joined.values().next();
    joined.unwrap().nick.clone()
}

/// The owner before may have died when the state store had what a room told the session, and its edge did not.
#[test]
fn of_two_records_of_a_session_the_later_one_counts() {
    assert_eq!(nick((1, "romeo"), (2, "montague")), "montague");
    assert_eq!(nick((2, "montague"), (1, "romeo")), "montague");
}

/// How many seconds a session from the state store waits under its new owner.
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
        successor.router.now_ms += successor.router.config.times.tick_ms;
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
    let told = successor.second_binds();
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

/// An edge before this one had a message, the state store took it over, and the client acknowledged it when it
/// resumed: the store alone has its key.
#[test]
fn a_message_whose_key_only_the_state_store_has_is_not_delivered_again() {
    let mut successor = Successor::new(ROMEO);
    let (slot, origin) = (successor.slot, new_origin(1));
    let record = proto::SessionState {
        acked: 1,
        next: 1,
        ..successor::record(slot, ROMEO)
    };
    let mut object = successor::stored(&record);
    let key = IdempotencyKey::new(origin, 25, Purpose::Route);
    let item = crate::worker::channel::acked_outbound(1, key);
    let value = prost::Message::encode_to_vec(&item);
    object.fields.push(("q:1".to_owned(), value.into()));
    successor.take(successor::edge(), vec![object]);
    successor.reported(vec![proto::SessionReport {
        generation: 2,
        received: 1,
        acked: 1,
        ..successor::report(&record, 1)
    }]);
    successor.told();
    let mut message = Stanza::new(Kind::Message);
    message.to = ROMEO.to_owned();
    message.from = "juliet@c.example/balcony".to_owned();
    successor.comes_again(origin, 25, 1, &message);
    successor.not_stored("romeo@c.example");
    let told = successor.told();
    let again = told.iter().any(|body| matches!(body, EdgeBody::Deliver(_)));
    assert!(!again, "{told:?}");
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
    let event = IdempotencyKey::indexed(room, 7, Purpose::RoomEvent, 0);
    let held = proto::Outbound {
        key: Some(event.into()),
        ..successor::held(1, room, 7, &stamped)
    };
    let record = successor::record(slot, ROMEO);
    let (session_hi, session_lo) = (record.session_hi, record.session_lo);
    let archived = |jobs: Vec<Job>| -> Vec<(proto::ArchiveRow, _)> {
        let batches = jobs.into_iter().filter_map(|job| match job {
            Job::Archive { rows, operations } => Some(rows.into_iter().zip(operations)),
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
    let [(row, operation)] = &first[..] else {
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
        operations: vec![*operation],
        fenced: Vec::new(),
    })]);
    successor.router.edge.0.lock().clear();
    let event = proto::RoomEvent {
        key: Some(IdempotencyKey::new(room, 7, Purpose::RoomEvent).into()),
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
        operations: vec![again[0].1],
        fenced: Vec::new(),
    })]);
    assert_eq!(acks(&successor), 1);
    let told = successor.told();
    assert!(!told.iter().any(|b| matches!(b, EdgeBody::Deliver(_))));
}
