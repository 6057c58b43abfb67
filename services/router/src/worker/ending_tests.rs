#![allow(clippy::unwrap_used)]

use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::*;
use crate::worker::client::Available;
use crate::worker::core::{Job, PeerRef};
use crate::worker::input::{Input, JobDone};
use crate::worker::session::Session;
use crate::worker::slot::new_origin;
use crate::worker::testing::{LANE, Router};
use crate::worker::verona::message;

const ROMEO: &str = "romeo@c.example/orchard";
const BALCONY: &str = "juliet@c.example/balcony";

/// Storage answers everything but offline rows, which are returned.
fn rows(router: &mut Router, mut jobs: Vec<Job>) -> Vec<Job> {
    let mut rows = Vec::new();
    while let Some(job) = jobs.pop() {
        let done = match job {
            Job::Archive { rows, operations } => JobDone::Archive {
                slots: rows.iter().map(|row| place(row.fence)).collect(),
                operations,
                fenced: Vec::new(),
            },
            Job::OfflineList(read) => JobDone::OfflineList {
                read,
                page: Ok(proto::OfflineListReply::default()),
            },
            Job::Offline { .. } => {
                rows.push(job);
                continue;
            }
            _ => continue,
        };
        jobs.extend(router.turn(vec![Input::Done(done)]));
    }
    rows
}

fn place(fence: Option<proto::Fence>) -> (u16, u64) {
    let fence = fence.unwrap();
    (u16::try_from(fence.slot).unwrap(), fence.epoch)
}

fn says(router: &mut Router, slot: u16, handle: u64, stanza: Stanza) -> Vec<Job> {
    let inbound = proto::Inbound {
        handle,
        generation: 1,
        n: 1,
        stanza: Some(stanza.into()),
        ..proto::Inbound::default()
    };
    let jobs = router.edge_says(slot, RouterBody::Inbound(inbound), 0);
    rows(router, jobs)
}

fn closes(router: &mut Router, slot: u16, handle: u64) -> Vec<Job> {
    let close = proto::Close {
        handle,
        generation: 1,
        clean: true,
    };
    let jobs = router.edge_says(slot, RouterBody::Close(close), 0);
    rows(router, jobs)
}

/// The session has the message, and no edge has it yet: when the session ends, this process alone has
/// the message until storage has it.
#[test]
fn a_message_that_an_ended_session_did_not_take_is_settled_when_it_is_stored() {
    let mut router = Router::new(1, &[], || 0);
    let romeo = router.session(ROMEO, 1);
    let juliet = router.session(BALCONY, 2);
    says(&mut router, juliet, 2, Stanza::new(Kind::Presence));
    let settled = |router: &mut Router| {
        let slot = router.worker.slots.get_mut(romeo).unwrap();
        let session = slot.sessions.values().next().unwrap();
        (
            session.channel.incoming.accepted,
            session.channel.incoming.settled,
        )
    };
    assert!(says(&mut router, romeo, 1, message(BALCONY, "adieu")).is_empty());
    assert_eq!(settled(&mut router), (1, 0));
    let mut stored = closes(&mut router, juliet, 2);
    assert_eq!(settled(&mut router), (1, 0), "its row is on its way");
    let Some(Job::Offline { rows, operations }) = stored.pop() else {
        panic!("it is not stored: {stored:?}");
    };
    let done = JobDone::Offline {
        slots: rows.iter().map(|row| place(row.fence)).collect(),
        operations,
        fenced: Vec::new(),
        full: Vec::new(),
    };
    router.turn(vec![Input::Done(done)]);
    assert_eq!(settled(&mut router), (1, 1));
}

/// The types of the IQs that the edge got for a session.
fn iqs(router: &Router, handle: u64) -> Vec<String> {
    let frames = std::mem::take(&mut *router.edge.0.lock());
    let delivered = frames.into_iter().filter_map(|frame| match frame {
        proto::to_edge::Body::Deliver(delivered) => Some(delivered),
        _ => None,
    });
    let mut types = Vec::new();
    for delivered in delivered {
        for target in delivered.targets.iter().filter(|t| t.handle == handle) {
            let variant = &delivered.variants[target.variant as usize];
            let stanza = Stanza::from(variant.stanza.clone().unwrap());
            if stanza.kind == Kind::Iq {
                types.push(format!("{} {}", stanza.type_, stanza.id));
            }
        }
    }
    types
}

/// RFC 6121 §8.5.3.2.3: a request for a session that is gone is answered, and only a request is.
#[test]
fn a_request_that_an_ended_session_did_not_take_is_answered_with_an_error() {
    let mut router = Router::new(1, &[], || 0);
    let romeo = router.session(ROMEO, 1);
    let juliet = router.session(BALCONY, 2);
    for (type_, id) in [("get", "asked"), ("result", "told")] {
        let mut iq = Stanza::new(Kind::Iq);
        iq.type_ = type_.to_owned();
        iq.id = id.to_owned();
        iq.to = BALCONY.to_owned();
        iq.push_element(&sestina_xmpp::xml::Element::new("query", "urn:example:q"));
        let slot = router.worker.slots.get_mut(romeo).unwrap();
        let session = slot
            .sessions
            .values()
            .find(|s| s.channel.jid.as_str() == ROMEO);
        let n = session.unwrap().channel.incoming.accepted + 1;
        let inbound = proto::Inbound {
            handle: 1,
            generation: 1,
            n,
            stanza: Some(iq.into()),
            ..proto::Inbound::default()
        };
        router.edge_says(romeo, RouterBody::Inbound(inbound), 0);
    }
    assert_eq!(iqs(&router, 1), Vec::<String>::new());
    closes(&mut router, juliet, 2);
    assert_eq!(iqs(&router, 1), ["error asked"]);
}

/// Juliet has three sessions, which get a message to her bare JID; the clients of `taking` take it, and
/// those of `ending` end without it, in this order. Returns what is stored at each end.
fn ends_without(taking: &[u64], ending: &[u64]) -> Vec<usize> {
    let mut router = Router::new(1, &[], || 0);
    router.session(ROMEO, 1);
    let juliet = router.session(BALCONY, 2);
    for (handle, resource) in [(3, "chamber"), (4, "garden")] {
        let bind = proto::Bind {
            handle,
            bare: "juliet@c.example".to_owned(),
            resource: resource.to_owned(),
            ..proto::Bind::default()
        };
        router.edge_says(juliet, RouterBody::Bind(bind), 0);
    }
    for handle in [2, 3, 4] {
        says(&mut router, juliet, handle, Stanza::new(Kind::Presence));
    }
    let romeo = router.config.slot_of(&Jid::from_wire(ROMEO));
    assert!(says(&mut router, romeo, 1, message("juliet@c.example", "adieu")).is_empty());
    let next = |router: &mut Router, handle: u64| {
        let slot = router.worker.slots.get_mut(juliet).unwrap();
        let mut sessions = slot.sessions.values();
        let session = sessions.find(|s| s.channel.edge() == Some((LANE, handle)));
        session.unwrap().channel.outgoing.next
    };
    for handle in taking {
        let number = next(&mut router, *handle);
        let acked = proto::Acked {
            handle: *handle,
            generation: 1,
            number,
            written: number,
        };
        router.edge_says(juliet, RouterBody::Acked(acked), 0);
    }
    // The message is settled, so that its sender cannot send it again: the sessions forget its key.
    for session in router
        .worker
        .slots
        .get_mut(juliet)
        .unwrap()
        .sessions
        .values_mut()
    {
        (1..=session.channel.outgoing.next).for_each(|number| session.channel.release(number));
    }
    let stored = |jobs: Vec<Job>| jobs.iter().map(offline_rows).sum();
    let ends = ending.iter().copied();
    ends.map(|handle| stored(closes(&mut router, juliet, handle)))
        .collect()
}

fn offline_rows(job: &Job) -> usize {
    match job {
        Job::Offline { rows, .. } => rows.len(),
        _ => 0,
    }
}

#[test]
fn a_message_that_one_client_took_is_not_stored_when_the_others_end_without_it() {
    assert_eq!(ends_without(&[4], &[2, 3]), [0, 0]);
    assert_eq!(ends_without(&[2], &[3, 4]), [0, 0]);
}

#[test]
fn a_message_that_no_client_took_is_stored_when_the_last_session_ends() {
    assert_eq!(ends_without(&[], &[2, 3, 4]), [0, 0, 1]);
}

/// After a takeover the end of a session may come behind the presence of the one that has its address
/// now.
#[test]
fn the_end_of_a_session_says_nothing_of_the_one_that_has_its_address_now() {
    for later in [false, true] {
        let mut router = Router::new(1, &[], || 0);
        let slot = router.session(BALCONY, 2);
        let bind = proto::Bind {
            handle: 3,
            bare: "juliet@c.example".to_owned(),
            resource: "chamber".to_owned(),
            ..proto::Bind::default()
        };
        router.edge_says(slot, RouterBody::Bind(bind), 0);
        for handle in [2, 3] {
            says(&mut router, slot, handle, Stanza::new(Kind::Presence));
        }
        if later {
            let (lane, handle) = (LANE, 4);
            let attachment = Attachment::Edge { lane, handle };
            let jid = Jid::from_wire(BALCONY);
            let mut session = Session::new(new_origin(slot), jid, attachment);
            session.client.available = Some(Box::new(Available {
                priority: 0,
                stanza: Stanza::new(Kind::Presence).into(),
            }));
            let slot = router.worker.slots.get_mut(slot).unwrap();
            slot.insert_session(session);
        }
        router.edge.0.lock().clear();
        closes(&mut router, slot, 2);
        let told = std::mem::take(&mut *router.edge.0.lock());
        let told: Vec<proto::Deliver> = told
            .into_iter()
            .filter_map(|body| match body {
                Body::Deliver(deliver) => Some(deliver),
                _ => None,
            })
            .collect();
        let targets = told.iter().flat_map(|deliver| &deliver.targets);
        let handles: Vec<u64> = targets.map(|target| target.handle).collect();
        // Not the later session itself, which knows its own presence.
        assert_eq!(handles, [3]);
        let variants = told.into_iter().flat_map(|deliver| deliver.variants);
        let told: Vec<String> = variants
            .filter_map(|variant| Some(variant.stanza?.r#type))
            .collect();
        // The presence of the later session is sent again: the end of the older one may have reached
        // somebody after it.
        let expected = if later { "" } else { "unavailable" };
        assert_eq!(told, [expected]);
    }
}

/// What its client said in the room before may still be on its way there: a room that takes the session
/// out would refuse it.
#[test]
fn a_room_hears_of_an_end_from_what_tells_it_alone() {
    let mut router = Router::new(1, &[], || 0);
    let romeo = router.session(ROMEO, 1);
    let owned = router.worker.slots.get_mut(romeo).unwrap();
    let session = owned.session_of(&Jid::from_wire(ROMEO)).unwrap();
    closes(&mut router, romeo, 1);
    let owned = router.worker.slots.get_mut(romeo).unwrap();
    assert!(owned.sessions[&session].channel.is_ending());
    let gone = |router: &mut Router, session: u128| {
        let (session_hi, session_lo) = sestina_api::key::split(session);
        let event = proto::RoomEvent {
            key: Some(IdempotencyKey::new(new_origin(7), 1, Purpose::RoomEvent).into()),
            room_slot: 7,
            room_epoch: 1,
            variants: vec![message(ROMEO, "ho").into()],
            targets: vec![proto::RoomTarget {
                slot: romeo.into(),
                session_hi,
                session_lo,
                ..proto::RoomTarget::default()
            }],
            ..proto::RoomEvent::default()
        };
        let frame = proto::PeerFrame {
            slot: romeo.into(),
            epoch: 1,
            body: Some(PeerBody::RoomEvent(event)),
        };
        router.peer.0.lock().clear();
        let from = PeerRef(2);
        router.turn(vec![Input::Peer { from, frame }]);
        let told = std::mem::take(&mut *router.peer.0.lock());
        let acks = told.into_iter().filter_map(|frame| match frame.body {
            Some(PeerBody::RoomAck(ack)) => Some(ack.gone.len()),
            _ => None,
        });
        acks.collect::<Vec<usize>>()
    };
    assert_eq!(gone(&mut router, session), [0]);
    assert_eq!(gone(&mut router, new_origin(romeo)), [1], "nobody");
}
