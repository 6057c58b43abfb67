#![allow(clippy::unwrap_used)]

use sestina_proto as proto;
use sestina_xmpp::stanza::{Kind, Stanza};

use crate::worker::channel::{Attachment, PreviousAttachment};
use crate::worker::core::LaneRef;
use crate::worker::input::Input;
use crate::worker::session::Session;
use crate::worker::successor::{self, Successor};
use crate::worker::testing::LANE;

const ROMEO: &str = "romeo@c.example/orchard";

fn sole(owner: &Successor) -> usize {
    owner.router.worker.counts().sole
}

/// Also run as the child of a test below, with the guard off. The edge had sent six stanzas to the owner before, which
/// had said that five are accepted and three settled.
#[test]
fn what_one_process_alone_holds_is_counted() {
    sestina_runtime::faults_from_env().unwrap();
    let mut owner = Successor::new(ROMEO);
    owner.take(successor::edge(), Vec::new());
    let record = successor::record(owner.slot, ROMEO);
    owner.reported(vec![proto::SessionReport {
        settled: 3,
        accepted: 5,
        sent: 6,
        ..successor::report(&record, 1)
    }]);
    for n in [4, 5, 6] {
        assert_eq!(sole(&owner), 1, "the edge alone has number {n}");
        let mut stanza = Stanza::new(Kind::Message);
        stanza.to = "juliet@c.example".to_owned();
        owner.client_says(n, stanza);
    }
    assert_eq!(sole(&owner), 0);
    owner.router.turn(vec![Input::EdgeLaneClosed {
        lane: LANE,
        instance: 1,
    }]);
    assert_eq!(sole(&owner), 1, "the edge may be dead");
}

/// It is in the state store, and no edge holds anything of it: it waits for its client alone.
#[test]
fn a_session_that_waits_in_the_state_store_is_held_by_two() {
    let mut owner = Successor::new(ROMEO);
    let record = proto::SessionState {
        accepted: 5,
        ..successor::record(owner.slot, ROMEO)
    };
    owner.take(successor::edge(), vec![successor::stored(&record)]);
    owner.reported(Vec::new());
    let counts = owner.router.worker.counts();
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
    let pipelines = crate::hooks::Pipelines::new(&[], &Default::default());
    let record = proto::SessionState::default();
    let mut session = Session::from_record(record, detached, &pipelines);
    (
        session.channel.incoming.accepted,
        session.channel.incoming.settled,
        session.channel.incoming.watermark,
    ) = (5, 4, 3);
    let last = LaneRef { edge: 8, lane: 0 };
    session.channel.copies.detached_from = Some((last, 2));
    session.channel.copies.previous.push(PreviousAttachment {
        lane: LANE,
        handle: 1,
        generation: 1,
        until: 4,
        knew: true,
    });
    session
}

/// Otherwise a new owner would hear from the last edge that three are settled, and wait for the fourth.
#[test]
fn an_older_attachment_of_a_detached_session_is_kept_until_the_last_one_knows_what_is_settled() {
    let mut session = resumed_and_detached();
    assert_eq!(session.channel.previous_done().len(), 0);
    session.channel.incoming.watermark = 4;
    assert_eq!(session.channel.previous_done().len(), 1);
}

#[test]
fn an_older_attachment_is_not_kept_for_an_edge_that_has_died() {
    let mut session = resumed_and_detached();
    session.channel.copies.detached_from = None;
    session
        .channel
        .lose_copies(session.channel.incoming.accepted);
    assert_eq!(session.channel.previous_done().len(), 1);
}
