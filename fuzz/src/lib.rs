//! Fuzz targets: one for each parser of bytes from outside of a process.
//!
//! A target is a function of bytes that panics when the code under test does, or when its result
//! differs from that of another implementation or of its own inverse. `libfuzzer/` runs the targets
//! guided by coverage; every test run passes them the committed corpus.

pub mod corpus;
pub mod oracle;
pub mod targets;

/// A target: its name and its function.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line and of the corpus folder.
    pub name: &'static str,
    /// Panics on an error.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("stream", targets::stream::run),
    target("websocket", targets::websocket::run),
    target("websocket_frames", targets::websocket_frames::run),
    target("element", targets::element::run),
    target("jid", targets::jid::run),
    target("sasl", targets::sasl::run),
    target("sm_id", targets::sm_id::run),
    target("proxy_protocol", targets::proxy_protocol::run),
    target("http_query", targets::http_query::run),
    target("data_form", targets::data_form::run),
    target("archive_query", targets::archive_query::run),
    target("date_time", targets::date_time::run),
    target("frames", targets::frames::run),
    target("redis_object", targets::redis_object::run),
];
