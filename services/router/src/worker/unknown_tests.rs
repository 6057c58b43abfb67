//! What a later version may send: frames of kinds, and stanzas of kinds, that this program does not know.
#![allow(clippy::unwrap_used)]

use sestina_api::key::Purpose;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_telemetry::Lane;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::*;
use crate::worker::input::Input;
use crate::worker::testing::{LANE, Router};

const ROMEO: &str = "romeo@c.example/orchard";

fn unknown(router: &Router, lane: Lane) -> u64 {
    router.metrics.unknown_frames[lane].get()
}

fn message(id: &str) -> proto::Stanza {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.type_ = "chat".to_owned();
    stanza.id = id.to_owned();
    stanza.from = ROMEO.to_owned();
    stanza.to = ROMEO.to_owned();
    stanza.into()
}

fn inbound(n: u64, stanza: proto::Stanza) -> RouterBody {
    RouterBody::Inbound(proto::Inbound {
        handle: 1,
        generation: 1,
        n,
        stanza: Some(stanza),
        ..proto::Inbound::default()
    })
}

/// The highest number that the edge is told to be accepted, when its client asks.
fn accepted(router: &mut Router, slot: u16, n: u64) -> u64 {
    let asked = proto::Asked {
        handle: 1,
        generation: 1,
        n,
    };
    router.edge_says(slot, RouterBody::Asked(asked), 0);
    let told = std::mem::take(&mut *router.edge.0.lock());
    let items = told.iter().filter_map(|body| match body {
        EdgeBody::Progress(progress) => Some(&progress.items),
        _ => None,
    });
    let numbers = items.flatten().map(|item| item.accepted);
    numbers.max().unwrap_or(0)
}

#[test]
fn an_edges_frame_of_an_unknown_kind_is_counted_and_what_follows_is_taken() {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    router.edge_says(slot, inbound(1, message("one")), 0);
    assert_eq!(accepted(&mut router, slot, 1), 1);
    for slot in [u32::from(slot), 5, u32::MAX] {
        let frame = proto::ToRouter {
            slot,
            epoch: 1,
            body: None,
        };
        router.turn(vec![Input::Edge { lane: LANE, frame }]);
    }
    assert_eq!(unknown(&router, Lane::EdgeRouter), 3);
    assert!(router.edge.0.lock().is_empty(), "it was answered");
    router.edge_says(slot, inbound(2, message("two")), 0);
    let told = accepted(&mut router, slot, 2);
    assert_eq!(told, 2, "the next stanza was not taken");
}

#[test]
fn a_stanza_of_an_unknown_kind_is_numbered_and_refused_by_name() {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    let later = proto::Stanza {
        kind: 77,
        payload: "<body>not a message</body>".into(),
        ..message("later")
    };
    router.edge_says(slot, inbound(1, later), 0);
    let told = router.edge.0.lock().clone();
    let refusals = told.iter().filter_map(|body| match body {
        EdgeBody::Deliver(deliver) => deliver.variants[0].stanza.clone(),
        _ => None,
    });
    let refusals: Vec<String> = refusals
        .map(|stanza| String::from_utf8_lossy(&stanza.payload).into_owned())
        .collect();
    assert!(
        refusals.len() == 1 && refusals[0].contains("feature-not-implemented"),
        "{refusals:?}"
    );
    assert_eq!(unknown(&router, Lane::EdgeRouter), 1);
    router.edge_says(slot, inbound(2, message("two")), 0);
    assert_eq!(accepted(&mut router, slot, 2), 2);
}

/// Slot messages of another router, in one stream.
fn slot_message(slot: u16, seq: u64, stanza: Option<proto::Stanza>) -> proto::PeerFrame {
    let key = IdempotencyKey::new(7, seq, Purpose::Route);
    proto::PeerFrame {
        slot: slot.into(),
        epoch: 1,
        body: Some(PeerBody::SlotMessage(proto::SlotMessage {
            key: Some(key.into()),
            origin_slot: 9,
            origin_epoch: 1,
            stream: 1,
            seq,
            stanza,
            first_epoch: 1,
            ..proto::SlotMessage::default()
        })),
    }
}

/// What became of a slot message, as the other router was told: its reply, if there is one.
fn done(router: &Router, seq: u64) -> Option<Option<proto::Stanza>> {
    let told = std::mem::take(&mut *router.peer.0.lock());
    told.into_iter().find_map(|frame| match frame.body {
        Some(PeerBody::SlotMessageAck(done)) if done.key.as_ref()?.n == seq => {
            assert!(done.owner, "it was not taken");
            Some(done.reply)
        }
        _ => None,
    })
}

#[test]
fn what_another_router_sends_of_unknown_kinds_is_counted_and_its_stream_goes_on() {
    let mut router = Router::new(1, &[], || 0);
    let slot = router.session(ROMEO, 1);
    let from = PeerRef(2);
    let says = |router: &mut Router, frame| {
        router.turn(vec![Input::Peer { from, frame }]);
    };
    let frame = proto::PeerFrame {
        slot: u32::MAX,
        epoch: 1,
        body: None,
    };
    says(&mut router, frame);
    assert_eq!(unknown(&router, Lane::Peer), 1);
    // An answer is waited for: it is a refusal by name.
    let later = proto::Stanza {
        kind: 77,
        ..message("later")
    };
    says(&mut router, slot_message(slot, 1, Some(later)));
    let reply = done(&router, 1).expect("no answer").expect("no refusal");
    let reply = String::from_utf8_lossy(&reply.payload).into_owned();
    assert!(reply.contains("feature-not-implemented"), "{reply}");
    says(&mut router, slot_message(slot, 2, None));
    assert_eq!(done(&router, 2), Some(None), "its origin waits for ever");
    assert_eq!(unknown(&router, Lane::Peer), 3);
    says(&mut router, slot_message(slot, 3, Some(message("three"))));
    let heard = router.edge.0.lock().iter().any(|body| {
        matches!(body, EdgeBody::Deliver(deliver)
            if deliver.variants[0].stanza.as_ref().is_some_and(|stanza| stanza.id == "three"))
    });
    assert!(heard, "the next one was not handled");
}
