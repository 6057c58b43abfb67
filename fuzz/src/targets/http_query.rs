//! Parameters of a URL: parsed parameters are the same when they are written with all bytes
//! escaped.

use std::fmt::Write;

use sestina_edge::http::parse_query;

/// See the module.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let pairs = parse_query(text);
    assert!(pairs.len() <= text.split('&').count());
    let mut written = String::new();
    for (name, value) in &pairs {
        written.push('&');
        escape(&mut written, name);
        written.push('=');
        escape(&mut written, value);
    }
    assert_eq!(parse_query(&written), pairs);
}

fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        write!(out, "%{byte:02x}").expect("writing to a string does not fail");
    }
}
