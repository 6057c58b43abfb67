#![allow(clippy::unwrap_used)]

use super::features::StartTls;
use super::*;
use crate::ns;
use crate::sasl::SaslFailure;
use crate::xml::{Element, Limits, StreamEvent, StreamParser, WsParser};

/// The event for a client when the server writes this after its header.
fn as_client(framing: Framing, write: impl Fn(&mut Vec<u8>)) -> StreamEvent {
    let header = Header {
        from: "a.example",
        to: "u@a.example",
        id: "<'1",
        lang: "en",
    };
    let mut head = Vec::new();
    header.write_to(&mut head, framing);
    let mut body = Vec::new();
    write(&mut body);
    match framing {
        Framing::Tcp => {
            let mut parser = StreamParser::new(Limits::default());
            parser.push(&head);
            parser.push(&body);
            let StreamEvent::Open(open) = parser.next().unwrap().unwrap() else {
                panic!("open")
            };
            assert_eq!(open.id, "<'1");
            assert_eq!(open.from, "a.example");
            let event = parser.next().unwrap().unwrap();
            assert_eq!(parser.next(), Ok(None));
            event
        }
        Framing::WebSocket => {
            let mut parser = WsParser::new(Limits::default());
            assert!(matches!(parser.frame(&head), Ok(StreamEvent::Open(_))));
            parser.frame(&body).unwrap()
        }
    }
}

fn nonza(framing: Framing, write: impl Fn(&mut Vec<u8>)) -> Element {
    match as_client(framing, write) {
        StreamEvent::Nonza(element) => element,
        other => panic!("{other:?}"),
    }
}

const BOTH: [Framing; 2] = [Framing::Tcp, Framing::WebSocket];

#[test]
fn conditions_have_distinct_names_that_parse() {
    for &condition in StreamCondition::ALL {
        assert_eq!(StreamCondition::parse(condition.name()), Some(condition));
    }
    assert_eq!(StreamCondition::ALL.len(), 25);
}

#[test]
fn a_stream_error_says_why() {
    for framing in BOTH {
        let error = nonza(framing, |out| {
            error::write_error(out, framing, StreamCondition::NotWellFormed, "a < b");
        });
        assert!(error.is("error", ns::STREAM));
        assert!(error.child("not-well-formed", ns::STREAM_ERRORS).is_some());
        assert_eq!(
            error.child("text", ns::STREAM_ERRORS).unwrap().text(),
            "a < b"
        );
        let error = nonza(framing, |out| {
            sm::write_handled_count_too_high(out, framing, 10, 8)
        });
        assert!(
            error
                .child("undefined-condition", ns::STREAM_ERRORS)
                .is_some()
        );
        let app = error.child("handled-count-too-high", ns::SM).unwrap();
        assert_eq!(
            (app.attr("h"), app.attr("send-count")),
            (Some("10"), Some("8"))
        );
    }
}

#[test]
fn see_other_host_carries_an_address() {
    let error = nonza(Framing::Tcp, |out| {
        let condition = StreamCondition::SeeOtherHost;
        error::write_error_with(out, Framing::Tcp, condition, "[::1]:5222", "", None);
    });
    let host = error.child("see-other-host", ns::STREAM_ERRORS).unwrap();
    assert_eq!(host.text(), "[::1]:5222");
    assert_eq!(error.children().count(), 1);
}

#[test]
fn features_are_all_there() {
    let features = Features {
        starttls: Some(StartTls::Required),
        mechanisms: &["SCRAM-SHA-256-PLUS", "PLAIN"],
        channel_bindings: &["tls-exporter"],
        bind: true,
        session: true,
        sm: true,
    };
    for framing in BOTH {
        let element = nonza(framing, |out| features.write_to(out, framing));
        assert!(element.is("features", ns::STREAM));
        let tls = element.child("starttls", ns::TLS);
        assert_eq!(
            tls.is_some(),
            framing == Framing::Tcp,
            "rfc 7395 section 3.9"
        );
        assert!(tls.is_none_or(|tls| tls.child("required", ns::TLS).is_some()));
        let mechanisms = element.child("mechanisms", ns::SASL).unwrap();
        let names: Vec<String> = mechanisms.children().map(Element::text).collect();
        assert_eq!(names, ["SCRAM-SHA-256-PLUS", "PLAIN"]);
        let bindings = element.child("sasl-channel-binding", ns::SASL_CB).unwrap();
        assert_eq!(
            bindings.children().next().unwrap().attr("type"),
            Some("tls-exporter")
        );
        assert!(element.child("bind", ns::BIND).is_some());
        let session = element.child("session", ns::SESSION).unwrap();
        assert!(session.child("optional", ns::SESSION).is_some());
        assert!(element.child("sm", ns::SM).is_some());
        let nothing = nonza(framing, |out| Features::default().write_to(out, framing));
        assert_eq!(nothing.children().count(), 0);
    }
}

#[test]
fn negotiation_answers_read_back() {
    use negotiation::*;
    let tcp = Framing::Tcp;
    assert!(nonza(tcp, write_tls_proceed).is("proceed", ns::TLS));
    assert!(nonza(tcp, write_tls_failure).is("failure", ns::TLS));
    let challenge = nonza(tcp, |out| write_challenge(out, b"r=1"));
    assert!(challenge.is("challenge", ns::SASL));
    assert_eq!(challenge.text(), "cj0x");
    assert_eq!(nonza(tcp, |out| write_success(out, None)).nodes, []);
    assert_eq!(
        nonza(tcp, |out| write_success(out, Some(b"v=1"))).text(),
        "dj0x"
    );
    let failure = nonza(tcp, |out| {
        write_failure(out, SaslFailure::NotAuthorized, "no & no")
    });
    assert!(failure.child("not-authorized", ns::SASL).is_some());
    assert_eq!(failure.child("text", ns::SASL).unwrap().text(), "no & no");
}

#[test]
fn stream_management_reads_back() {
    for framing in BOTH {
        assert_eq!(
            as_client(framing, sm::write_request),
            StreamEvent::SmRequest
        );
        let max = u32::MAX;
        assert_eq!(
            as_client(framing, |out| sm::write_ack(out, max)),
            StreamEvent::SmAck(max)
        );
        let enabled = nonza(framing, |out| {
            sm::write_enabled(out, Some("i'd"), true, 300)
        });
        assert!(enabled.is("enabled", ns::SM));
        assert_eq!(enabled.attr("id"), Some("i'd"));
        assert_eq!(
            (enabled.attr("resume"), enabled.attr("max")),
            (Some("true"), Some("300"))
        );
        let enabled = nonza(framing, |out| sm::write_enabled(out, None, false, 300));
        assert_eq!(enabled.attrs, []);
        let resumed = nonza(framing, |out| sm::write_resumed(out, "x", 7));
        assert_eq!(
            (resumed.attr("previd"), resumed.attr("h")),
            (Some("x"), Some("7"))
        );
        let failed = nonza(framing, |out| {
            sm::write_failed(out, "item-not-found", Some(3))
        });
        assert!(failed.child("item-not-found", ns::STANZA_ERRORS).is_some());
        assert_eq!(failed.attr("h"), Some("3"));
    }
}

#[test]
fn closing_ends_the_stream() {
    for framing in BOTH {
        let event = as_client(framing, |out| header::write_close(out, framing));
        assert_eq!(event, StreamEvent::Close);
    }
}
