//! A bound session: both directions, acknowledgements, and its ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sestina_proto as proto;
use sestina_proto::to_edge::Body as ToEdge;

use super::client::{SECURE, WEBSOCKET, Way};
use super::rig::{Rig, config, until};
use super::router::{Cluster, next_frame};
use crate::EdgeConfig;
use crate::config::LeaseConfig;
use crate::metrics::{Count, Level};

#[tokio::test]
async fn requests_are_answered_at_once_and_again_when_more_is_accepted() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    bound.say(&["one", "two", "three"]).await;
    for (n, id) in [(1, "one"), (2, "two"), (3, "three")] {
        bound.heard(&bound.router, n, id).await;
    }
    bound.progress(1, 0);
    bound.client.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    assert_eq!(
        bound.client.until("/>").await,
        "<a xmlns='urn:xmpp:sm:3' h='1'/>"
    );
    // The owner is told that somebody waits for the rest.
    let (_, _, asked) = next_frame!(bound.router, Asked);
    assert_eq!((asked.handle, asked.n), (bound.handle, 3));
    bound.progress(2, 1);
    assert_eq!(
        bound.client.until("/>").await,
        "<a xmlns='urn:xmpp:sm:3' h='2'/>"
    );
    bound.progress(3, 3);
    assert_eq!(
        bound.client.until("/>").await,
        "<a xmlns='urn:xmpp:sm:3' h='3'/>"
    );
    // Nobody asked for more.
    bound.say(&["four"]).await;
    bound.heard(&bound.router, 4, "four").await;
    bound.progress(4, 4);
    bound.deliver(1, "hello");
    let next = bound.client.until("</message>").await;
    assert!(next.starts_with("<message"), "{next}");
}

#[tokio::test]
async fn a_stanza_right_behind_a_request_is_answered_too() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    bound.say(&["one"]).await;
    bound.heard(&bound.router, 1, "one").await;
    bound.client.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    assert_eq!(
        bound.client.until("/>").await,
        "<a xmlns='urn:xmpp:sm:3' h='0'/>"
    );
    next_frame!(bound.router, Asked);
    bound.say(&["two"]).await;
    bound.heard(&bound.router, 2, "two").await;
    for (accepted, told) in [(1, "h='1'/>"), (2, "h='2'/>")] {
        bound.progress(accepted, 0);
        assert!(bound.client.until("/>").await.ends_with(told));
    }
}

#[tokio::test]
async fn deliveries_are_spliced_asked_for_and_reported() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    let bodies = (1..=25)
        .map(|n| bound.delivery(n, &format!("text {n}")))
        .collect();
    bound.router.batch("edge1", bound.slot, bound.epoch, bodies);
    assert_eq!(
        bound.router.lane_acked.load(Ordering::Relaxed),
        bound.router.last_seq()
    );
    let written = bound.client.until("<r xmlns='urn:xmpp:sm:3'/>").await;
    assert_eq!(
        written.matches("to='juliet@c.example/balcony'").count(),
        25,
        "{written}"
    );
    assert!(written.contains("<body>text 25</body>"), "{written}");
    let acked = bound.router.acked().await;
    assert_eq!((acked.number, acked.written), (0, 25));
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='24'/>").await;
    let acked = bound.router.acked().await;
    assert_eq!((acked.number, acked.written), (24, 25));
    assert_eq!(rig.tally.get(Count::StanzaOut), 25);
}

/// XEP-0198 §4: a client that closes its stream soon after it got a message has been asked to
/// acknowledge it before.
#[tokio::test]
async fn few_deliveries_ask_for_an_acknowledgement_at_once() {
    let cluster = Cluster::new(1);
    let config = EdgeConfig {
        ask_after: Duration::from_millis(50),
        ..config("edge1")
    };
    let rig = Rig::with(cluster, config, 1).await;
    let mut bound = rig.managed(SECURE).await;
    const ASKED: &str = "</message><r xmlns='urn:xmpp:sm:3'/>";
    bound.deliver(1, "one");
    bound.client.until(ASKED).await;
    // What came before the answer is asked for with the answer.
    bound.deliver(2, "two");
    let two = bound.client.until("</message>").await;
    assert!(!two.contains("<r "), "{two}");
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    bound.client.until("<r xmlns='urn:xmpp:sm:3'/>").await;
    // So often at once; then time has to pass.
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='2'/>").await;
    bound.deliver(3, "three");
    bound.client.until(ASKED).await;
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='3'/>").await;
    bound.deliver(4, "four");
    bound.client.until(ASKED).await;
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='4'/>").await;
    bound.deliver(5, "five");
    bound.client.until(ASKED).await;
}

#[tokio::test]
async fn an_error_of_the_client_is_its_last_word() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    bound
        .client
        .send(
            "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             </stream:error></stream:stream>",
        )
        .await;
    assert_eq!(bound.client.rest().await, "</stream:stream>");
    assert!(next_frame!(bound.router, Close).2.clean);
}

/// A session that could be resumed would be sent the same again, and again.
#[tokio::test]
async fn a_message_that_is_too_long_for_a_websocket_ends_the_session() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(WEBSOCKET).await;
    let long = "x".repeat(config("edge1").after_login.xml.bytes + 1);
    let message = format!("<message xmlns='jabber:client'><body>{long}</body></message>");
    bound.client.send(&message).await;
    let end = bound.client.rest().await;
    assert!(end.contains("<policy-violation "), "{end}");
    assert!(end.contains("<close "), "{end}");
    assert!(next_frame!(bound.router, Close).2.clean);
}

#[tokio::test]
async fn without_management_written_is_acknowledged() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    bound.deliver(1, "hello");
    bound.client.until("</message>").await;
    let acked = bound.router.acked().await;
    assert_eq!((acked.number, acked.written), (1, 1));
}

#[tokio::test]
async fn an_impossible_h_ends_the_stream() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    bound.deliver(1, "hello");
    bound.client.until("</message>").await;
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='3'/>").await;
    let end = bound.client.rest().await;
    assert!(end.contains("<undefined-condition "), "{end}");
    assert!(end.contains("<handled-count-too-high "), "{end}");
    assert!(
        end.contains("h='3'") && end.contains("send-count='1'"),
        "{end}"
    );
    assert!(next_frame!(bound.router, Close).2.clean);
}

#[tokio::test]
async fn forged_senders_and_bad_addresses() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    let own = "<message from='juliet@c.example/balcony' id='own' to='romeo@c.example'/>";
    bound.client.send(own).await;
    bound.heard(&bound.router, 1, "own").await;
    bound
        .client
        .send("<message from='juliet@c.example' id='bare' to='romeo@c.example'/>")
        .await;
    bound.heard(&bound.router, 2, "bare").await;
    bound
        .client
        .send("<message id='bad' to='@C.example'/>")
        .await;
    let (_, _, bad) = next_frame!(bound.router, Inbound);
    assert_eq!((bad.n, bad.refused.as_str()), (3, "jid-malformed"));
    // RFC 6120 §8.3.1: the answer is from what was written.
    assert_eq!(bad.stanza.unwrap_or_default().to, "@C.example");
    bound
        .client
        .send("<message from='juliet@c.example/other' to='romeo@c.example'/>")
        .await;
    let end = bound.client.rest().await;
    assert!(end.contains("<invalid-from "), "{end}");
    assert!(next_frame!(bound.router, Close).2.clean);
}

/// XEP-0198 §3: a second `<enable/>` is refused, after the first is answered.
#[tokio::test]
async fn enables_in_one_write_are_answered_in_order() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    let enable = "<enable xmlns='urn:xmpp:sm:3'/>";
    bound.client.send(&[enable, enable, enable].concat()).await;
    let (_, _, asked) = next_frame!(bound.router, EnableSm);
    assert!(!asked.resume);
    // Everything that the client sent before this is read.
    bound.say(&["one"]).await;
    bound.heard(&bound.router, 1, "one").await;
    bound.frame(ToEdge::SmEnabled(proto::SmEnabled {
        handle: bound.handle,
        generation: bound.generation,
        id: String::new(),
        max_s: 0,
        out_base: 0,
    }));
    let first = bound.client.until("</failed>").await;
    let enabled = first.find("<enabled ").expect("an answer to the first");
    assert!(enabled < first.find("<failed ").unwrap(), "{first}");
    bound.client.until("</failed>").await;
    bound.client.send(enable).await;
    let fourth = bound.client.until("</failed>").await;
    assert!(!fourth.contains("<enabled "), "{fourth}");
}

#[tokio::test]
async fn a_fast_sender_is_paused_until_half_is_settled() {
    let cluster = Cluster::new(1);
    let config = EdgeConfig {
        unsettled_bytes: 2000,
        ..config("edge1")
    };
    let rig = Rig::with(cluster, config, 1).await;
    let mut bound = rig.session().await;
    let big = |id: &str| {
        format!(
            "<message id='{id}' to='r@c.example'><body>{}</body></message>",
            "x".repeat(1900)
        )
    };
    bound.client.send(&big("one")).await;
    bound.heard(&bound.router, 1, "one").await;
    until("paused", || rig.tally.get(Count::PausedByBound) == 1).await;
    bound.client.send(&big("two")).await;
    bound.progress(1, 0);
    assert!(bound.router.is_quiet());
    bound.progress(1, 1);
    bound.heard(&bound.router, 2, "two").await;
}

#[tokio::test]
async fn a_slow_reader_loses_its_socket_and_nothing_else() {
    let cluster = Cluster::new(1);
    let config = EdgeConfig {
        session_credit: 16 << 10,
        ..config("edge1")
    };
    let rig = Rig::with(cluster, config, 1).await;
    let bound = rig
        .managed(Way {
            small_buffers: true,
            ..SECURE
        })
        .await;
    let text = "x".repeat(8000);
    let mut number = 0;
    while rig.tally.get(Count::SlowReader) == 0 {
        number += 1;
        assert!(number < 2000, "the queue has no bound");
        bound.deliver(number, &text);
    }
    assert!(!next_frame!(bound.router, Close).2.clean);
    // What was delivered is held, and so is what still comes, until the owner detaches.
    bound.deliver(number + 1, "late");
    assert_eq!(rig.tally.level_of(Level::Sessions), 1);
    bound.frame(ToEdge::Detached(proto::Detached {
        handle: bound.handle,
        generation: 1,
    }));
    assert_eq!(rig.tally.level_of(Level::Sessions), 0);
}

#[tokio::test]
async fn the_owner_ends_a_session() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    let close = |generation, condition: &str| {
        ToEdge::Close(proto::CloseSession {
            handle: bound.handle,
            generation,
            condition: condition.to_owned(),
            ..Default::default()
        })
    };
    bound.frame(close(0, "policy-violation"));
    assert_eq!(rig.tally.get(Count::RefusedGeneration), 1);
    bound.frame(close(1, "conflict"));
    let end = bound.client.rest().await;
    assert!(
        end.contains("<conflict ") && end.ends_with("</stream:stream>"),
        "{end}"
    );
    assert_eq!(rig.tally.level_of(Level::Sessions), 0);
}

#[tokio::test]
async fn deliveries_of_a_closed_session_are_held_until_the_owner_releases_them() {
    let rig = Rig::new(2).await;
    let mut bound = rig.managed(SECURE).await;
    bound.deliver(1, "not acknowledged");
    bound.frame(ToEdge::Close(proto::CloseSession {
        handle: bound.handle,
        generation: 1,
        condition: "conflict".to_owned(),
        keep: true,
        ended: true,
        ..Default::default()
    }));
    let end = bound.client.rest().await;
    assert!(end.contains("<conflict "), "{end}");
    assert_eq!(rig.tally.level_of(Level::Sessions), 1);
    // A new owner gets it, and hears that the session is over.
    let new = rig.cluster.router(1);
    let install = proto::InstallEpoch {
        owner: Some(new.node.clone()),
    };
    new.send("edge1", bound.slot, 5, ToEdge::InstallEpoch(install));
    let (_, _, report) = next_frame!(new, EpochReport);
    assert_eq!(report.sessions[0].held.len(), 1);
    let item = bound.item(0, 0, 0);
    let restored = proto::Restored { items: vec![item] };
    new.send("edge1", bound.slot, 5, ToEdge::Restored(restored));
    let (_, _, close) = next_frame!(new, Close);
    assert!(close.clean);
    let (handle, generation) = (bound.handle, 1);
    let detached = proto::Detached { handle, generation };
    new.send("edge1", bound.slot, 5, ToEdge::Detached(detached));
    assert_eq!(rig.tally.level_of(Level::Sessions), 0);
}

#[tokio::test]
async fn a_lost_lease_cuts_every_socket_and_the_edge_starts_over() {
    let cluster = Cluster::new(1);
    let lease = LeaseConfig {
        ttl: Duration::from_millis(300),
        every: Duration::from_millis(50),
        margin: Duration::from_millis(50),
    };
    let config = EdgeConfig {
        lease,
        ..config("edge1")
    };
    let rig = Rig::with(cluster, config, 1).await;
    let mut bound = rig.managed(SECURE).await;
    let first = rig.edge.shared.node().incarnation;
    bound.frame(ToEdge::KeepState(proto::KeepState {
        handle: bound.handle,
        generation: 1,
        state: super::takeover::record(),
    }));
    let room = sestina_cluster::slots::slot_of_bare("garden@muc.c.example");
    let rooms = || {
        rig.edge
            .shared
            .attachments
            .rooms
            .of_slot(&rig.edge.shared, room)
    };
    until("it is in a room", || !rooms().is_empty()).await;
    rig.cluster.leases.store(false, Ordering::Relaxed);
    let end = bound.client.rest().await;
    assert_eq!(end, "", "the stream is not closed");
    assert!(!rig.edge.status().ready());
    assert_eq!(rig.tally.get(Count::LeaseLost), 1);
    assert_eq!(rig.tally.level_of(Level::Sessions), 0);
    assert!(
        rooms().is_empty(),
        "nobody is told of a session that is gone"
    );
    rig.cluster.leases.store(true, Ordering::Relaxed);
    until("serving again", || rig.edge.status().ready()).await;
    // Nobody need wait for what the first incarnation may have held.
    assert_eq!(*rig.cluster.ended.lock(), [first]);
    rig.lanes_open(1).await;
    while let Ok(frame) = tokio::time::timeout(Duration::ZERO, bound.router.next()).await {
        assert!(!matches!(
            frame.body,
            Some(proto::to_router::Body::Close(_))
        ));
    }
    rig.session().await;
}

#[tokio::test]
async fn draining_ends_sockets_as_their_streams_allow() {
    let rig = Rig::new(1).await;
    let mut stream = rig.managed(SECURE).await;
    let mut websocket = rig.managed(WEBSOCKET).await;
    let mut unmanaged = rig.session().await;
    let owner = async {
        for _ in 0..3 {
            let (slot, epoch, close) = next_frame!(stream.router, Close);
            assert_eq!(close.clean, close.handle == unmanaged.handle);
            let gone = proto::Detached {
                handle: close.handle,
                generation: close.generation,
            };
            stream
                .router
                .send("edge1", slot, epoch, ToEdge::Detached(gone));
        }
    };
    tokio::join!(rig.edge.drain(), owner);
    assert_eq!(stream.client.rest().await, "");
    assert_eq!(websocket.client.rest().await.trim(), "[close 1012]");
    assert!(unmanaged.client.rest().await.contains("<system-shutdown "));
    assert!(rig.edge.status().draining);
    let mut late = rig.client(SECURE).await;
    assert_eq!(late.rest().await, "");
    rig.edge.shutdown().await;
}
