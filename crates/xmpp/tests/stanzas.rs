//! Stanzas and elements: building, writing, reading back.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{HEADER, element, rxml_accepts, text, whole};
use proptest::prelude::*;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::{Condition, ErrorType, StanzaError};
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::escape::unescape_attr;
use sestina_xmpp::xml::{Element, Limits, StreamEvent, WsParser};

/// Checks that each child is where the index says, and has the indexed name and namespace.
fn check_index(stanza: &Stanza) {
    let mut last = 0;
    for child in stanza.children() {
        assert!(child.start >= last);
        last = child.start + child.xml.len();
        let element = Element::parse(child.xml).unwrap();
        // The index has the namespace in its written form.
        let ns = unescape_attr(child.ns);
        assert!(element.is(child.name, &ns), "{child:?} is {element:?}");
        assert_eq!(stanza.payload.get(child.start..last), Some(child.xml));
    }
    assert!(last <= stanza.payload.len());
}

fn from_tcp(xml: &[u8]) -> Stanza {
    let mut stream = HEADER.replace(" xml:lang='en'", "").into_bytes();
    stream.extend_from_slice(xml);
    match whole(&stream) {
        (mut events, None) => match events.pop() {
            Some(StreamEvent::Stanza(stanza)) => stanza,
            other => panic!("{other:?}"),
        },
        (_, fault) => panic!("{fault:?}"),
    }
}

fn from_ws(xml: &[u8]) -> Stanza {
    let mut parser = WsParser::new(Limits::default());
    parser
        .frame(b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' version='1.0'/>")
        .unwrap();
    match parser.frame(xml) {
        Ok(StreamEvent::Stanza(stanza)) => stanza,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_are_addressed_back() {
    let mut iq = Stanza::new(Kind::Iq);
    iq.type_ = "get".into();
    iq.id = "'7".into();
    iq.from = "a@x/r".into();
    iq.to = "b@x".into();
    iq.push_element(&Element::new("query", ns::DISCO_INFO));
    let error = iq.error_reply(Condition::ItemNotFound, Some("no <such> node"));
    assert_eq!(
        (error.kind, error.type_.as_str(), error.id.as_str()),
        (Kind::Iq, "error", "'7")
    );
    assert_eq!((error.from.as_str(), error.to.as_str()), ("b@x", "a@x/r"));
    let expected = StanzaError::new(Condition::ItemNotFound).with_text("no <such> node");
    assert_eq!(error.error(), Some(expected));
    assert_eq!(error.children().count(), 1);
    let result = iq.result_reply(Some(&Element::new("query", ns::DISCO_INFO)));
    assert_eq!(
        (result.type_.as_str(), result.to.as_str()),
        ("result", "a@x/r")
    );
    assert!(result.child(ns::DISCO_INFO, "query").is_some());
    assert!(iq.result_reply(None).payload.is_empty());
    let mut message = iq.clone();
    message.kind = Kind::Message;
    let wait = StanzaError::new(Condition::PolicyViolation).with_type(ErrorType::Wait);
    let error = message.error_reply_with(&wait);
    assert_eq!((error.kind, error.error()), (Kind::Message, Some(wait)));
}

/// RFC 6120 §8.3.1: an error comes from the address to which the stanza was sent, as it was
/// written.
#[test]
fn an_answer_comes_from_what_was_written() {
    let xml = "<presence from='a@x/r' to='R\u{f3}om@x/e\u{301}\u{3000}1'/>";
    for stanza in [
        from_tcp(xml.as_bytes()),
        from_ws(
            xml.replace("<presence", "<presence xmlns='jabber:client'")
                .as_bytes(),
        ),
    ] {
        assert_eq!(stanza.to, "r\u{f3}om@x/\u{e9} 1");
        let error = stanza.error_reply(Condition::Conflict, None);
        assert_eq!(error.from, "R\u{f3}om@x/e\u{301}\u{3000}1");
        assert_eq!(
            (error.to.as_str(), error.written_to.as_str()),
            ("a@x/r", "")
        );
    }
    assert_eq!(from_tcp(b"<presence to='a@x/r'/>").written_to, "");
}

#[test]
fn a_recipient_is_filled_in_where_none_is_named() {
    let mut presence = Stanza::new(Kind::Presence);
    let mut out = Vec::new();
    presence.write_to(&mut out, Some("c&@x/'"), true);
    assert_eq!(
        out,
        b"<presence xmlns='jabber:client' to='c&amp;@x/&apos;'/>"
    );
    // RFC 6121 §8.5.2.1.1: `to` is not rewritten.
    presence.to = "b@x".into();
    out.clear();
    presence.write_to(&mut out, Some("b@x/resource"), false);
    assert_eq!(out, b"<presence to='b@x'/>");
}

#[test]
fn raw_children_are_indexed() {
    let mut stanza = Stanza::new(Kind::Message);
    stanza.push_raw(b"<body>x</body>", "body", ns::CLIENT);
    stanza.push_raw(b"<p:x p:y='' xmlns:p='urn:x'/>", "x", "urn:x");
    stanza.push_raw(b"<n xmlns=''/>", "n", "");
    stanza.push_raw(b"<m xmlns='urn:a&amp;b'/>", "m", "urn:a&b");
    let children: Vec<(&str, &str)> = stanza.children().map(|c| (c.ns, c.name)).collect();
    let expected = [
        (ns::CLIENT, "body"),
        ("urn:x", "x"),
        ("", "n"),
        ("urn:a&amp;b", "m"),
    ];
    assert_eq!(children, expected);
    assert_eq!(stanza.payload.len(), 14 + 29 + 13 + 24);
}

#[test]
fn children_are_removed_and_text_stays() {
    let mut stanza = from_tcp(
        b"<message>1<a xmlns='urn:a'/>2<body>b</body>3<c xmlns='urn:c'/>4<d xmlns='urn:d'/></message>",
    );
    let before = stanza.clone();
    stanza.retain_children(|_| true);
    assert_eq!(stanza, before);
    stanza.retain_children(|child| child.ns != "urn:a" && child.ns != "urn:c");
    assert_eq!(stanza.payload, "12<body>b</body>34<d xmlns='urn:d'/>");
    check_index(&stanza);
    let children: Vec<(&str, &str)> = stanza.children().map(|c| (c.ns, c.name)).collect();
    assert_eq!(children, [(ns::CLIENT, "body"), ("urn:d", "d")]);
    stanza.retain_children(|_| false);
    assert_eq!(
        (&stanza.payload[..], stanza.index.len()),
        (b"1234".as_slice(), 0)
    );
}

#[test]
fn trees_are_what_the_bytes_say() {
    let xml = "<p:a xmlns:p='urn:p' p:b='&lt;1\n' xml:lang='de' c=\"x\">t&amp;<d/>\r\n\
               <![CDATA[<&\r]]><e xmlns=''/></p:a>";
    let element = Element::parse(xml.as_bytes()).unwrap();
    assert!(element.is("a", "urn:p"));
    assert_eq!(element.attr("{urn:p}b"), Some("<1 "));
    assert_eq!(
        (element.attr("xml:lang"), element.attr("c")),
        (Some("de"), Some("x"))
    );
    assert_eq!(element.attr("b"), None);
    assert_eq!(element.text(), "t&\n<&\n");
    assert!(element.child("d", ns::CLIENT).is_some());
    assert!(element.child("e", "").is_some());
    assert_eq!(element.nodes.len(), 4);
}

#[test]
fn a_namespace_may_hold_a_brace() {
    let element = Element::new("a", "urn:}x").with_attr("{urn:}y}b", "c");
    assert_eq!(Element::parse(&element.to_bytes("")), Ok(element));
}

#[test]
fn exactly_one_element_is_parsed() {
    for bad in [
        "",
        "a",
        "<a>",
        "<a/><b/>",
        "<a/> ",
        " <a/>",
        "<?xml version='1.0'?><a/>",
        "</a>",
    ] {
        assert!(Element::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(common::cases(256))]

    #[test]
    fn elements_survive_writing(element in element(), parent in prop_oneof![Just("jabber:client"), Just("urn:x")]) {
        let bytes = element.to_bytes(ns::CLIENT);
        prop_assert_eq!(Element::parse(&bytes), Ok(element.clone()));
        let document = element.to_bytes("");
        prop_assert!(rxml_accepts(&document), "{}", String::from_utf8_lossy(&document));
        // Inside another element it has the same meaning.
        let outer = Element::new("outer", parent).with_child(element.clone());
        let read = Element::parse(&outer.to_bytes("")).unwrap();
        prop_assert_eq!(read.children().next(), Some(&element));
    }

    #[test]
    fn stanzas_survive_writing(
        children in prop::collection::vec(element(), 0..5),
        id in text(), type_ in text(), lang in text(), keep in any::<u8>(),
    ) {
        let mut stanza = Stanza::new(Kind::Message);
        (stanza.id, stanza.type_, stanza.lang) = (id, type_, lang);
        stanza.from = "a@b.example/c d".into();
        stanza.attrs = " x='1'".into();
        for child in &children {
            stanza.push_element(child);
        }
        check_index(&stanza);
        let mut bit = 0;
        stanza.retain_children(|_| { bit += 1; keep & (1 << bit) != 0 });
        check_index(&stanza);
        let kept: Vec<Element> = children.into_iter().enumerate()
            .filter(|(n, _)| keep & (2 << n) != 0).map(|(_, child)| child).collect();
        let read: Vec<Element> =
            stanza.children().map(|child| Element::parse(child.xml).unwrap()).collect();
        prop_assert_eq!(read, kept);
        let mut out = Vec::new();
        stanza.write_to(&mut out, None, false);
        let again = from_tcp(&out);
        check_index(&again);
        prop_assert_eq!((&again.id, &again.type_, &again.lang), (&stanza.id, &stanza.type_, &stanza.lang));
        prop_assert_eq!((&again.attrs, &again.payload), (&stanza.attrs, &stanza.payload));
        prop_assert_eq!(&again.index, &stanza.index);
        out.clear();
        stanza.write_to(&mut out, None, true);
        prop_assert_eq!(from_ws(&out), again);
    }
}
