#![allow(clippy::unwrap_used)]
use std::sync::Mutex;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// The threshold is global: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const FOREIGN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn with_exporter(ratio: f64, work: impl FnOnce()) -> Vec<opentelemetry_sdk::trace::SpanData> {
    let _alone = ALONE.lock().unwrap();
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .with_sampler(sampler(ratio))
        .build();
    let layer = crate::otlp::trace_layer(provider.tracer("test"));
    enable(ratio);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    THRESHOLD.store(0, Ordering::Relaxed);
    exporter.get_finished_spans().unwrap()
}

#[test]
fn one_trace_crosses_three_tiers() {
    let spans = with_exporter(1.0, || {
        let at_edge = stanza_span("message").in_scope(|| current_traceparent().unwrap());
        assert!(parse(&at_edge).is_some(), "{at_edge}");
        let router = span_from_traceparent("router", &at_edge);
        let at_router = router.in_scope(|| current_traceparent().unwrap());
        assert_eq!(at_edge[..35], at_router[..35], "the same trace");
        assert_ne!(at_edge, at_router, "another span");
        drop(span_from_traceparent("storage", &at_router));
    });
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["stanza", "storage", "router"]);
    assert_eq!(spans[1].parent_span_id, spans[2].span_context.span_id());
    assert_eq!(spans[2].parent_span_id, spans[0].span_context.span_id());
}

#[test]
fn a_sampled_parent_is_followed_whatever_the_ratio() {
    let spans = with_exporter(0.0, || {
        let span = span_from_traceparent("router", FOREIGN);
        assert_eq!(
            span.in_scope(current_traceparent).unwrap()[..35],
            FOREIGN[..35]
        );
        tracing::info_span!(target: "sestina_router", "unrelated root").in_scope(|| {});
    });
    assert_eq!(spans.len(), 1);
}

#[test]
fn the_draw_is_made_once() {
    let drawn = std::cell::Cell::new(0);
    let spans = with_exporter(0.25, || {
        for _ in 0..2000 {
            let span = stanza_span("presence");
            if !span.is_disabled() {
                drawn.set(drawn.get() + 1);
                assert!(span.in_scope(current_traceparent).is_some());
            }
        }
    });
    assert_eq!(spans.len(), drawn.get());
    assert!((350..650).contains(&spans.len()), "{}", spans.len());
}

#[test]
fn without_an_exporter_there_are_no_spans() {
    let _alone = ALONE.lock().unwrap();
    assert!(stanza_span("iq").is_disabled());
    assert!(span_from_traceparent("router", FOREIGN).is_disabled());
    assert_eq!(current_traceparent(), None);
}

#[test]
fn only_valid_and_sampled_contexts_are_taken() {
    assert!(parse(FOREIGN).is_some());
    for text in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
        "00-é-b7ad6b7169203331-01",
    ] {
        assert!(parse(text).is_none(), "{text}");
    }
}
