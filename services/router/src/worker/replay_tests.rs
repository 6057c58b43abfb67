#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use sestina_api::key::EffectKey;
use sestina_api::shadow::Loaded;
use sestina_proto as proto;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::xml::Element;

use super::*;
use crate::worker::core::PeerRef;
use crate::worker::input::{Input, JobDone};
use crate::worker::slot::new_origin;
use crate::worker::testing::{LANE, Router};

const USER: &str = "romeo@c.example";
const EPOCH: u64 = 2;

fn message() -> Stanza {
    let mut message = Stanza::new(Kind::Message);
    message.type_ = "chat".to_owned();
    message.to = USER.to_owned();
    message.from = "juliet@c.example/balcony".to_owned();
    message.push_element(&Element::new("body", "jabber:client").with_text("good night"));
    message
}

/// What an edge holds of a session of Romeo's that is available: messages with these numbers.
fn report(
    slot: u16,
    resource: &str,
    handle: u64,
    origin: u128,
    held: &[u64],
) -> proto::SessionReport {
    let (session_hi, session_lo) = sestina_api::key::split(new_origin(slot));
    let jid = format!("{USER}/{resource}");
    let mut presence = Stanza::new(Kind::Presence);
    presence.from.clone_from(&jid);
    let record = proto::SessionState {
        session_hi,
        session_lo,
        jid: jid.clone(),
        generation: 1,
        presence: Some(presence.into()),
        sm: true,
        sm_resume: true,
        sm_max_s: 300,
        ..proto::SessionState::default()
    };
    let item = |(number, n): (u64, &u64)| proto::Outbound {
        number,
        key: Some(EffectKey::new(origin, *n, EffectKind::Route).into()),
        stanza: Some(message().into()),
        ..proto::Outbound::default()
    };
    proto::SessionReport {
        handle,
        generation: 1,
        session_hi,
        session_lo,
        jid,
        state: record.encode_to_vec().into(),
        received: held.len() as u64,
        held: (1..).zip(held).map(item).collect(),
        ..proto::SessionReport::default()
    }
}

/// Handles to which a message is given that comes again, of which one session had the first and the
/// second, and the other those of these numbers.
fn given_again(other: &[u64]) -> Vec<u64> {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.config.slot_of(&Jid::from_wire(USER));
    let origin = new_origin(1);
    let edge = proto::Node {
        incarnation: LANE.edge,
        ..proto::Node::default()
    };
    let taken = JobDone::ShadowLoaded {
        slot,
        epoch: EPOCH,
        result: Ok(Loaded::default()),
    };
    let report = proto::EpochReport {
        sessions: vec![
            report(slot, "orchard", 1, origin, &[1, 2]),
            report(slot, "garden", 2, origin, other),
        ],
        ..proto::EpochReport::default()
    };
    let report = proto::ToRouter {
        slot: slot.into(),
        epoch: EPOCH,
        body: Some(RouterBody::EpochReport(report)),
    };
    router.turn(vec![
        Input::Take {
            slot,
            epoch: EPOCH,
            live: Arc::from([edge]),
        },
        Input::Done(taken),
        Input::Edge {
            lane: LANE,
            frame: report,
        },
    ]);
    router.edge.0.lock().clear();
    let effect = proto::Effect {
        key: Some(EffectKey::new(origin, 1, EffectKind::Route).into()),
        origin_slot: 1,
        origin_epoch: 1,
        stanza: Some(message().into()),
        stream: 1,
        seq: 1,
        ..proto::Effect::default()
    };
    let frame = proto::PeerFrame {
        slot: slot.into(),
        epoch: EPOCH,
        body: Some(proto::peer_frame::Body::Effect(effect)),
    };
    let known = Known {
        exists: true,
        stored: Vec::new(),
    };
    router.turn(vec![Input::Peer {
        from: PeerRef(2),
        frame,
    }]);
    router.turn(vec![Input::Done(JobDone::UserKnown {
        slot,
        bare: USER.to_owned(),
        known: Ok(known),
    })]);
    let told = std::mem::take(&mut *router.edge.0.lock());
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
