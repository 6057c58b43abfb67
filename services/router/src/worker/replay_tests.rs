#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_xmpp::xml::Element;

use super::*;
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

/// A message that one session had and another gets now is in the archive where that one gets it: what
/// the same sender wrote before may be there, too.
#[test]
fn a_message_that_some_session_gets_when_it_comes_again_moves_to_the_end_of_the_archive() {
    for (other, moves) in [(&[][..], true), (&[1, 2], false)] {
        let (_, jobs) = first_again(other);
        let rows = jobs.iter().filter_map(|job| match job {
            Job::Archive { rows, .. } => Some(rows),
            _ => None,
        });
        let moved: Vec<bool> = rows.flatten().map(|row| row.moves).collect();
        assert_eq!(moved, [moves]);
    }
}
