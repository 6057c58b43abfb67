//! Whole streams: the events do not depend on how the bytes arrive.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{HEADER, feed, whole, without_whitespace};
use proptest::prelude::*;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::{Element, Limits, StreamEvent, StreamParser, WsParser};

/// The stanza of this XML on a stream whose header has these further declarations.
fn stanza_under(declarations: &str, xml: &str) -> Stanza {
    let header = HEADER.replace(
        "xmlns='jabber:client'",
        &format!("xmlns='jabber:client'{declarations}"),
    );
    match whole(format!("{header}{xml}").as_bytes()) {
        (events, None) => match events.into_iter().nth(1) {
            Some(StreamEvent::Stanza(stanza)) => stanza,
            other => panic!("{other:?}"),
        },
        (_, fault) => panic!("{fault:?}"),
    }
}

fn stanza(xml: &str) -> Stanza {
    stanza_under("", xml)
}

fn written(stanza: &Stanza) -> String {
    let mut out = Vec::new();
    stanza.write_to(&mut out, None, false);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_session_of_a_client() {
    let stream = format!(
        "{HEADER}<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\n\
         <enable xmlns='urn:xmpp:sm:3' resume='true'/>\
         <message to='B@b.Example/r' type='chat' id='&apos;1' a='2'><body>hi &amp; bye</body></message>\
         <r xmlns='urn:xmpp:sm:3'/><a xmlns='urn:xmpp:sm:3' h='5'/> \
         <presence/></stream:stream>"
    );
    let (events, fault) = whole(stream.as_bytes());
    assert_eq!(fault, None);
    let [
        open,
        tls,
        space,
        enable,
        message,
        r,
        a,
        space_again,
        presence,
        close,
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    let StreamEvent::Open(open) = open else {
        panic!("{open:?}")
    };
    assert_eq!(
        (open.to.as_str(), open.from.as_str(), open.version),
        ("a.example", "", (1, 0))
    );
    assert_eq!(
        (open.lang.as_str(), open.xmlns.as_str()),
        ("en", "jabber:client")
    );
    assert_eq!(*tls, StreamEvent::Nonza(Element::new("starttls", ns::TLS)));
    assert_eq!([space, space_again], [&StreamEvent::Whitespace; 2]);
    let expected = Element::new("enable", ns::SM).with_attr("resume", "true");
    assert_eq!(*enable, StreamEvent::Nonza(expected));
    let StreamEvent::Stanza(message) = message else {
        panic!("{message:?}")
    };
    assert_eq!(
        (message.kind, message.type_.as_str()),
        (Kind::Message, "chat")
    );
    assert_eq!(
        (message.id.as_str(), message.to.as_str()),
        ("'1", "b@b.example/r")
    );
    assert_eq!(
        (message.lang.as_str(), message.attrs.as_str()),
        ("en", " a='2'")
    );
    assert_eq!(message.payload, "<body>hi &amp; bye</body>");
    assert_eq!(
        message.text_of(ns::CLIENT, "body").as_deref(),
        Some("hi & bye")
    );
    assert_eq!([r, a], [&StreamEvent::SmRequest, &StreamEvent::SmAck(5)]);
    assert!(matches!(presence, StreamEvent::Stanza(s) if s.kind == Kind::Presence));
    assert_eq!(*close, StreamEvent::Close);
}

#[test]
fn a_bad_address_does_not_end_the_stream() {
    for (xml, from, to) in [
        ("<iq type='get' id='1' to='A b@X'/>", "", "A b@X"),
        ("<iq type='get' id='1' to=''/>", "", ""),
        ("<iq type='get' id='1' from='@x' to='Y'/>", "@x", "y"),
    ] {
        let (events, fault) = whole(format!("{HEADER}{xml}<presence/>").as_bytes());
        assert_eq!(fault, None);
        let StreamEvent::BadStanza { stanza, condition } = &events[1] else {
            panic!("{xml}")
        };
        assert_eq!(*condition, Condition::JidMalformed);
        assert_eq!((stanza.from.as_str(), stanza.to.as_str()), (from, to));
        assert_eq!(stanza.id, "1");
        assert!(matches!(events[2], StreamEvent::Stanza(_)));
    }
}

#[test]
fn language_is_inherited() {
    assert_eq!(stanza("<message/>").lang, "en");
    assert_eq!(stanza("<message xml:lang='de'/>").lang, "de");
    assert_eq!(stanza("<message xml:lang=''/>").lang, "");
}

#[test]
fn prefixes_from_outside_are_declared_inside() {
    let outside = " xmlns:p='urn:p' xmlns:unused='urn:u'";
    let stanza = stanza_under(
        outside,
        "<message xmlns:q='urn:q&amp;'><p:a>1<q:b/></p:a>mid<c d='e' q:f='g'/><h/></message>",
    );
    assert_eq!(
        stanza.payload,
        "<p:a xmlns:p='urn:p' xmlns:q='urn:q&amp;'>1<q:b/></p:a>mid\
         <c xmlns:q='urn:q&amp;' d='e' q:f='g'/><h/>"
    );
    let children: Vec<(&str, &str)> = stanza.children().map(|c| (c.ns, c.name)).collect();
    assert_eq!(
        children,
        [("urn:p", "a"), (ns::CLIENT, "c"), (ns::CLIENT, "h")]
    );
    let a = stanza.element("urn:p", "a").unwrap();
    assert!(a.child("b", "urn:q&").is_some());
}

#[test]
fn a_prefix_declared_inside_is_not_declared_again() {
    let stanza = stanza_under(
        " xmlns:p='urn:p'",
        "<message><x xmlns:p='urn:mine'><p:a/></x><y><p:a xmlns:p='urn:deep'/><p:b/></y></message>",
    );
    assert_eq!(
        stanza.payload,
        "<x xmlns:p='urn:mine'><p:a/></x>\
         <y xmlns:p='urn:p'><p:a xmlns:p='urn:deep'/><p:b/></y>"
    );
}

#[test]
fn a_default_namespace_from_outside_is_declared_inside() {
    let xml = "<c:message xmlns:c='jabber:client' xmlns='urn:d'><a><b/></a><c:body>t</c:body>\
               <e xmlns=''/><f xmlns='urn:f'/></c:message>";
    let stanza = stanza(xml);
    assert_eq!(
        stanza.payload,
        "<a xmlns='urn:d'><b/></a>\
         <c:body xmlns:c='jabber:client' xmlns='urn:d'>t</c:body><e xmlns=''/><f xmlns='urn:f'/>"
    );
    let children: Vec<(&str, &str)> = stanza.children().map(|c| (c.ns, c.name)).collect();
    let expected = [
        ("urn:d", "a"),
        (ns::CLIENT, "body"),
        ("", "e"),
        ("urn:f", "f"),
    ];
    assert_eq!(children, expected);
    assert_eq!(stanza.text_of(ns::CLIENT, "body").as_deref(), Some("t"));
}

#[test]
fn a_disguised_namespace_is_written_plainly() {
    let stanza = stanza(
        "<message><stanza-id xmlns='urn:xmpp:sid&#58;0' id='1'/>\
         <p:x xmlns:p='urn&#58;x'/></message>",
    );
    assert_eq!(
        stanza.payload,
        "<stanza-id xmlns='urn:xmpp:sid:0' id='1'/><p:x xmlns:p='urn:x'/>"
    );
    assert!(stanza.child(ns::STANZA_ID, "stanza-id").is_some());
    assert!(stanza.child("urn:x", "x").is_some());
}

#[test]
fn line_ends_are_normalised() {
    let stanza = stanza("<message id='a\rb'\r\n>1\r\n2\r3\n<x\r\nxmlns='urn:x'\r/>&#13;</message>");
    assert_eq!(stanza.id, "a b");
    assert_eq!(stanza.payload, "1\n2\n3\n<x\nxmlns='urn:x'\n/>&#13;");
    assert!(stanza.element("urn:x", "x").is_some());
}

#[test]
fn attributes_of_the_stanza_keep_their_namespaces() {
    let stanza = stanza_under(
        " xmlns:p='urn:p'",
        "<message p:from='x' p:b=\"'\" h='1' xml:space='preserve' from='u@a.example'/>",
    );
    assert_eq!(
        stanza.attrs,
        " p:from='x' xmlns:p='urn:p' p:b=\"'\" h='1' xml:space='preserve'"
    );
    assert_eq!(stanza.from, "u@a.example");
    assert_eq!(
        written(&stanza),
        "<message from='u@a.example' xml:lang='en' p:from='x' xmlns:p='urn:p' p:b=\"'\" h='1' \
         xml:space='preserve'/>"
    );
}

#[test]
fn a_stanza_name_in_another_namespace_is_no_stanza() {
    let (events, _) = whole(format!("{HEADER}<message xmlns='urn:x'/>").as_bytes());
    assert_eq!(
        events[1],
        StreamEvent::Nonza(Element::new("message", "urn:x"))
    );
}

#[test]
fn a_restart_forgets_the_old_header() {
    let mut parser = StreamParser::new(Limits::unauthenticated());
    let header = HEADER.replace("xml:lang='en'", "xml:lang='fr' xmlns:p='urn:p'");
    parser.push(header.as_bytes());
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Open(_)))));
    parser.push(HEADER.as_bytes());
    assert_eq!(parser.buffered(), HEADER.len());
    parser.reset();
    parser.push(b"<message/><p:x/>");
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Open(h))) if h.lang == "en"));
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Stanza(s))) if s.lang == "en"));
    assert!(
        parser.next().is_err(),
        "the prefix belongs to the old stream"
    );
}

// RFC 6120 §11.7: some clients write a line feed after each element, also after their last one
// before the restart.
#[test]
fn white_space_before_a_restart_is_not_part_of_the_new_stream() {
    for space in ["", "\n", " \r\n\t"] {
        let rest = format!("{space}{HEADER}<message/>");
        for early in 0..rest.len() {
            let mut parser = StreamParser::new(Limits::unauthenticated());
            parser.push(HEADER.as_bytes());
            assert!(matches!(parser.next(), Ok(Some(StreamEvent::Open(_)))));
            parser.push(b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</auth>");
            parser.push(&rest.as_bytes()[..early]);
            assert!(matches!(parser.next(), Ok(Some(StreamEvent::Nonza(_)))));
            parser.reset();
            let mut events: Vec<StreamEvent> = Vec::new();
            while let Some(event) = parser.next().unwrap() {
                events.push(event);
            }
            parser.push(&rest.as_bytes()[early..]);
            while let Some(event) = parser.next().unwrap() {
                events.push(event);
            }
            assert!(
                matches!(&events[..], [StreamEvent::Open(_), StreamEvent::Stanza(_)]),
                "{space:?}, {early} bytes early: {events:?}"
            );
        }
    }
    // At the start of a connection nothing may come before the declaration (XML 1.0 §2.8).
    let (events, fault) = whole(format!("\n{HEADER}").as_bytes());
    assert!(events.is_empty() && fault.is_some());
}

#[test]
fn what_came_before_tls_is_dropped() {
    let mut parser = StreamParser::new(Limits::unauthenticated());
    parser.push(HEADER.as_bytes());
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Open(_)))));
    parser.push(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><message/>");
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Nonza(_)))));
    assert_eq!(parser.reset_for_tls(), "<message/>".len());
    parser.push(HEADER.as_bytes());
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Open(_)))));
    assert_eq!(parser.next(), Ok(None));
}

#[test]
fn a_websocket_brings_the_same() {
    let mut parser = WsParser::new(Limits::default());
    let open = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='a.example' version='1.0' \
                xml:lang='en'/>";
    for _ in 0..2 {
        let event = parser.frame(open.as_bytes()).unwrap();
        assert!(matches!(event, StreamEvent::Open(h) if h.to == "a.example"));
        let message =
            "<?xml version='1.0'?>\n<message xmlns='jabber:client'><body>x</body></message>";
        let event = parser.frame(message.as_bytes()).unwrap();
        assert_eq!(
            event,
            StreamEvent::Stanza(stanza("<message><body>x</body></message>"))
        );
        assert_eq!(
            parser.frame(b"<r xmlns='urn:xmpp:sm:3'/>"),
            Ok(StreamEvent::SmRequest)
        );
        let auth = parser.frame(b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</auth>");
        let expected = Element::new("auth", ns::SASL).with_text("=");
        assert_eq!(auth, Ok(StreamEvent::Nonza(expected)));
        // Without its namespace it is not a stanza.
        let bare = parser.frame(b"<message/>");
        assert_eq!(bare, Ok(StreamEvent::Nonza(Element::new("message", ""))));
        parser.reset();
    }
    let close = parser.frame(b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>");
    assert_eq!(close, Ok(StreamEvent::Close));
}

#[test]
fn dripping_input_is_not_read_again_and_again() {
    // Quadratic work would be about 10^10 steps for each of these.
    let long = "x".repeat(200_000);
    for body in [
        format!("<message><body>{long}</body></message>"),
        format!("<message a='{long}'/>"),
        format!("<message><body><![CDATA[{long}]]></body></message>"),
        format!("<message{}/>", " ".repeat(200_000)),
        format!("<message><body>{}</body></message>", ">".repeat(200_000)),
        format!("<message>{}</message>", "<a/>".repeat(50_000)),
    ] {
        let stream = format!("{HEADER}{body}");
        let (events, fault) = common::bytewise(stream.as_bytes());
        assert_eq!((events.len(), fault), (2, None));
    }
}

#[test]
fn an_empty_parser_holds_little() {
    let mut parser = StreamParser::new(Limits::default());
    let body = "x".repeat(100_000);
    parser.push(format!("{HEADER}<message><body>{body}</body></message>").as_bytes());
    while parser.next().unwrap().is_some() {}
    assert_eq!(parser.buffered(), 0);
}

/// Pieces of valid and invalid streams.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "<message>",
        "</message>",
        "<message to='a@b' id='1'>",
        "<iq type='get' id='2'/>",
        "<x",
        " xmlns='urn:x'",
        " a='b'",
        ">",
        "/>",
        "</x>",
        "<body>",
        "</body>",
        "text",
        "&amp;",
        "&#65;",
        "<![CDATA[",
        "]]>",
        " ",
        "\n",
        "é",
        "&",
        "<",
        "'",
        "\"",
        "p:",
        "xmlns:p='urn:p'",
        "=",
        "]",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "</stream:stream>",
        "<!--",
        "<?",
        "\u{1}",
        "&foo;",
    ]);
    prop::collection::vec(token, 0..24).prop_map(|tokens| {
        let mut stream = HEADER.as_bytes().to_vec();
        tokens
            .iter()
            .for_each(|token| stream.extend_from_slice(token.as_bytes()));
        stream
    })
}

proptest! {
    #![proptest_config(common::cases(512))]

    #[test]
    fn cuts_change_nothing(stream in soup(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let expected = without_whitespace(whole(&stream));
        prop_assert_eq!(&without_whitespace(common::bytewise(&stream)), &expected);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let pieces = at.windows(2).map(|w| &stream[w[0]..w[1]]);
        prop_assert_eq!(&without_whitespace(feed(Limits::default(), pieces)), &expected);
    }

    #[test]
    fn what_is_accepted_is_well_formed(stream in soup()) {
        let (events, fault) = whole(&stream);
        if fault.is_none() && events.last() == Some(&StreamEvent::Close) {
            let end = stream.windows(16).position(|w| w == b"</stream:stream>").unwrap() + 16;
            prop_assert!(common::rxml_accepts(&stream[..end]));
        }
        for event in events {
            let mut out = Vec::new();
            match event {
                StreamEvent::Stanza(stanza) => stanza.write_to(&mut out, None, true),
                StreamEvent::Nonza(element) => element.write_to(&mut out, ""),
                _ => continue,
            }
            prop_assert!(common::rxml_accepts(&out), "{}", String::from_utf8_lossy(&out));
        }
    }
}
