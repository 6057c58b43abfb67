//! Log lines as OpenTelemetry log records.

use opentelemetry::Key;
use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use serde_json::Value;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::fields::Fields;

/// Libraries that the exporter itself uses: exporting their lines would cause further lines.
const OWN: [&str; 7] = [
    "opentelemetry",
    "tonic",
    "h2",
    "hyper",
    "tower",
    "rustls",
    "tokio_util",
];

/// Passes each log line to the exporter, with the trace of the current span.
#[derive(Debug)]
pub(crate) struct LogExport {
    logger: SdkLogger,
}

impl LogExport {
    pub(crate) fn new(provider: &SdkLoggerProvider) -> LogExport {
        LogExport {
            logger: provider.logger("sestina"),
        }
    }
}

impl<S: Subscriber> Layer<S> for LogExport {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if OWN.iter().any(|own| metadata.target().starts_with(own)) {
            return;
        }
        let (severity, text) = match *metadata.level() {
            Level::ERROR => (Severity::Error, "ERROR"),
            Level::WARN => (Severity::Warn, "WARN"),
            Level::INFO => (Severity::Info, "INFO"),
            Level::DEBUG => (Severity::Debug, "DEBUG"),
            Level::TRACE => (Severity::Trace, "TRACE"),
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut record = self.logger.create_log_record();
        record.set_severity_number(severity);
        record.set_severity_text(text);
        record.set_target(metadata.target());
        record.set_body(AnyValue::from(fields.message));
        for (name, value) in fields.rest {
            record.add_attribute(Key::from(name), any(value));
        }
        self.logger.emit(record);
    }
}

fn any(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => AnyValue::from(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => AnyValue::from(number),
            (None, Some(number)) => AnyValue::from(number),
            (None, None) => AnyValue::from(number.to_string()),
        },
        Value::String(text) => AnyValue::from(text),
        other => AnyValue::from(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use opentelemetry_sdk::logs::InMemoryLogExporter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn lines_become_records_without_secrets_and_without_the_exporters_own() {
        let exporter = InMemoryLogExporter::default();
        let provider = SdkLoggerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let subscriber = tracing_subscriber::registry().with(LogExport::new(&provider));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(slot = 7, token = "hunter2", "slot fenced");
            tracing::warn!(target: "tonic::transport", "connection refused");
        });
        let logs = exporter.get_emitted_logs().unwrap();
        assert_eq!(logs.len(), 1);
        let record = &logs[0].record;
        assert_eq!(record.severity_number(), Some(Severity::Warn));
        assert_eq!(record.body(), Some(&AnyValue::from("slot fenced")));
        let attributes: Vec<String> = record
            .attributes_iter()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        assert_eq!(attributes.len(), 2, "{attributes:?}");
        assert!(
            attributes.iter().any(|a| a == "slot=Int(7)"),
            "{attributes:?}"
        );
        assert!(!attributes.concat().contains("hunter2"), "{attributes:?}");
    }
}
