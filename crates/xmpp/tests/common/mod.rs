//! The common part of parser tests.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use proptest::prelude::*;
use sestina_xmpp::stream::StreamCondition;
use sestina_xmpp::xml::{Element, Limits, Node, StreamEvent, StreamFault, StreamParser};

pub const HEADER: &str = "<?xml version='1.0'?><stream:stream to='a.example' version='1.0' \
     xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";

/// A property's configuration. Failing inputs are printed, and not stored in files.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// All events, and the fault that ends them, if there is one.
pub type Outcome = (Vec<StreamEvent>, Option<StreamFault>);

/// Takes all events that are complete.
pub fn drain(parser: &mut StreamParser, out: &mut Outcome) {
    while out.1.is_none() {
        match parser.next() {
            Ok(None) => return,
            Ok(Some(event)) => out.0.push(event),
            Err(fault) => out.1 = Some(fault),
        }
    }
}

/// Feeds the pieces to one parser.
pub fn feed<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut parser = StreamParser::new(limits);
    let mut out = (Vec::new(), None);
    for piece in pieces {
        parser.push(piece);
        drain(&mut parser, &mut out);
    }
    out
}

pub fn whole(bytes: &[u8]) -> Outcome {
    feed(Limits::default(), [bytes])
}

pub fn bytewise(bytes: &[u8]) -> Outcome {
    feed(Limits::default(), bytes.chunks(1))
}

/// Drops white-space events: a run of white space is one event or several, depending on how it
/// arrives.
pub fn without_whitespace((mut events, fault): Outcome) -> Outcome {
    events.retain(|event| *event != StreamEvent::Whitespace);
    (events, fault)
}

/// The condition of the stream error for this body after a valid header, however it is cut.
pub fn condition_of(body: &[u8]) -> Option<StreamCondition> {
    let mut stream = HEADER.as_bytes().to_vec();
    stream.extend_from_slice(body);
    let outcome = without_whitespace(whole(&stream));
    assert_eq!(outcome, without_whitespace(bytewise(&stream)));
    outcome.1.map(|fault| fault.condition)
}

/// Whether rxml accepts the bytes as one document.
pub fn rxml_accepts(bytes: &[u8]) -> bool {
    let options = rxml::Options {
        max_token_length: 1 << 26,
        ..Default::default()
    };
    let mut reader = rxml::Reader::with_options(bytes, options);
    matches!(rxml::as_eof_flag(reader.read_all(|_| {})), Ok(true))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z][a-z0-9.-]{0,6}",
        1 => Just("é".to_owned()),
        1 => Just("_x".to_owned()),
    ]
}

fn namespace() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("jabber:client".to_owned()),
        2 => Just("urn:x".to_owned()),
        1 => Just("urn:a&b'\"".to_owned()),
        1 => Just(String::new()),
    ]
}

pub fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,20}", "[<>&'\"\\]\t\r\n a]{0,8}", "[àé漢😀a]{0,5}"]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[b-z]{1,4}",
        1 => Just("xml:lang".to_owned()),
        1 => "[a-z]{1,3}".prop_map(|local| format!("{{urn:attr}}{local}")),
    ]
}

/// Trees in the form that a parser returns.
pub fn element() -> impl Strategy<Value = Element> {
    let leaf = (
        name(),
        namespace(),
        prop::collection::vec((key(), text()), 0..4),
    )
        .prop_map(|(name, ns, attrs)| {
            let mut element = Element::new(&name, &ns);
            for (key, value) in attrs {
                if key != "xmlns" {
                    element.set_attr(&key, value);
                }
            }
            element
        });
    let leaf = leaf.boxed();
    leaf.clone().prop_recursive(4, 24, 4, move |inner| {
        let node = prop_oneof![inner.prop_map(Node::Element), text().prop_map(Node::Text)];
        (leaf.clone(), prop::collection::vec(node, 0..4)).prop_map(|(mut element, nodes)| {
            for node in nodes {
                match node {
                    Node::Element(child) => element.push(child),
                    Node::Text(text) => element.push_text(text),
                }
            }
            element
        })
    })
}
