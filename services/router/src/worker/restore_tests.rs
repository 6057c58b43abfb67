#![allow(clippy::unwrap_used)]

use sestina_api::state_store::{Found, ReplicaOp, Stamp};
use sestina_proto::to_edge::Body;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::*;
use crate::worker::core::Job;
use crate::worker::input::{Input, JobDone};
use crate::worker::successor::{self, EPOCH, Successor};

const ROMEO: &str = "romeo@c.example/orchard";

/// The edge of the attachment before sends Romeo's n-th stanza again.
fn again(successor: &mut Successor, n: u64) {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.to = "juliet@c.example".to_owned();
    successor.client_says(n, stanza);
    successor.told();
}

fn closed(bodies: &[Body]) -> Option<&str> {
    bodies.iter().find_map(|body| match body {
        Body::Close(close) => Some(close.condition.as_str()),
        _ => None,
    })
}

/// The owner before had resumed Romeo's session and accepted three stanzas of it; the state store has that, with what
/// was settled then, and the edge of the resumption does not. The edge reports the attachment before: it
/// knows that the first stanza is settled, and holds two.
fn resumed_unheard(settled: u64) -> Successor {
    let mut successor = Successor::new(ROMEO);
    let record = proto::SessionState {
        generation: 2,
        accepted: 3,
        settled: Some(settled),
        ..successor::record(successor.slot, ROMEO)
    };
    successor.take(successor::edge(), vec![successor::stored(&record)]);
    successor.reported(vec![proto::SessionReport {
        settled: 1,
        accepted: 3,
        sent: 3,
        ..successor::report(&record, 1)
    }]);
    successor
}

fn restored(told: &[Body]) -> Vec<(u64, u64)> {
    let restored = told.iter().find_map(|body| match body {
        Body::Restored(restored) => Some(restored),
        _ => None,
    });
    let items = restored.unwrap().items.iter();
    items.map(|item| (item.handle, item.settled)).collect()
}

/// The client asks for its session again. Returns the generation and what is accepted, if it gets it.
fn resumes(successor: &mut Successor) -> Option<(u32, u64)> {
    let slot = successor.router.worker.slots.get_mut(successor.slot);
    let id = slot.unwrap().sessions.values().next().unwrap().channel.id;
    let (session_hi, session_lo) = sestina_api::key::split(id);
    successor.edge_says(RouterBody::Resume(proto::Resume {
        handle: 2,
        session_hi,
        session_lo,
        bare: "romeo@c.example".to_owned(),
        ..proto::Resume::default()
    }));
    successor.told().iter().find_map(|body| match body {
        Body::Resumed(resumed) => Some((resumed.generation, resumed.accepted)),
        _ => None,
    })
}

/// An owner dies when the state store has a resumption and no edge has the answer: what the attachment before
/// holds of the client's stanzas comes again, before the session can be resumed.
#[test]
fn a_resumption_that_no_edge_knows_leaves_nothing_behind() {
    let mut successor = resumed_unheard(0);
    let told = successor.told();
    assert_eq!(restored(&told), [(1, 1)]);
    assert_eq!(closed(&told), None);
    assert_eq!(successor.router.worker.counts().sole, 1);
    again(&mut successor, 2);
    assert_eq!(resumes(&mut successor), None);
    again(&mut successor, 3);
    assert_eq!(resumes(&mut successor), Some((3, 3)));
}

/// A second owner may follow before all has come again: the record that it gets says how far the first had accepted.
#[test]
fn a_record_in_a_replay_tells_the_next_owner_what_is_still_to_come() {
    let mut successor = resumed_unheard(0);
    again(&mut successor, 2);
    let slot = successor.router.worker.slots.get_mut(successor.slot);
    let record = slot.unwrap().sessions.values().next().unwrap().record();
    assert_eq!((record.accepted, record.settled), (3, Some(1)));
}

/// The edge dies while it is sending stanzas of a session again. No other process holds the remaining stanzas, so the
/// session counts them as lost and can be resumed.
#[test]
fn a_session_goes_on_when_the_edge_dies_that_was_to_send_again() {
    let mut successor = resumed_unheard(0);
    again(&mut successor, 2);
    assert_eq!(resumes(&mut successor), None);
    let incarnation = crate::worker::testing::LANE.edge;
    successor.router.turn(vec![Input::NodeGone { incarnation }]);
    successor.told();
    let slot = successor.router.worker.slots.get_mut(successor.slot);
    let session = slot.unwrap().sessions.values().next().unwrap();
    assert!(!session.channel.is_replaying());
    let incoming = &session.channel.incoming;
    assert_eq!(
        (incoming.accepted, incoming.settled),
        (3, 1),
        "the second is on its way"
    );
}

/// The state store knows that all is settled: the attachment sends nothing again, because other processes may have
/// forgotten the keys.
#[test]
fn what_the_state_store_knows_to_be_settled_does_not_come_again() {
    let mut successor = resumed_unheard(3);
    let told = successor.told();
    assert_eq!(restored(&told), [(1, 3)]);
    assert_eq!(closed(&told), Some("conflict"));
    assert_eq!(resumes(&mut successor), Some((3, 3)));
}

/// The edge that a session was lost from may forget what is settled once the state store knows it, if an earlier
/// attachment does not.
#[test]
fn the_state_store_knows_what_is_settled_before_the_edge_forgets_it() {
    let mut successor = Successor::new(ROMEO);
    successor.take(successor::edge(), Vec::new());
    let record = successor::record(successor.slot, ROMEO);
    successor.reported(vec![proto::SessionReport {
        generation: 2,
        ..successor::report(&record, 1)
    }]);
    successor.told();
    let lost = proto::Close {
        handle: 1,
        generation: 2,
        clean: false,
    };
    {
        let slot = successor.router.worker.slots.get_mut(successor.slot);
        let channel = &mut slot.unwrap().sessions.values_mut().next().unwrap().channel;
        channel.incoming.accepted = 5;
        channel.incoming.settled = 4;
        channel.copies.previous.push(PreviousAttachment {
            lane: LaneRef { edge: 8, lane: 0 },
            handle: 7,
            generation: 1,
            until: 5,
            knew: true,
        });
    }
    let jobs = successor.edge_says(RouterBody::Close(lost));
    assert_eq!(written(&mut successor, jobs), (Some(4), false));
    let slot = successor.router.worker.slots.get_mut(successor.slot);
    let session = slot.unwrap().sessions.values_mut().next().unwrap();
    session.channel.incoming.settled = 5;
    let id = session.channel.id;
    let worker = &mut successor.router.worker;
    let slot = worker.slots.get_mut(successor.slot).unwrap();
    slot.maybe_detached(&mut worker.core, id);
    let jobs = successor.router.turn(Vec::new());
    let told = successor.told();
    assert!(!told.iter().any(|body| matches!(body, Body::Detached(_))));
    assert_eq!(written(&mut successor, jobs), (Some(5), true));
}

/// The state store completes the write among these jobs. Returns the number of the last settled stanza in the written
/// record, and whether the router then sends `Detached` to the edge, which drops its copies.
fn written(successor: &mut Successor, jobs: Vec<Job>) -> (Option<u64>, bool) {
    let (slot, mut settled) = (successor.slot, None);
    for job in jobs {
        let Job::ReplicaCommit { at, ops, .. } = job else {
            continue;
        };
        let fields = ops.into_iter().flat_map(|op| match op {
            ReplicaOp::Replace { fields, .. } => fields,
            ReplicaOp::Update { set, .. } => set,
            _ => Vec::new(),
        });
        for (_, value) in fields.filter(|(field, _)| field == "meta") {
            let record: proto::SessionState = prost::Message::decode(value).unwrap();
            settled = record.settled;
        }
        let last = Stamp::new(EPOCH, at.n - 1);
        let result = Ok(Found { last, refused: 0 });
        let done = JobDone::ReplicaCommitted { slot, at, result };
        successor.router.turn(vec![Input::Done(done)]);
    }
    let told = successor.told();
    let dropped = told.iter().any(|body| matches!(body, Body::Detached(_)));
    (settled, dropped)
}
