//! Trace context across unary calls.
//!
//! This crate names no telemetry library: the telemetry crate sets the two hooks at start, one
//! that writes the current span into metadata (W3C `traceparent`) and one that opens a span under
//! what metadata names. Without them nothing is sent and no span is opened.

use std::sync::OnceLock;

use tonic::metadata::MetadataMap;
use tracing::Span;

type Inject = Box<dyn Fn(&mut MetadataMap) + Send + Sync>;
type Extract = Box<dyn Fn(&MetadataMap, &'static str) -> Span + Send + Sync>;

static INJECT: OnceLock<Inject> = OnceLock::new();
static EXTRACT: OnceLock<Extract> = OnceLock::new();

/// Sets how the current span is written into outgoing metadata. The first one set stays; returns
/// whether this was it.
pub fn set_inject(hook: impl Fn(&mut MetadataMap) + Send + Sync + 'static) -> bool {
    INJECT.set(Box::new(hook)).is_ok()
}

/// Sets how a span for a call (named by the second argument) is opened from incoming metadata; it
/// returns [`Span::none`] for calls that are not sampled. The first one set stays; returns whether
/// this was it.
pub fn set_extract(
    hook: impl Fn(&MetadataMap, &'static str) -> Span + Send + Sync + 'static,
) -> bool {
    EXTRACT.set(Box::new(hook)).is_ok()
}

/// Writes the current span's context into metadata.
pub fn inject(metadata: &mut MetadataMap) {
    if let Some(hook) = INJECT.get() {
        hook(metadata);
    }
}

/// The span to handle a call in.
pub fn server_span(metadata: &MetadataMap, call: &'static str) -> Span {
    EXTRACT
        .get()
        .map_or_else(Span::none, |hook| hook(metadata, call))
}
