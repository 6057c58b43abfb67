//! Spans of sampled stanzas, and the trace context that the tiers pass on.
//!
//! A span costs more than a delivery, so a stanza that is not sampled has none: the edge decides
//! once when a stanza arrives ([`stanza_span`]), sends the trace context along with a sampled
//! stanza, and the other tiers make spans only for those ([`span_from_traceparent`]).

use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A random number below this samples the stanza. Zero: there is no exporter.
static THRESHOLD: AtomicU64 = AtomicU64::new(0);
const ALL: u64 = 1 << 32;

/// Name of the span that [`stanza_span`] makes.
const STANZA: &str = "stanza";

/// Switches tracing on, after an exporter has been set up.
pub(crate) fn enable(ratio: f64) {
    // At least 1: with a ratio of 0, traces that other systems began are still continued.
    let threshold = (ratio.clamp(0.0, 1.0) * ALL as f64) as u64;
    THRESHOLD.store(threshold.max(1), Ordering::Relaxed);
}

/// A root span for a stanza that has just arrived, if it is sampled; a disabled span otherwise.
#[inline]
pub fn stanza_span(kind: &'static str) -> Span {
    let threshold = THRESHOLD.load(Ordering::Relaxed);
    if threshold == 0 || u64::from(rand::random::<u32>()) >= threshold {
        return Span::none();
    }
    tracing::info_span!(target: "sestina", parent: None, STANZA, kind)
}

/// The trace context of the current span, for a frame to another tier; none if it is not sampled.
#[inline]
pub fn current_traceparent() -> Option<String> {
    if THRESHOLD.load(Ordering::Relaxed) == 0 {
        return None;
    }
    traceparent(&Span::current())
}

/// The trace context of a span, for a frame to another tier; none if it is not sampled.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_none() || span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    (context.is_valid() && context.is_sampled())
        .then(|| format!("00-{}-{}-01", context.trace_id(), context.span_id()))
}

/// A span that continues the trace of a frame from another tier; a disabled span if there is no
/// context, or none that is valid and sampled, or no exporter.
pub fn span_from_traceparent(name: &'static str, traceparent: &str) -> Span {
    if traceparent.is_empty() || THRESHOLD.load(Ordering::Relaxed) == 0 {
        return Span::none();
    }
    let Some(parent) = parse(traceparent) else {
        return Span::none();
    };
    let span = tracing::info_span!(target: "sestina", parent: None, "remote", otel.name = name);
    match span.set_parent(Context::new().with_remote_span_context(parent)) {
        Ok(()) => span,
        Err(_) => Span::none(),
    }
}

/// W3C Trace Context, version 00, sampled.
fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if version != "00" || parts.next().is_some() {
        return None;
    }
    if !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    (context.is_valid() && context.is_sampled()).then_some(context)
}

/// The sampler: a parent decides for its children; the span of a stanza is always sampled, since it
/// exists only for sampled stanzas; any other root is sampled by the ratio.
pub(crate) fn sampler(ratio: f64) -> Sampler {
    Sampler::ParentBased(Box::new(Root(Sampler::TraceIdRatioBased(ratio))))
}

#[derive(Clone, Debug)]
struct Root(Sampler);

impl ShouldSample for Root {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = if name == STANZA {
            &Sampler::AlwaysOn
        } else {
            &self.0
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
