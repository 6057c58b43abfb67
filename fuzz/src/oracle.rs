//! The second implementation of XML: rxml.

use rxml::Event;
use sestina_xmpp::xml::{Element, Node};

/// A document in a form that both implementations can produce, or the reason for its refusal.
///
/// Line ends are normalised first (XML 1.0 §2.11), because rxml refuses a lone carriage return.
pub fn tree(document: &[u8]) -> Result<String, String> {
    let document = line_ends(document);
    let document = without_standalone(&document);
    let options = rxml::Options {
        max_token_length: 1 << 26,
        ..Default::default()
    };
    let mut reader = rxml::Reader::with_options(document, options);
    let mut out = String::new();
    let mut text = String::new();
    let result = reader.read_all(|event| match event {
        Event::StartElement(_, (ns, name), attrs) => {
            flush(&mut out, &mut text);
            let attrs = attrs
                .into_iter()
                .map(|((ns, name), value)| (key(ns.as_str(), name.as_str()), value))
                .collect();
            open(&mut out, ns.as_str(), name.as_str(), attrs);
        }
        Event::EndElement(_) => {
            flush(&mut out, &mut text);
            out.push_str("end\n");
        }
        Event::Text(_, piece) => text.push_str(&piece),
        _ => {}
    });
    match rxml::as_eof_flag(result) {
        Ok(true) => Ok(out),
        Ok(false) => Err("the document is not complete".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The same form of an element of Sestina.
pub fn canonical(element: &Element) -> String {
    let mut out = String::new();
    write(&mut out, element);
    out
}

fn write(out: &mut String, element: &Element) {
    let attrs = element
        .attrs
        .iter()
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect();
    open(out, &element.ns, &element.name, attrs);
    for node in &element.nodes {
        match node {
            Node::Element(child) => write(out, child),
            Node::Text(text) => flush(out, &mut text.clone()),
        }
    }
    out.push_str("end\n");
}

fn open(out: &mut String, ns: &str, name: &str, mut attrs: Vec<(String, String)>) {
    attrs.sort();
    out.push_str(&format!("{{{ns}}}{name} {attrs:?}\n"));
}

fn flush(out: &mut String, text: &mut String) {
    if !text.is_empty() {
        out.push_str(&format!("{text:?}\n"));
        text.clear();
    }
}

fn key(ns: &str, name: &str) -> String {
    match ns {
        "" => name.to_owned(),
        "http://www.w3.org/XML/1998/namespace" => format!("xml:{name}"),
        ns => format!("{{{ns}}}{name}"),
    }
}

/// Removes an XML declaration with `standalone` and without `encoding`: XML 1.0 §2.8 allows it,
/// rxml refuses it.
fn without_standalone(document: &[u8]) -> &[u8] {
    let end = document
        .windows(2)
        .position(|pair| pair == b"?>")
        .map_or(0, |at| at + 2);
    let (declaration, rest) = document.split_at(end);
    let standalone = declaration
        .windows(10)
        .any(|window| window == b"standalone");
    if declaration.starts_with(b"<?xml") && standalone {
        rest.trim_ascii_start()
    } else {
        document
    }
}

fn line_ends(document: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len());
    for (at, &byte) in document.iter().enumerate() {
        match (byte, document.get(at + 1)) {
            (b'\r', Some(b'\n')) => {}
            (b'\r', _) => out.push(b'\n'),
            _ => out.push(byte),
        }
    }
    out
}
