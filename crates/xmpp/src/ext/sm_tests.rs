#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::testing::{element, text};
use super::*;

fn parse(xml: &str) -> Option<Result<Nonza, MalformedNonza>> {
    Nonza::parse(&element(xml))
}

/// §3 to §5.
#[test]
fn nonzas() {
    let enable = |resume, max_s| Some(Ok(Nonza::Enable { resume, max_s }));
    assert_eq!(
        parse("<enable xmlns='urn:xmpp:sm:3'/>"),
        enable(false, None)
    );
    assert_eq!(
        parse("<enable xmlns='urn:xmpp:sm:3' resume='true'/>"),
        enable(true, None)
    );
    let xml = "<enable xmlns='urn:xmpp:sm:3' resume='1' max='300'/>";
    assert_eq!(parse(xml), enable(true, Some(300)));
    assert_eq!(
        parse("<enable xmlns='urn:xmpp:sm:3' resume='0'/>"),
        enable(false, None)
    );
    assert_eq!(
        parse("<r xmlns='urn:xmpp:sm:3'/>"),
        Some(Ok(Nonza::Request))
    );
    let last = Some(Ok(Nonza::Ack { h: u32::MAX }));
    assert_eq!(parse("<a xmlns='urn:xmpp:sm:3' h='4294967295'/>"), last);
    let resume = Nonza::Resume {
        h: 7,
        previd: "some-long-sm-id".to_owned(),
    };
    let xml = "<resume xmlns='urn:xmpp:sm:3' h='7' previd='some-long-sm-id'/>";
    assert_eq!(parse(xml), Some(Ok(resume)));
    assert_eq!(parse("<r xmlns='urn:xmpp:sm:2'/>"), None);
    for bad in [
        "<a xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h=''/>",
        "<a xmlns='urn:xmpp:sm:3' h='-1'/>",
        "<a xmlns='urn:xmpp:sm:3' h='+1'/>",
        "<a xmlns='urn:xmpp:sm:3' h='4294967296'/>",
        "<resume xmlns='urn:xmpp:sm:3' h='1'/>",
        "<resume xmlns='urn:xmpp:sm:3' previd='x'/>",
        "<enable xmlns='urn:xmpp:sm:3' resume='yes'/>",
        "<enable xmlns='urn:xmpp:sm:3' max='x'/>",
        "<enabled xmlns='urn:xmpp:sm:3'/>",
    ] {
        assert_eq!(parse(bad), Some(Err(MalformedNonza)), "{bad}");
    }
}

/// §3 to §6.
#[test]
fn answers() {
    assert_eq!(text(&feature()), "<sm xmlns='urn:xmpp:sm:3'/>");
    assert_eq!(
        text(&enabled(None, Some(5), None)),
        "<enabled xmlns='urn:xmpp:sm:3'/>"
    );
    assert_eq!(
        text(&enabled(
            Some("some-long-sm-id"),
            Some(600),
            Some("[2001:41D0:1:A49b::1]:9222")
        )),
        "<enabled xmlns='urn:xmpp:sm:3' resume='true' id='some-long-sm-id' max='600' \
         location='[2001:41D0:1:A49b::1]:9222'/>"
    );
    assert_eq!(
        text(&resumed("some-long-sm-id", 9)),
        "<resumed xmlns='urn:xmpp:sm:3' previd='some-long-sm-id' h='9'/>"
    );
    assert_eq!(
        text(&failed(Condition::ItemNotFound, Some(3))),
        "<failed xmlns='urn:xmpp:sm:3' h='3'>\
         <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
    );
    assert_eq!(
        text(&failed(Condition::UnexpectedRequest, None)),
        "<failed xmlns='urn:xmpp:sm:3'>\
         <unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
    );
    assert_eq!(text(&request()), "<r xmlns='urn:xmpp:sm:3'/>");
    assert_eq!(text(&ack(1)), "<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert_eq!(
        text(&handled_count_too_high(HandledTooHigh { h: 10, sent: 8 })),
        "<handled-count-too-high xmlns='urn:xmpp:sm:3' h='10' send-count='8'/>"
    );
}

#[test]
fn acknowledgements() {
    let mut counter = SmCounter::default();
    assert_eq!(counter.acknowledge(0), Ok(0));
    for n in 1..=8 {
        assert_eq!(counter.send(), n);
    }
    assert_eq!(counter.acknowledge(3), Ok(3));
    assert_eq!(counter.acknowledge(3), Ok(0));
    // The example of §6, and a lower `h`.
    assert_eq!(
        counter.acknowledge(10),
        Err(HandledTooHigh { h: 10, sent: 8 })
    );
    assert_eq!(
        counter.acknowledge(2),
        Err(HandledTooHigh { h: 2, sent: 8 })
    );
    assert_eq!(
        (counter.sent(), counter.acked(), counter.unacked()),
        (8, 3, 5)
    );
    assert_eq!(counter.acknowledge(8), Ok(5));
    assert_eq!(counter.unacked(), 0);
    assert_eq!(SmCounter::new(3, 5).unacked(), 0);
}

/// §4: 0 follows 2^32-1.
#[test]
fn around_the_wrap() {
    let last = u64::from(u32::MAX);
    let mut counter = SmCounter::new(last - 1, last - 2);
    assert_eq!(counter.send(), last);
    assert_eq!(counter.acknowledge(u32::MAX), Ok(2));
    assert_eq!(
        counter.acknowledge(0),
        Err(HandledTooHigh {
            h: 0,
            sent: u32::MAX
        })
    );
    assert_eq!(counter.send(), last + 1);
    assert_eq!(counter.send(), last + 2);
    assert_eq!(
        counter.acknowledge(2),
        Err(HandledTooHigh { h: 2, sent: 1 })
    );
    assert_eq!(counter.acknowledge(0), Ok(1));
    assert_eq!(counter.acknowledge(1), Ok(1));
    assert_eq!((counter.sent(), counter.acked()), (last + 2, last + 2));
    assert_eq!(
        (wire(last), wire(last + 1), distance(u32::MAX, 1)),
        (u32::MAX, 0, 2)
    );
}

#[test]
fn ids() {
    let id = SmId {
        slot: 4095,
        nonce: u128::MAX - 5,
        bare: "jülich@b.c".to_owned(),
    };
    let token = id.encode(b"key");
    assert_eq!(SmId::decode(&token, b"key"), Some(id.clone()));
    assert_eq!(SmId::decode(&token, b"other key"), None);
    assert_eq!(SmId::decode("", b"key"), None);
    assert_eq!(SmId::decode("not base64!", b"key"), None);
    assert_eq!(SmId::decode(&token[..token.len() - 4], b"key"), None);
    assert_ne!(
        SmId {
            slot: 0,
            ..id.clone()
        }
        .encode(b"key"),
        token
    );
    assert_ne!(SmId { nonce: 0, ..id }.encode(b"key"), token);
    // Every byte is authenticated.
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for at in 0..bytes.len() {
        let mut forged = bytes.clone();
        forged[at] ^= 1;
        assert_eq!(
            SmId::decode(&URL_SAFE_NO_PAD.encode(forged), b"key"),
            None,
            "byte {at}"
        );
    }
}

proptest! {
    #[test]
    fn counting_is_exact_wherever_it_is(
        acked in 0..u64::from(u32::MAX) * 3,
        unacked in 0u64..5000,
        step in 0u64..6000,
    ) {
        let mut counter = SmCounter::new(acked + unacked, acked);
        let outcome = counter.acknowledge(wire(acked + step));
        prop_assert_eq!(outcome.is_ok(), step <= unacked);
        prop_assert_eq!(counter.acked(), if step <= unacked { acked + step } else { acked });
    }

    #[test]
    fn decoding_never_panics(id in "[A-Za-z0-9_-]{0,80}") {
        prop_assert_eq!(SmId::decode(&id, b"key"), None);
    }
}
