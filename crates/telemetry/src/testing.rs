//! Captures spans and log lines in memory, for tests of traces across the tiers and of the
//! administrator's log. Nothing is exported.

use std::io;
use std::sync::{Arc, Mutex, Once, PoisonError};

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Metadata, span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;

/// Samples every stanza that this thread handles, and keeps the spans, until it is dropped.
pub struct Capture {
    exporter: InMemorySpanExporter,
    _default: DefaultGuard,
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its name.
    pub name: String,
    /// Id of its trace, in hexadecimal.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// Id of its parent; zeros for a root.
    pub parent: String,
    /// Names and values of its attributes.
    pub attributes: Vec<(String, String)>,
}

impl Capture {
    /// Starts capturing.
    pub fn start() -> Capture {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .with_sampler(crate::trace::sampler(1.0))
            .build();
        keep_interest();
        let layer = crate::otlp::trace_layer(provider.tracer("test"));
        crate::trace::enable(1.0);
        let registry = tracing_subscriber::registry().with(layer);
        Capture {
            exporter,
            _default: tracing::subscriber::set_default(registry),
        }
    }

    /// The spans that have ended, in this order.
    pub fn finished(&self) -> Vec<Finished> {
        let spans = self.exporter.get_finished_spans().unwrap_or_default();
        let finished = spans.into_iter().map(|span| Finished {
            name: span.name.to_string(),
            trace: span.span_context.trace_id().to_string(),
            id: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
            attributes: span
                .attributes
                .iter()
                .map(|pair| (pair.key.to_string(), pair.value.to_string()))
                .collect(),
        });
        finished.collect()
    }
}

/// Each log statement asks once, at its first line, whether any subscriber wants its lines. If it
/// asks in the thread of another test just when this test begins to listen, the answer may stay
/// "no" for ever. So one subscriber is always registered: it requests to be asked each time, and
/// then takes no line.
fn keep_interest() {
    static ONCE: Once = Once::new();
    // Fails if there is a global subscriber already, which then answers.
    ONCE.call_once(|| drop(tracing::subscriber::set_global_default(Undecided)));
}

struct Undecided;

impl tracing::Subscriber for Undecided {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // Never called: nothing is enabled.
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Captures the log lines of this thread, in the text form, until it is dropped.
pub struct Lines {
    written: Written,
    _default: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Starts capturing, with the default filter.
    pub fn start() -> Lines {
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .fmt_fields(crate::format::fields());
        keep_interest();
        let filter = tracing_subscriber::EnvFilter::new("info,rustls=error");
        let registry = tracing_subscriber::registry().with(layer.with_filter(filter));
        Lines {
            written,
            _default: tracing::subscriber::set_default(registry),
        }
    }

    /// The lines so far that contain this text.
    pub fn with(&self, text: &str) -> Vec<String> {
        let all = self.written.0.lock();
        let all = all.unwrap_or_else(PoisonError::into_inner).clone();
        let all = String::from_utf8_lossy(&all).into_owned();
        let lines = all.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}
