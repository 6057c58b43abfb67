#![allow(clippy::unwrap_used)]

use sestina_xmpp::stanza::Kind;
use sestina_xmpp::xml::Element;

use super::*;
use crate::worker::core::Job;
use crate::worker::slot::new_origin;
use crate::worker::successor::{self, Successor};

const USER: &str = "romeo@c.example";
const FULL: &str = "romeo@c.example/orchard";
/// The number of the message at its origin.
const N: u64 = 25;

/// The next owner of Romeo's slot. He has a session, which has a message that came for its full
/// address; another of his sessions was to have a copy of it, and is over.
struct Next {
    owner: Successor,
    origin: u128,
    message: Stanza,
}

impl Next {
    fn new() -> Next {
        let mut owner = Successor::new(USER);
        let origin = new_origin(1);
        let mut message = Stanza::new(Kind::Message);
        message.type_ = "chat".to_owned();
        message.to = FULL.to_owned();
        message.from = "juliet@c.example/balcony".to_owned();
        message.push_element(&Element::new("body", "jabber:client").with_text("good night"));
        owner.take(successor::edge(), Vec::new());
        let mut held = successor::held(1, origin, N, &message);
        held.key.as_mut().unwrap().shared = true;
        let record = successor::record(owner.slot, FULL);
        owner.reported(vec![proto::SessionReport {
            received: 1,
            held: vec![held],
            ..successor::report(&record, 1)
        }]);
        Next {
            owner,
            origin,
            message,
        }
    }

    /// The message comes again, and storage does not know it.
    fn again(&mut self) -> Vec<Job> {
        let mut jobs = self.owner.comes_again(self.origin, N, 1, &self.message);
        jobs.extend(self.owner.not_stored(USER));
        jobs
    }

    /// All that came from the message's origin up to it is settled.
    fn settled(&mut self) {
        let (origin_hi, origin_lo) = sestina_api::key::split(self.origin);
        let watermark = proto::Watermark {
            origin_hi,
            origin_lo,
            watermark: N,
        };
        let watermarks = proto::Watermarks {
            watermarks: vec![watermark],
        };
        self.owner
            .peer_says(proto::peer_frame::Body::Watermarks(watermarks));
    }
}

fn stored(jobs: &[Job]) -> usize {
    let rows = jobs.iter().map(|job| match job {
        Job::Offline { rows, .. } => rows.len(),
        _ => 0,
    });
    rows.sum()
}

/// The owner before died when the session had the message and the other did not have its copy. The
/// session ends, then the message comes again: it is stored.
#[test]
fn a_message_whose_copies_died_with_an_owner_is_not_given_with_the_session_that_had_it() {
    let mut next = Next::new();
    let ended = next.owner.client_closes();
    assert_eq!(stored(&ended), 0, "others may have taken it");
    assert_eq!(stored(&next.again()), 1);
}

/// It comes again while the session is there, and nobody else is: now it depends on the session.
#[test]
fn a_message_that_comes_again_for_one_session_alone_is_kept_when_that_ends() {
    let mut next = Next::new();
    assert_eq!(stored(&next.again()), 0, "the session has it");
    next.settled();
    assert_eq!(stored(&next.owner.client_closes()), 1);
}

/// It does not come again: it is settled, so the other has taken its copy.
#[test]
fn a_message_that_another_session_took_ends_with_the_session_that_did_not() {
    let mut next = Next::new();
    next.settled();
    assert_eq!(stored(&next.owner.client_closes()), 0);
}
