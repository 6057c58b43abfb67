#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use sestina_api::shadow::Loaded;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::stanza::Kind;
use sestina_xmpp::xml::Element;

use super::*;
use crate::worker::core::{Job, PeerRef};
use crate::worker::input::{Input, JobDone, Known};
use crate::worker::slot::new_origin;
use crate::worker::testing::{LANE, Router};

const USER: &str = "romeo@c.example";
const EPOCH: u64 = 2;
/// The number of the message at its origin.
const N: u64 = 25;

/// The next owner of Romeo's slot. He has a session, which has a message that came for its full
/// address; another of his sessions was to have a copy of it, and is over.
struct Next {
    router: Router,
    slot: u16,
    origin: u128,
    message: Stanza,
}

impl Next {
    fn new() -> Next {
        let mut router = Router::new(1, &[], || 0);
        let slot = router.config.slot_of(&Jid::from_wire(USER));
        let origin = new_origin(1);
        let mut message = Stanza::new(Kind::Message);
        message.type_ = "chat".to_owned();
        message.to = format!("{USER}/orchard");
        message.from = "juliet@c.example/balcony".to_owned();
        message.push_element(&Element::new("body", "jabber:client").with_text("good night"));
        let edge = proto::Node {
            incarnation: LANE.edge,
            ..proto::Node::default()
        };
        let loaded = JobDone::ShadowLoaded {
            slot,
            epoch: EPOCH,
            result: Ok(Loaded::default()),
        };
        let take = Input::Take {
            slot,
            epoch: EPOCH,
            live: Arc::from([edge]),
        };
        router.turn(vec![take, Input::Done(loaded)]);
        let mut next = Next {
            router,
            slot,
            origin,
            message,
        };
        next.report();
        next
    }

    fn report(&mut self) {
        let (session_hi, session_lo) = sestina_api::key::split(new_origin(self.slot));
        let record = proto::SessionState {
            session_hi,
            session_lo,
            jid: format!("{USER}/orchard"),
            generation: 1,
            sm: true,
            sm_resume: true,
            sm_max_s: 300,
            ..proto::SessionState::default()
        };
        let mut key = proto::Key::from(EffectKey::new(self.origin, N, EffectKind::Route));
        key.shared = true;
        let held = proto::Outbound {
            number: 1,
            key: Some(key),
            stanza: Some(self.message.clone().into()),
            ..proto::Outbound::default()
        };
        let report = proto::SessionReport {
            handle: 1,
            generation: 1,
            session_hi,
            session_lo,
            jid: record.jid.clone(),
            state: record.encode_to_vec().into(),
            received: 1,
            held: vec![held],
            ..proto::SessionReport::default()
        };
        self.edge_says(RouterBody::EpochReport(proto::EpochReport {
            sessions: vec![report],
            ..proto::EpochReport::default()
        }));
    }

    fn edge_says(&mut self, body: RouterBody) -> Vec<Job> {
        let frame = proto::ToRouter {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(body),
        };
        self.router.turn(vec![Input::Edge { lane: LANE, frame }])
    }

    /// The client logs out and has not taken the message.
    fn ends(&mut self) -> Vec<Job> {
        self.edge_says(RouterBody::Close(proto::Close {
            handle: 1,
            generation: 1,
            clean: true,
        }))
    }

    /// The message comes again, and storage does not know it.
    fn again(&mut self) -> Vec<Job> {
        let effect = proto::Effect {
            key: Some(EffectKey::new(self.origin, N, EffectKind::Route).into()),
            origin_slot: 1,
            origin_epoch: 1,
            stanza: Some(self.message.clone().into()),
            stream: 1,
            seq: 1,
            ..proto::Effect::default()
        };
        let frame = proto::PeerFrame {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(proto::peer_frame::Body::Effect(effect)),
        };
        let from = PeerRef(2);
        let mut jobs = self.router.turn(vec![Input::Peer { from, frame }]);
        let known = Known {
            exists: true,
            stored: Vec::new(),
        };
        jobs.extend(self.router.turn(vec![Input::Done(JobDone::UserKnown {
            slot: self.slot,
            bare: USER.to_owned(),
            known: Ok(known),
        })]));
        jobs
    }

    /// All that came from this message's origin up to it is settled.
    fn settled(&mut self) {
        let (origin_hi, origin_lo) = sestina_api::key::split(self.origin);
        let mark = proto::Mark {
            origin_hi,
            origin_lo,
            mark: N,
        };
        let frame = proto::PeerFrame {
            slot: self.slot.into(),
            epoch: EPOCH,
            body: Some(proto::peer_frame::Body::Marks(proto::Marks {
                marks: vec![mark],
            })),
        };
        let from = PeerRef(2);
        self.router.turn(vec![Input::Peer { from, frame }]);
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
    assert_eq!(stored(&next.ends()), 0, "others may have taken it");
    assert_eq!(stored(&next.again()), 1);
}

/// It comes again while the session is there, and nobody else is: now it depends on the session.
#[test]
fn a_message_that_comes_again_for_one_session_alone_is_kept_when_that_ends() {
    let mut next = Next::new();
    assert_eq!(stored(&next.again()), 0, "the session has it");
    next.settled();
    assert_eq!(stored(&next.ends()), 1);
}

/// It does not come again: it is settled, so the other has taken its copy.
#[test]
fn a_message_that_another_session_took_ends_with_the_session_that_did_not() {
    let mut next = Next::new();
    next.settled();
    assert_eq!(stored(&next.ends()), 0);
}
