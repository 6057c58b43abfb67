//! The targets, one for each parser of bytes from outside.

pub mod archive_query;
pub mod data_form;
pub mod date_time;
pub mod element;
pub mod frames;
pub mod http_query;
pub mod jid;
pub mod proxy_protocol;
pub mod redis_object;
pub mod sasl;
pub mod sm_id;
pub mod stream;
pub mod websocket;
pub mod websocket_frames;

use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::xml::escape::unescape_attr;
use sestina_xmpp::xml::{Element, Limits, StreamEvent, StreamParser};

use crate::oracle;

/// A header for streams that the targets make.
const HEADER: &[u8] = b"<stream:stream version='1.0' xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams'>";

/// Checks a stanza that a parser returned. `good`: invalid addresses are kept as they were written.
fn check_stanza(stanza: &Stanza, good: bool) {
    let mut end = 0;
    for child in stanza.children() {
        assert!(child.start >= end, "children are in order");
        end = child.start + child.xml.len();
        let element = Element::parse(child.xml).expect("a child stands for itself");
        assert!(
            element.is(child.name, &unescape_attr(child.ns)),
            "the index agrees with the child"
        );
    }
    let mut document = Vec::new();
    stanza.write_to(&mut document, None, true);
    if let Err(error) = oracle::tree(&document) {
        panic!("the oracle refuses the written XML: {error}");
    }
    // Written stanzas have the address in its normal form.
    let written = Stanza {
        written_to: String::new(),
        ..stanza.clone()
    };
    let mut parser = StreamParser::new(Limits {
        bytes: usize::MAX,
        ..Limits::trusted()
    });
    parser.push(HEADER);
    parser.push(&document);
    assert!(matches!(parser.next(), Ok(Some(StreamEvent::Open(_)))));
    // An empty address is invalid, and a stanza is written without it.
    let valid = |address: &str| address.is_empty() || Jid::parse(address).is_ok();
    let good_again = valid(&stanza.from) && valid(&stanza.to);
    assert!(good_again || !good, "a good stanza has good addresses");
    match parser.next() {
        Ok(Some(StreamEvent::Stanza(again))) if good_again => assert_eq!(again, written),
        Ok(Some(StreamEvent::BadStanza { stanza: again, .. })) if !good_again => {
            assert_eq!(again, written);
        }
        other => panic!("the written stanza is parsed as {other:?}"),
    }
}

/// Checks an element.
fn check_element(element: &Element) {
    let inside = element.to_bytes("jabber:client");
    assert_eq!(
        Element::parse(&inside).as_ref(),
        Ok(element),
        "it survives writing"
    );
    let document = element.to_bytes("");
    match oracle::tree(&document) {
        Ok(tree) => assert_eq!(
            tree,
            oracle::canonical(element),
            "the oracle reads the same"
        ),
        Err(error) => panic!("the oracle refuses the written XML: {error}"),
    }
}

fn check_event(event: &StreamEvent) {
    match event {
        StreamEvent::Stanza(stanza) => check_stanza(stanza, true),
        StreamEvent::BadStanza { stanza, .. } => check_stanza(stanza, false),
        StreamEvent::Nonza(element) => check_element(element),
        _ => {}
    }
}

/// Pieces of an input, of up to 63 bytes. Their lengths depend only on the length of the input.
struct Cuts<'a> {
    rest: &'a [u8],
    state: usize,
}

impl<'a> Cuts<'a> {
    fn of(data: &'a [u8]) -> Cuts<'a> {
        Cuts {
            rest: data,
            state: data.len(),
        }
    }
}

impl<'a> Iterator for Cuts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        // The multiplier and increment of Knuth's MMIX.
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let length = 1 + (self.state >> 33) % 63;
        let (piece, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        Some(piece)
    }
}
