#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use sestina_api::key::IdempotencyKey;
use sestina_config::modules::ModulesAt;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_xmpp::xml::Element;

use super::*;
use crate::hooks::Pipelines;
use crate::modules::MODULES;
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
    handles(successor.told())
}

/// The handles to which a message was delivered.
fn handles(told: Vec<EdgeBody>) -> Vec<u64> {
    let mut handles = Vec::new();
    for body in told {
        let EdgeBody::Deliver(deliver) = body else {
            continue;
        };
        for target in &deliver.targets {
            let stanza = &deliver.variants[target.variant as usize].stanza;
            if stanza.as_ref().unwrap().kind() == proto::StanzaKind::Message {
                handles.push(target.handle);
            }
        }
    }
    handles
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

/// The same when no session has the earlier message, because the owner before this one died before it had sent
/// the message to the session that it was for. That session gets it; the later one only if it is alone.
#[test]
fn a_message_that_no_session_has_goes_to_a_session_without_a_later_one_if_there_is_one() {
    for (all, given) in [(true, 1), (false, 2)] {
        let mut successor = Successor::new(USER);
        let (slot, origin) = (successor.slot, new_origin(1));
        successor.take(successor::edge(), Vec::new());
        let mut reports = vec![report(slot, "garden", 2, origin, &[2])];
        if all {
            reports.push(report(slot, "orchard", 1, origin, &[]));
        }
        successor.reported(reports);
        successor.told();
        successor.comes_again(origin, 1, 1, &message());
        successor.not_stored(USER);
        assert_eq!(handles(successor.told()), [given]);
    }
}

/// A chat to a full JID without a session goes to the user's other sessions. A session that has come with that
/// JID since then is not given it when it comes again.
#[test]
fn a_message_to_a_full_jid_that_another_session_has_is_not_given_to_a_later_session_with_that_jid()
{
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    successor.reported(vec![
        report(slot, "garden", 2, origin, &[1]),
        report(slot, "orchard", 1, origin, &[]),
    ]);
    successor.told();
    let mut message = message();
    message.to = format!("{USER}/orchard");
    successor.comes_again(origin, 1, 1, &message);
    successor.not_stored(USER);
    assert_eq!(handles(successor.told()), [0; 0]);
}

/// Two sessions with one full JID end, of which one is over already: the user's other session hears that the JID
/// is not available any more.
#[test]
fn the_end_of_a_session_is_told_although_one_that_is_over_has_its_address() {
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    let over = proto::SessionReport {
        ended: true,
        ..report(slot, "orchard", 2, origin, &[])
    };
    let later = report(slot, "orchard", 1, origin, &[]);
    let other = report(slot, "garden", 3, origin, &[]);
    successor.reported(vec![over, later, other]);
    successor.told();
    successor.client_closes();
    let deliveries = successor.told().into_iter().filter_map(|body| match body {
        EdgeBody::Deliver(deliver) => Some(deliver),
        _ => None,
    });
    let mut types = Vec::new();
    for deliver in deliveries {
        for target in deliver.targets.iter().filter(|t| t.handle == 3) {
            let stanza = deliver.variants[target.variant as usize].stanza.clone();
            types.push(stanza.unwrap().r#type);
        }
    }
    assert_eq!(types, ["unavailable"]);
}

/// The owner before this one may have ended a session that waited for its client, stored its messages, and died
/// before the end was written. The client resumes the session and takes them: they are not given again as rows.
#[test]
fn messages_that_a_resumed_session_takes_are_marked_as_delivered_if_they_may_be_stored() {
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    let record = successor::record(slot, &format!("{USER}/orchard"));
    let mut object = successor::stored(&record);
    let held = successor::held(1, origin, 1, &message());
    let value = held.encode_to_vec();
    object.fields.push(("q:1".to_owned(), value.into()));
    successor.take(successor::edge(), vec![object]);
    successor.reported(Vec::new());
    let resume = proto::Resume {
        handle: 1,
        session_hi: record.session_hi,
        session_lo: record.session_lo,
        bare: USER.to_owned(),
        h: 1,
        ..proto::Resume::default()
    };
    let jobs = successor.edge_says(sestina_proto::to_router::Body::Resume(resume));
    let marked = jobs.iter().find_map(|job| match job {
        Job::OfflineRemove { request, .. } => Some(&request.keys),
        _ => None,
    });
    let keys: Vec<_> = marked.unwrap().iter().map(IdempotencyKey::from).collect();
    assert_eq!(keys, [IdempotencyKey::new(origin, 1, Purpose::Offline)]);
}

/// A session of which its edge reports that it is over holds a message, and a later session has its address and
/// is being given what is stored: what is new comes to that one behind what the other one leaves.
#[test]
fn what_a_session_that_is_over_leaves_is_read_before_anything_new() {
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    let over = proto::SessionReport {
        ended: true,
        ..report(slot, "orchard", 1, origin, &[1])
    };
    let mut later = report(slot, "orchard", 2, origin, &[]);
    let record = proto::SessionState::decode(later.state).unwrap();
    let record = proto::SessionState {
        offline_pending: true,
        ..record
    };
    later.state = record.encode_to_vec().into();
    let jobs = successor.reported(vec![over, later]);
    assert!(jobs.is_empty(), "{jobs:?}");
    successor.told();
    let jobs = successor.comes_again(origin, 2, 1, &message());
    assert!(jobs.is_empty(), "{jobs:?}");
    // The keys' numbers of the messages in the job, and the operations that wait for its end.
    let stored = |jobs: Vec<Job>| {
        let batch = jobs.into_iter().find_map(|job| match job {
            Job::Offline { rows, operations } => Some((rows, operations)),
            _ => None,
        });
        let (rows, operations) = batch.unwrap();
        let numbers: Vec<u64> = rows.iter().map(|row| row.key.unwrap().n).collect();
        (numbers, operations)
    };
    let jobs = successor.client_closes();
    assert!(jobs.iter().any(|job| matches!(job, Job::OfflineList(_))));
    let (numbers, operations) = stored(jobs);
    assert_eq!(numbers, [1]);
    successor.not_stored(USER);
    let done = Input::Done(JobDone::Offline {
        slots: vec![(slot, successor::EPOCH)],
        operations,
        fenced: Vec::new(),
        full: Vec::new(),
    });
    assert_eq!(stored(successor.router.turn(vec![done])).0, [2]);
    assert_eq!(handles(successor.told()), [0; 0]);
}

/// A host may have no offline messages: then a message that a session leaves goes back.
#[test]
fn a_message_that_a_session_leaves_is_stored_only_where_the_module_is_on() {
    for is_on in [true, false] {
        let mut successor = Successor::new(USER);
        if !is_on {
            let at = ModulesAt::default().without("offline");
            let domain = Jid::from_wire(USER).domain().to_owned();
            let pipelines = Pipelines::new(MODULES, &BTreeMap::from([(domain, at)]));
            successor.router.worker.core.pipelines = Arc::new(pipelines);
        }
        let (slot, origin) = (successor.slot, new_origin(1));
        successor.take(successor::edge(), Vec::new());
        let over = proto::SessionReport {
            ended: true,
            ..report(slot, "orchard", 1, origin, &[1])
        };
        successor.reported(vec![over]);
        let jobs = successor.client_closes();
        let stores = |job: &Job| matches!(job, Job::Offline { .. });
        assert_eq!(jobs.iter().any(stores), is_on, "{jobs:?}");
    }
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
    let key = sestina_api::key::IdempotencyKey::new(origin, 1, Purpose::Offline);
    let jobs = successor.stored(USER, vec![key]);
    let read = |job: &Job| matches!(job, Job::OfflineList(read) if read.request.bare == USER);
    assert!(jobs.iter().any(read), "{jobs:?}");
}

/// The owner before this one had stored a message of a session that ended, because another session of the user had not
/// taken its copy, and died before it had that one read the store. That one has taken its copy since: nothing is
/// stored now, and the store is read.
#[test]
fn what_an_owner_before_may_have_stored_when_a_session_ended_is_read_for_one_that_is_there() {
    let mut successor = Successor::new(USER);
    let (slot, origin) = (successor.slot, new_origin(1));
    successor.take(successor::edge(), Vec::new());
    let record = successor::record(slot, &format!("{USER}/orchard"));
    let over = proto::SessionReport {
        ended: true,
        received: 1,
        held: vec![successor::held(1, origin, 1, &message())],
        ..successor::report(&record, 1)
    };
    let copy = IdempotencyKey::new(origin, 1, Purpose::CarbonReceived);
    let mut copied = successor::held(1, origin, 1, &message());
    copied.key = Some(copy.into());
    let other = proto::SessionReport {
        received: 1,
        acked: 1,
        held: vec![copied],
        ..report(slot, "garden", 2, origin, &[])
    };
    successor.reported(vec![over, other]);
    let jobs = successor.client_closes();
    let stores = |job: &Job| matches!(job, Job::Offline { .. });
    assert!(!jobs.iter().any(stores), "{jobs:?}");
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
