//! What is measured of a stanza, and its trace.

use std::time::{Duration, Instant};

use sestina_proto::to_edge::Body as ToEdge;
use sestina_telemetry::testing::Capture;

use super::client::SECURE;
use super::rig::{Rig, until};
use super::router::next_frame;
use crate::metrics::{Count, Level, Timing};

/// The frame of a delivery, changed.
fn traced(body: ToEdge, age_us: u32, trace: &str) -> ToEdge {
    let ToEdge::Deliver(mut deliver) = body else {
        panic!("no delivery");
    };
    deliver.variants[0].age_us = age_us;
    deliver.variants[0].trace = trace.to_owned();
    ToEdge::Deliver(deliver)
}

#[tokio::test]
async fn a_sampled_stanza_is_one_trace_from_socket_to_socket() {
    let capture = Capture::start();
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    bound.say(&["m1"]).await;
    let router = bound.router.clone();
    let (_, _, inbound) = next_frame!(router, Inbound);
    let parts: Vec<&str> = inbound.trace.split('-').collect();
    assert_eq!(
        (parts.len(), parts[0], parts[3]),
        (4, "00", "01"),
        "{}",
        inbound.trace
    );
    assert!(
        capture.finished().is_empty(),
        "the root ends when the stanza is settled"
    );
    bound.frame(traced(bound.delivery(1, "secret words"), 1, &inbound.trace));
    bound.client.until("</message>").await;
    bound.progress(1, 1);
    until("both spans ended", || capture.finished().len() == 2).await;
    let spans = capture.finished();
    assert_eq!(
        (spans[0].name.as_str(), spans[1].name.as_str()),
        ("deliver", "stanza")
    );
    assert!(spans.iter().all(|span| span.trace == parts[1]), "{spans:?}");
    assert_eq!(
        (spans[1].id.as_str(), spans[0].parent.as_str()),
        (parts[2], parts[2])
    );
    let said = format!("{spans:?}");
    for secret in ["secret", "juliet", "romeo", "example"] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn a_stanza_without_a_trace_is_forwarded_without_one() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    bound.say(&["m1"]).await;
    let router = bound.router.clone();
    let (_, _, inbound) = next_frame!(router, Inbound);
    assert_eq!(inbound.trace, "");
}

#[tokio::test]
async fn latency_ends_with_the_last_byte_written() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    bound.frame(traced(bound.delivery(1, "hello"), 250_000, ""));
    bound.client.until("</message>").await;
    // What has no age (stored messages, answers of an archive) has no latency.
    bound.deliver(2, "stored");
    bound.client.until("</message>").await;
    let (count, sum) = rig.tally.timed(Timing::Latency);
    assert_eq!(count, 1);
    assert!(
        sum >= Duration::from_millis(250) && sum < Duration::from_secs(9),
        "{sum:?}"
    );
    bound.say(&["m1"]).await;
    until("it was read", || rig.tally.get(Count::BytesIn) > 20).await;
    assert!(rig.tally.get(Count::BytesOut) > 100);
    assert_eq!(rig.tally.level_of(Level::WaitingBytes), 0);
}

#[tokio::test]
async fn what_is_unsettled_is_known_until_it_is_settled() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    assert_eq!(
        (
            rig.tally.level_of(Level::Sockets),
            rig.tally.level_of(Level::Logins)
        ),
        (1, 0)
    );
    bound.say(&["m1", "m2", "m3"]).await;
    until("three wait", || rig.tally.level_of(Level::Unsettled) == 3).await;
    assert!(rig.tally.level_of(Level::UnsettledBytes) > 0);
    bound.progress(3, 2);
    assert_eq!(rig.tally.level_of(Level::Unsettled), 1);
    assert_eq!(rig.tally.timed(Timing::Settled).0, 2);
    rig.edge.shutdown().await;
    assert_eq!(rig.tally.level_of(Level::Unsettled), 0);
    assert_eq!(rig.tally.level_of(Level::UnsettledBytes), 0);
    assert_eq!(rig.tally.level_of(Level::Sessions), 0);
}

#[tokio::test]
async fn a_socket_that_takes_nothing_shows_in_what_waits() {
    let rig = Rig::new(1).await;
    let way = super::client::Way {
        small_buffers: true,
        ..SECURE
    };
    let bound = rig.session_by(way).await;
    let text = "x".repeat(60_000);
    for number in 1..=4 {
        bound.deliver(number, &text);
    }
    assert!(rig.tally.level_of(Level::WaitingBytes) > 60_000);
    assert!(rig.tally.level_of(Level::Waiting) > 0);
    drop(bound);
    until("nothing waits", || {
        rig.tally.level_of(Level::WaitingBytes) == 0
    })
    .await;
    until("no stanza waits", || {
        rig.tally.level_of(Level::Waiting) == 0
    })
    .await;
}

/// What the sweep does when it comes by after so long.
fn sweep(rig: &Rig, slot: u16, later: Duration) {
    let shared = &rig.edge.shared;
    let now = Instant::now() + later;
    shared.attachments.sweep(shared, usize::from(slot), now);
}

const SILENCE: Duration = Duration::from_secs(301);

#[tokio::test]
async fn a_silent_client_is_asked_and_lost_without_an_answer() {
    let rig = Rig::new(1).await;
    let mut bound = rig.managed(SECURE).await;
    sweep(&rig, bound.slot, Duration::from_secs(200));
    sweep(&rig, bound.slot, SILENCE);
    let asked = bound.client.until("/>").await;
    assert_eq!(
        asked, "<r xmlns='urn:xmpp:sm:3'/>",
        "asked once, and not before its time"
    );
    // Time enough to answer is left.
    sweep(&rig, bound.slot, SILENCE + Duration::from_secs(29));
    bound.client.send("<a xmlns='urn:xmpp:sm:3' h='0'/>").await;
    bound.say(&["m1"]).await;
    let router = bound.router.clone();
    bound.heard(&router, 1, "m1").await;
    sweep(&rig, bound.slot, SILENCE + Duration::from_secs(31));
    assert_eq!(rig.tally.get(Count::Unanswered), 0, "it answered");
    bound.client.until("<r xmlns='urn:xmpp:sm:3'/>").await;
    sweep(&rig, bound.slot, SILENCE + Duration::from_secs(62));
    let (_, _, close) = next_frame!(router, Close);
    assert!(!close.clean, "it may resume");
    assert_eq!(rig.tally.get(Count::Unanswered), 1);
    assert_eq!(bound.client.rest().await, "");
}

#[tokio::test]
async fn a_silent_websocket_is_pinged() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session_by(super::client::WEBSOCKET).await;
    let heard = || {
        let slot = rig.edge.shared.attachments.slots[usize::from(bound.slot)].lock();
        slot.sessions[&bound.handle].wire.heard_at()
    };
    let before = heard();
    sweep(&rig, bound.slot, SILENCE);
    bound.deliver(1, "wakes the reader");
    // The client answers pings while it reads.
    bound.client.until("</message>").await;
    until("a pong came", || heard() > before).await;
    sweep(&rig, bound.slot, SILENCE + Duration::from_secs(31));
    assert_eq!(rig.tally.get(Count::Unanswered), 0);
    sweep(&rig, bound.slot, SILENCE + Duration::from_secs(62));
    let router = bound.router.clone();
    let (_, _, close) = next_frame!(router, Close);
    assert!(!close.clean);
}

#[tokio::test]
async fn a_plain_stream_that_cannot_be_asked_is_left_to_the_kernel() {
    let rig = Rig::new(1).await;
    let mut bound = rig.session().await;
    sweep(&rig, bound.slot, SILENCE);
    sweep(&rig, bound.slot, SILENCE * 3);
    bound.deliver(1, "still here");
    let text = bound.client.until("</message>").await;
    assert!(
        text.starts_with("<message"),
        "nothing was written before: {text}"
    );
}
