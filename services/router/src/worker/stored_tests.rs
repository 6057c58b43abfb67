#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use sestina_proto as proto;
use sestina_proto::to_router::Body as RouterBody;

use crate::worker::verona::{JULIET, Verona, message, presence, unavailable};

const BALCONY: &str = "juliet@c.example/balcony";

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn a_full_store_is_given_as_fast_as_the_client_reads_it() {
    let mut verona = Verona::new();
    verona.stored(20, 250_000);
    verona.says(2, presence("0"));
    assert!(verona.has(2).len() < 6, "{} at once", verona.has(2).len());
    assert_eq!(verona.left().len(), 20, "nothing was taken");
    // What comes meanwhile stands behind it.
    verona.says(1, message(JULIET, "21"));
    assert_eq!(verona.reads_all(2), numbers(1..=21));
    assert!(verona.closed.is_empty(), "{:?}", verona.closed);
    assert!(verona.left().is_empty(), "{:?}", verona.left());
    verona.says(1, message(JULIET, "live"));
    assert_eq!(verona.reads_all(2), ["live"]);
    assert_eq!(verona.rows.len(), 21);
}

#[test]
fn a_session_that_ends_leaves_what_it_did_not_take() {
    let mut verona = Verona::new();
    verona.stored(100, 60_000);
    verona.says(2, presence("0"));
    let first = verona.reads(2);
    assert!(!first.is_empty() && first.len() < 20);
    let taken = first.len() as u64;
    verona.closes(2, true);
    assert_eq!(verona.left(), numbers(taken + 1..=100));
    assert_eq!(
        verona.rows.len(),
        100,
        "nothing is stored again or sent back"
    );
    verona.router.session("juliet@c.example/balcony", 3);
    verona.enable(3);
    verona.says(3, presence("0"));
    assert_eq!(verona.reads_all(3), numbers(taken + 1..=100));
    assert!(verona.left().is_empty());
}

#[test]
fn a_session_that_is_not_reachable_any_more_gets_only_what_came_for_itself() {
    for change in [presence("-1"), unavailable()] {
        let mut verona = Verona::new();
        verona.stored(3, 10);
        verona.held = Some(VecDeque::new());
        verona.says(2, presence("0"));
        verona.says(1, message("juliet@c.example/balcony", "for you"));
        verona.says(2, change);
        verona.answer_held();
        assert_eq!(verona.reads_all(2), ["for you"]);
        assert_eq!(verona.left(), numbers(1..=3));
        // It is reachable again, and the rest comes.
        verona.says(2, presence("1"));
        assert_eq!(verona.reads_all(2), numbers(1..=3));
        assert!(verona.left().is_empty());
    }
}

#[test]
fn what_a_detached_session_did_not_take_goes_to_another_when_it_expires() {
    let mut verona = Verona::new();
    verona.says(2, presence("0"));
    verona.reads_all(2);
    verona.closes(2, false);
    verona.says(1, message(JULIET, "for any"));
    verona.chamber();
    verona.says(3, presence("0"));
    verona.says(1, message(JULIET, "for both"));
    verona.says(1, message("juliet@c.example/balcony", "for the balcony"));
    assert_eq!(verona.reads_all(3), ["for both"]);
    verona.wait_minutes();
    assert_eq!(verona.reads_all(3), ["for any", "for the balcony"]);
    assert!(verona.left().is_empty());
}

#[test]
fn what_two_sessions_were_given_is_kept_until_both_have_ended_without_it() {
    let mut verona = Verona::new();
    verona.chamber();
    verona.says(2, presence("0"));
    verona.says(3, presence("0"));
    verona.reads_all(2);
    verona.reads_all(3);
    verona.says(1, message(JULIET, "for both"));
    verona.closes(2, true);
    assert!(verona.left().is_empty(), "the other has it");
    verona.closes(3, true);
    assert_eq!(verona.left(), ["for both"]);
}

/// Should the owner die before storage answers, nobody else would ask for it.
#[test]
fn the_record_of_a_session_tells_that_it_is_to_get_what_another_one_left() {
    let mut verona = Verona::new();
    verona.chamber();
    verona.says(2, presence("0"));
    verona.says(3, presence("0"));
    verona.reads_all(3);
    verona.says(1, message("juliet@c.example/balcony", "for the balcony"));
    assert!(!verona.records[&3].reads_stored);
    verona.held = Some(VecDeque::new());
    verona.closes(2, true);
    assert_eq!(verona.left(), ["for the balcony"]);
    assert!(verona.records[&3].reads_stored);
    verona.answer_held();
    assert_eq!(verona.reads_all(3), ["for the balcony"]);
    assert!(!verona.records[&3].reads_stored);
}

/// If the owner dies before it has sent these messages to the edge, the next owner must know from the record that it has
/// to read them from the offline store.
#[test]
fn the_record_of_a_session_tells_that_stored_messages_wait_in_its_queue() {
    let mut verona = Verona::new();
    // One page of many small messages, which take more than the credit of the session.
    let count = verona.router.config.limits.session_credit_bytes as u64 / 150;
    verona.stored(count, 10);
    verona.says(2, presence("0"));
    let slot = verona.router.worker.slots.get_mut(verona.slot).unwrap();
    assert!(slot.sessions.values().all(|s| !s.client.offline_pending));
    assert!((verona.has(2).len() as u64) < count);
    assert!(verona.records[&2].offline_pending);
    assert_eq!(verona.reads_all(2), numbers(1..=count));
    assert!(!verona.records[&2].offline_pending);
}

#[test]
fn two_sessions_that_read_at_the_same_time_get_each_message_once() {
    let mut verona = Verona::new();
    verona.chamber();
    verona.stored(40, 60_000);
    verona.says(2, presence("0"));
    verona.says(3, presence("0"));
    let mut all = Vec::new();
    while !verona.has(2).is_empty() || !verona.has(3).is_empty() {
        all.extend(verona.reads(2));
        all.extend(verona.reads(3));
    }
    all.sort_by_key(|n| n.parse::<u64>().unwrap());
    assert_eq!(all, numbers(1..=40));
    assert!(verona.left().is_empty());
}

#[test]
fn what_came_for_a_session_that_reads_is_not_given_to_another() {
    let mut verona = Verona::new();
    verona.chamber();
    verona.stored(10, 60_000);
    verona.held = Some(VecDeque::new());
    verona.says(2, presence("0"));
    verona.says(1, message(JULIET, "for any"));
    verona.says(1, message("juliet@c.example/balcony", "for the balcony"));
    verona.says(3, presence("0"));
    verona.answer_held();
    let mut heard = [Vec::new(), Vec::new()];
    // The one that came later reads faster.
    heard[1].extend(verona.reads_all(3));
    heard[0].extend(verona.reads_all(2));
    heard[1].extend(verona.reads_all(3));
    let all = heard[0].len() + heard[1].len();
    assert_eq!(all, 12, "{heard:?}");
    for text in ["for any", "for the balcony"] {
        assert!(heard[0].contains(&text.to_owned()), "{heard:?}");
    }
}

#[test]
fn a_session_that_is_not_reachable_gets_what_is_stored_for_its_address_in_order() {
    let mut verona = Verona::new();
    verona.stored(2, 10);
    verona.rows[0].0.stanza.as_mut().unwrap().to = BALCONY.to_owned();
    verona.held = Some(VecDeque::new());
    verona.says(2, presence("0"));
    verona.says(1, message(BALCONY, "later"));
    verona.says(2, unavailable());
    verona.answer_held();
    assert_eq!(verona.reads_all(2), ["1", "later"]);
    assert_eq!(verona.left(), ["2"]);
}

/// The chamber began to read first and has no room: what came since for others than the balcony is left to it.
#[test]
fn what_was_stored_for_an_address_before_its_session_was_bound_comes_before_later_messages() {
    let mut verona = Verona::new();
    verona.chamber();
    verona.closes(2, true);
    verona.stored(40, 60_000);
    verona.says(3, presence("0"));
    verona.says(1, message(BALCONY, "early"));
    verona.edge(RouterBody::Bind(proto::Bind {
        handle: 2,
        bare: JULIET.to_owned(),
        resource: "balcony".to_owned(),
        ..proto::Bind::default()
    }));
    verona.enable(2);
    verona.held = Some(VecDeque::new());
    verona.says(2, presence("0"));
    verona.says(1, message(BALCONY, "late"));
    verona.answer_held();
    let mut heard = verona.reads_all(2);
    heard.retain(|text| text.parse::<u64>().is_err());
    assert_eq!(heard, ["early", "late"]);
}

/// A session has the first of the messages for its address in its queue, and does not read on. Another session of the
/// user does not get the ones behind them, before that session has ended.
#[test]
fn what_is_stored_for_a_session_that_reads_is_left_to_it() {
    let mut verona = Verona::new();
    verona.chamber();
    verona.stored(40, 60_000);
    for (row, _) in &mut verona.rows {
        row.stanza.as_mut().unwrap().to = BALCONY.to_owned();
    }
    verona.says(2, presence("0"));
    verona.says(3, presence("0"));
    let mut heard = verona.reads_all(3);
    verona.closes(2, true);
    heard.extend(verona.reads_all(3));
    assert_eq!(heard, numbers(1..=40));
    assert!(verona.left().is_empty());
}
