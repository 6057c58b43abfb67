//! Prints the cost of parsing and writing a stanza: `cargo run --release --example parse_bench`.
//!
//! With two arguments it repeats one operation, for a tool that counts instructions: `read`, `tree`
//! or `quick-xml` (a bare pass of that parser with namespaces), and the number of repetitions.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Instant;

use quick_xml::NsReader;
use quick_xml::events::Event;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::xml::{Element, Limits, StreamEvent, StreamParser, XmlError};

const HEADER: &str = "<stream:stream to='meet.example' version='1.0' xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams'>";

const STANZAS: [(&str, &str); 3] = [
    (
        "chat message",
        "<message to='romeo@montague.example/orchard' type='chat' id='b4vs9km4' xml:lang='en'>\
         <body>Wherefore art thou, Romeo? Deny thy father and refuse thy name; or, if thou wilt \
         not, be but sworn my love, and I&apos;ll no longer be a Capulet.</body>\
         <active xmlns='http://jabber.org/protocol/chatstates'/>\
         <request xmlns='urn:xmpp:receipts'/><origin-id xmlns='urn:xmpp:sid:0' \
         id='de305d54-75b4-431b-adb2-eb6b9e546013'/></message>",
    ),
    (
        "room presence",
        "<presence to='room@conference.meet.example/a1b2c3d4' id='p1'><stats-id>Ann-xyz</stats-id>\
         <c hash='sha-1' node='https://jitsi.org/jitsi-meet' ver='8fMG1jjUpEx4MRVVBWu4qRJRL0M=' \
         xmlns='http://jabber.org/protocol/caps'/><avatar-id>0123456789abcdef</avatar-id>\
         <email>u@meet.example</email><nick xmlns='http://jabber.org/protocol/nick'>Ann</nick>\
         <jitsi_participant_codecList>av1,vp9,vp8,h264</jitsi_participant_codecList></presence>",
    ),
    ("ack request", "<r xmlns='urn:xmpp:sm:3'/>"),
];

fn nanoseconds(mut work: impl FnMut()) -> f64 {
    // The best of many short samples: on a busy machine the others are interrupted.
    const ROUNDS: u32 = 1000;
    let mut best = f64::MAX;
    for _ in 0..300 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    best
}

fn read(xml: &str, parser: &mut StreamParser) -> Result<Option<StreamEvent>, XmlError> {
    parser.push(xml.as_bytes());
    parser.next()
}

/// The least work of a checker on top of quick-xml: events, attributes and their namespaces.
fn quick_xml_pass(xml: &str) -> usize {
    let mut reader = NsReader::from_str(xml);
    let mut found = 0;
    while let Ok((_, event)) = reader.read_resolved_event() {
        match event {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag) => {
                for attribute in tag.attributes().flatten() {
                    let (_, local) = reader.resolver().resolve_attribute(attribute.key);
                    found += local.into_inner().len();
                }
            }
            _ => found += 1,
        }
    }
    found
}

fn repeat(what: &str, rounds: usize) -> Result<(), XmlError> {
    for (_, xml) in &STANZAS[..2] {
        let mut parser = StreamParser::new(Limits::default());
        read(HEADER, &mut parser)?;
        for _ in 0..rounds {
            match what {
                "read" => drop(black_box(read(black_box(xml), &mut parser)?)),
                "tree" => drop(black_box(Element::parse(black_box(xml.as_bytes()))?)),
                _ => drop(black_box(quick_xml_pass(black_box(xml)))),
            }
        }
    }
    Ok(())
}

fn main() -> Result<(), XmlError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, rounds] = &arguments[..] {
        return repeat(what, rounds.parse().unwrap_or(1000));
    }
    for (name, xml) in STANZAS {
        let mut parser = StreamParser::new(Limits::default());
        read(HEADER, &mut parser)?;
        let event = read(xml, &mut parser)?;
        let parse = nanoseconds(|| {
            black_box(read(black_box(xml), &mut parser)).ok();
        });
        println!("{name}: {} bytes, read in {parse:.0} ns", xml.len());
        if let Some(StreamEvent::Stanza(stanza)) = event {
            let mut out = Vec::new();
            let write = nanoseconds(|| {
                out.clear();
                Stanza::write_to(black_box(&stanza), &mut out, Some("a@b.example/c"), false);
                black_box(&out);
            });
            let tree = nanoseconds(|| {
                black_box(Element::parse(black_box(xml.as_bytes()))).ok();
            });
            println!("{name}: written in {write:.0} ns, parsed to a tree in {tree:.0} ns");
        }
    }
    Ok(())
}
