//! A stanza from its edge over two routers to another edge: its trace and its age.
#![allow(clippy::unwrap_used)]

use sestina_proto::to_edge::Body as EdgeBody;
use sestina_telemetry::Queue;
use sestina_telemetry::testing::Capture;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::*;
use crate::config::RouterConfig;
use crate::worker::core::{Job, PeerRef};
use crate::worker::input::Input;
use crate::worker::testing::Router;

fn inbound(handle: u64, to: &str, age_us: u32, trace: &str) -> RouterBody {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.type_ = "chat".to_owned();
    stanza.to = to.to_owned();
    stanza.push_element(&Element::new("body", "jabber:client").with_text("good night"));
    RouterBody::Inbound(proto::Inbound {
        handle,
        generation: 1,
        n: 1,
        stanza: Some(stanza.into()),
        age_us,
        trace: trace.to_owned(),
        refused: String::new(),
    })
}

/// Sends one message from juliet at the first router to romeo at the second: what the second
/// router's edge gets, the jobs of the first, and both routers.
fn send(age_us: u32, trace: &str) -> (proto::Variant, Vec<Job>, Router, Router) {
    let (juliet, romeo) = ("juliet@c.example/balcony", "romeo@c.example/orchard");
    let theirs = RouterConfig::default().slot_of(&Jid::from_wire(romeo));
    let mut one = Router::new(1, &[theirs], || 1_000_000);
    let mut two = Router::new(2, &[theirs], || 9_000);
    let slot = one.session(juliet, 100);
    assert_ne!(slot, theirs);
    two.session(romeo, 200);
    let jobs = one.edge_says(slot, inbound(100, romeo, age_us, trace), 999_000);
    let frames: Vec<_> = std::mem::take(&mut *one.peer.0.lock());
    for mut frame in frames {
        entering(&mut frame, 7_000);
        two.turn(vec![Input::Peer {
            from: PeerRef(1),
            frame,
        }]);
    }
    let delivered = two.edge.0.lock().iter().find_map(|body| match body {
        EdgeBody::Deliver(deliver) => Some(deliver.variants[0].clone()),
        _ => None,
    });
    (delivered.unwrap(), jobs, one, two)
}

#[test]
fn one_trace_goes_through_both_routers() {
    let capture = Capture::start();
    let root = trace::stanza_span("message");
    let parent = trace::traceparent(&root).unwrap();
    let (variant, jobs, mut one, _) = send(500, &parent);
    drop(root);
    let spans = capture.finished();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (stanza, route, receive) = (named("stanza"), named("route"), named("receive"));
    assert_eq!(spans.len(), 3, "{spans:?}");
    assert_eq!((&route.parent, &receive.parent), (&stanza.id, &route.id));
    assert_eq!(
        variant.trace,
        format!("00-{}-{}-01", stanza.trace, receive.id)
    );
    let said = format!("{spans:?}");
    for secret in ["good night", "juliet", "romeo", "example"] {
        assert!(!said.contains(secret), "{said}");
    }
    // Its archive row is appended under it, too.
    assert!(matches!(jobs[..], [Job::Archive { .. }]), "{jobs:?}");
    let traces = std::mem::take(&mut one.worker.core.storage.archive.flying_traces);
    assert_eq!(traces.len(), 1);
    assert_eq!(*traces[0], format!("00-{}-{}-01", stanza.trace, route.id));
}

#[test]
fn the_time_in_both_routers_is_added_to_the_age() {
    let (variant, _, mut one, _) = send(500, "");
    assert_eq!(variant.trace, "");
    assert!(one.worker.core.storage.archive.flying_traces.is_empty());
    // 500 at the edge, 1000 in the first router, 2000 in the second.
    assert_eq!(variant.age_us, 3_500);
    one.worker.end();
}

#[test]
fn gauges_are_what_there_is() {
    let (_, _, mut one, mut two) = send(500, "");
    let queue = |router: &Router, queue| {
        let metrics = &router.metrics;
        (
            metrics.queue_items[queue].get(),
            metrics.queue_bytes[queue].get() > 0,
        )
    };
    for router in [&mut one, &mut two] {
        router.now_ms += 5_000;
        router.turn(Vec::new());
        assert_eq!(router.metrics.owned_sessions.get(), 1);
        assert_eq!(
            queue(router, Queue::Archive),
            (1, true),
            "no answer of storage came"
        );
    }
    assert_eq!(queue(&one, Queue::Session), (0, false));
    assert_eq!(queue(&two, Queue::Session), (1, true));
    for router in [&mut one, &mut two] {
        router.worker.end();
        assert_eq!(router.metrics.owned_sessions.get(), 0);
        assert_eq!(queue(router, Queue::Archive), (0, false));
        assert_eq!(queue(router, Queue::Session), (0, false));
    }
}

#[test]
fn an_edge_hears_of_progress_at_a_beat_or_when_its_client_asks() {
    let mut router = Router::new(1, &[], || 0);
    let juliet = "juliet@c.example/balcony";
    let slot = router.session(juliet, 100);
    let accepted = |router: &Router| -> Vec<u64> {
        let bodies = std::mem::take(&mut *router.edge.0.lock());
        let told = bodies.into_iter().filter_map(|body| match body {
            EdgeBody::Progress(progress) => Some(progress.items),
            _ => None,
        });
        told.flatten().map(|item| item.accepted).collect()
    };
    let say = |n| match inbound(100, juliet, 0, "") {
        RouterBody::Inbound(first) => RouterBody::Inbound(proto::Inbound { n, ..first }),
        other => other,
    };
    let asked = |n| {
        RouterBody::Asked(proto::Asked {
            handle: 100,
            generation: 1,
            n,
        })
    };
    router.now_ms += 100;
    router.turn(Vec::new());
    accepted(&router);
    router.edge_says(slot, say(1), 0);
    assert_eq!(accepted(&router), [0; 0]);
    let due = router.worker.progress_due().unwrap();
    assert!(due <= router.now_ms + sestina_runtime::coalesce::BEAT_MS);
    router.now_ms = due;
    router.turn(Vec::new());
    assert_eq!(accepted(&router), [1]);
    assert_eq!(router.worker.progress_due(), None);
    router.edge_says(slot, say(2), 0);
    router.edge_says(slot, asked(2), 0);
    assert_eq!(accepted(&router), [2]);
    // Asked for before it came.
    router.edge_says(slot, asked(3), 0);
    assert_eq!(accepted(&router), [0; 0]);
    router.edge_says(slot, say(3), 0);
    assert_eq!(accepted(&router), [3]);
}
