#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_xmpp::xml::Element;

use super::*;
use crate::worker::input::{Input, JobDone};
use crate::worker::slot::new_origin;
use crate::worker::successor::{self, Successor};

const USER: &str = "romeo@c.example";

fn message() -> Stanza {
    let mut message = Stanza::new(Kind::Message);
    message.type_ = "chat".to_owned();
    message.to = USER.to_owned();
    message.from = "juliet@c.example/balcony".to_owned();
    message.push_element(&Element::new("body", "jabber:client").with_text("good night"));
    message
}

/// What an edge holds of an available session of Romeo's: messages with these numbers.
fn report(
    slot: u16,
    resource: &str,
    handle: u64,
    origin: u128,
    numbers: &[u64],
) -> proto::SessionReport {
    let mut presence = Stanza::new(Kind::Presence);
    presence.from = format!("{USER}/{resource}");
    let record = proto::SessionState {
        presence: Some(presence.clone().into()),
        ..successor::record(slot, &presence.from)
    };
    let held = (1..).zip(numbers);
    proto::SessionReport {
        received: numbers.len() as u64,
        held: held
            .map(|(number, n)| successor::held(number, origin, *n, &message()))
            .collect(),
        ..successor::report(&record, handle)
    }
}

/// The first of two messages comes again. One session has both of them, another one those of these
/// numbers. Returns the new owner, and its jobs.
fn first_again(other: &[u64]) -> (Successor, Vec<Job>) {
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    successor.reported(vec![
        report(slot, "orchard", 1, origin, &[1, 2]),
        report(slot, "garden", 2, origin, other),
    ]);
    successor.told();
    successor.comes_again(origin, 1, 1, &message());
    let jobs = successor.not_stored(USER);
    (successor, jobs)
}

/// The handles that it is given to.
fn given_again(other: &[u64]) -> Vec<u64> {
    let (mut successor, _) = first_again(other);
    let told = successor.told();
    let delivered = told.iter().filter_map(|body| match body {
        EdgeBody::Deliver(deliver) => Some(deliver),
        _ => None,
    });
    delivered
        .flat_map(|deliver| &deliver.targets)
        .map(|target| target.handle)
        .collect()
}

/// An owner may die when one session has a message and another, which it was for as well, has not.
#[test]
fn who_did_not_get_a_message_under_the_owner_before_gets_it_when_it_comes_again() {
    assert_eq!(given_again(&[]), [2]);
}

/// A session that became available between two messages got the second alone.
#[test]
fn who_has_a_later_message_does_not_get_an_earlier_one_behind_it() {
    assert_eq!(given_again(&[2]), [0; 0]);
}

/// The owner before this one had stored a message for a session that has ended, and had not made another
/// session of the user read it.
#[test]
fn what_an_owner_before_has_stored_for_a_session_that_ended_is_read_for_one_that_is_there() {
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    successor.reported(vec![report(slot, "orchard", 1, origin, &[])]);
    let mut message = message();
    message.to = format!("{USER}/garden");
    successor.comes_again(origin, 1, 1, &message);
    let key = sestina_api::key::EffectKey::new(origin, 1, EffectKind::Offline);
    let jobs = successor.stored(USER, vec![key]);
    let read = |job: &Job| matches!(job, Job::OfflineList(read) if read.request.bare == USER);
    assert!(jobs.iter().any(read), "{jobs:?}");
}

/// The rows that these jobs write to the archive: whether each may move.
fn moved(jobs: Vec<Job>) -> Vec<bool> {
    let rows = jobs.into_iter().filter_map(|job| match job {
        Job::Archive { rows, .. } => Some(rows),
        _ => None,
    });
    rows.flatten().map(|row| row.moves).collect()
}

/// Another session may have become available after it, under the owner before; meanwhile the first one may
/// have got something new.
#[test]
fn a_message_that_some_session_had_stays_in_the_archive_where_that_one_got_it() {
    for other in [&[][..], &[1, 2]] {
        let (_, jobs) = first_again(other);
        assert_eq!(moved(jobs), [false]);
    }
}

/// What the same sender wrote before is in the archive where it is delivered now.
#[test]
fn a_message_that_some_session_had_moves_behind_an_earlier_one_that_no_session_had() {
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    successor.reported(vec![
        report(slot, "orchard", 1, origin, &[2]),
        report(slot, "garden", 2, origin, &[]),
    ]);
    for n in [1, 2] {
        successor.comes_again(origin, n, n, &message());
        let mut jobs = successor.not_stored(USER);
        jobs.retain(|job| matches!(job, Job::Archive { .. }));
        let Some(Job::Archive { rows, works }) = jobs.pop() else {
            panic!("it is not archived");
        };
        let moved: Vec<bool> = rows.iter().map(|row| row.moves).collect();
        assert_eq!(moved, [true]);
        let done = JobDone::Archive {
            slots: vec![(slot, successor::EPOCH)],
            works,
            fenced: Vec::new(),
        };
        successor.router.turn(vec![Input::Done(done)]);
    }
}
