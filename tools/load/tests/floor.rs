//! The generator against the floor: handshakes, every scenario, both ways of writing.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use sestina_load::bench::all::{FloorProcess, one};
use sestina_load::bench::outcome::Outcome;
use sestina_load::bench::spec::{ChatSpec, IdleSpec, LoginSpec, RoomSpec, Scenario, Timing};
use sestina_load::client::endpoint::{Endpoint, Transport};
use sestina_load::client::stream::Stream;
use sestina_load::floor::peers::Mode;
use sestina_load::net::tls::Trust;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sestina-load");

fn timing() -> Timing {
    Timing {
        warmup_s: 0.05,
        duration_s: 0.3,
        settle_s: 0.0,
        ask_every: 3,
        floor_ask_every: 5,
    }
}

async fn measure(mode: Mode, scenario: Scenario) -> Outcome {
    let floor = FloorProcess::start_program(Path::new(PROGRAM), mode)
        .await
        .unwrap();
    Box::pin(one(&floor.spec(), &timing(), &scenario))
        .await
        .unwrap()
}

fn requests_come_at_the_rate_asked_for(outcome: &Outcome) {
    let requests = outcome.requests_per_1000;
    assert!(
        (150.0..250.0).contains(&requests),
        "one in five, not {requests} in 1,000"
    );
}

#[tokio::test]
async fn pairs_get_their_messages_in_closed_and_open_loops() {
    for mode in [Mode::Plain, Mode::Coalescing] {
        for (per_pair, rate) in [(false, None), (true, None), (false, Some(2_000.0))] {
            let spec = ChatSpec {
                pairs: 3,
                in_flight: 4,
                per_pair,
                rate,
                floor_bytes: 500,
                background: 2,
                ..ChatSpec::default()
            };
            let outcome = measure(mode, Scenario::Chat(spec)).await;
            assert_eq!(outcome.unit, "message");
            assert!(outcome.operations > 0);
            assert!((499.0..501.0).contains(&outcome.delivery_bytes));
            assert!(outcome.latency.p99_us >= outcome.latency.p50_us);
            assert!(outcome.cpu_us.contains_key("server"));
        }
    }
}

#[tokio::test]
async fn every_occupant_gets_every_message() {
    for mode in [Mode::Plain, Mode::Coalescing] {
        let spec = RoomSpec {
            occupants: 20,
            in_flight: 4,
            ..RoomSpec::default()
        };
        let outcome = measure(mode, Scenario::Room(spec)).await;
        assert!(outcome.operations >= 20);
        requests_come_at_the_rate_asked_for(&outcome);
    }
}

#[tokio::test]
async fn handshakes_and_idle_connections_are_counted() {
    let spec = LoginSpec {
        count: 20,
        concurrency: 4,
    };
    let outcome = measure(Mode::Plain, Scenario::Login(spec)).await;
    assert_eq!(outcome.operations, 20);
    assert!(outcome.latency.max_us > 0.0);

    let spec = IdleSpec {
        sessions: 200,
        concurrency: 8,
        rest_s: 0.1,
        after_s: 0.1,
    };
    let outcome = measure(Mode::Plain, Scenario::Idle(spec)).await;
    let memory = outcome.memory["server"];
    assert!(
        memory.with_sessions > memory.before,
        "200 connections take memory"
    );
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_ends_the_handshake() {
    let floor = FloorProcess::start_program(Path::new(PROGRAM), Mode::Plain)
        .await
        .unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let trust = Trust::Pem(vec![other.cert.der().clone()]);
    let endpoint = Endpoint::new("localhost", Transport::DirectTls, &trust).unwrap();
    let address = &floor.spec().addresses[0];
    let error = Stream::connect(&endpoint, address).await.unwrap_err();
    assert!(format!("{error:#}").contains("certificate"), "{error:#}");
}

#[tokio::test]
async fn a_connection_that_sends_no_hello_is_closed() {
    let floor = FloorProcess::start_program(Path::new(PROGRAM), Mode::Plain)
        .await
        .unwrap();
    // Without ALPN: the floor supports no protocol of that name.
    let mut endpoint = Endpoint::new("localhost", Transport::DirectTls, &Trust::Anything).unwrap();
    endpoint.tls = sestina_load::net::tls::TlsClient::new(&Trust::Anything, &[]).unwrap();
    let mut stream = Stream::connect(&endpoint, &floor.spec().addresses[0])
        .await
        .unwrap();
    stream.expect_elements();
    stream.send(b"<iq/>").unwrap();
    assert!(stream.next_element().await.is_err());
}
