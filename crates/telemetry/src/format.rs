//! Form of the log lines: text for people, JSON for machines. Both leave out values that must not
//! be logged.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::Field;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::fields::{Fields, REDACTED, is_sensitive};

/// How the fields of a text line are written.
pub(crate) fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    use tracing_subscriber::field::MakeExt;
    debug_fn(field).delimited(" ")
}

/// Writes one field of a text line.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name if is_sensitive(name) => write!(writer, "{name}={REDACTED}"),
        name => write!(writer, "{name}={value:?}"),
    }
}

/// One JSON object per line: `timestamp`, `level`, `target`, `message`, the event's fields, and
/// `span` with the innermost span.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = Map::new();
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        line.insert("timestamp".to_owned(), Value::from(time));
        line.insert("level".to_owned(), Value::from(metadata.level().as_str()));
        line.insert("target".to_owned(), Value::from(metadata.target()));
        line.insert("message".to_owned(), Value::from(fields.message));
        for (name, value) in fields.rest {
            // A field cannot replace one of the fixed keys.
            line.entry(name).or_insert(value);
        }
        if let Some(span) = context.lookup_current() {
            let extensions = span.extensions();
            let of_span = extensions
                .get::<FormattedFields<N>>()
                .map_or("", |f| f.fields.as_str());
            let text = if of_span.is_empty() {
                span.name().to_owned()
            } else {
                format!("{}{{{of_span}}}", span.name())
            };
            line.insert("span".to_owned(), Value::from(text));
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_something() {
        let span = tracing::info_span!("stanza", kind = "message", token = "hunter2");
        let _entered = span.enter();
        let error = io::Error::other("broken \"pipe\"");
        tracing::warn!(
            password = "hunter2",
            auth_token = ?"hunter2",
            payload_bytes = 7,
            ok = true,
            error = &error as &dyn std::error::Error,
            "lane to {} closed",
            "r1"
        );
    }

    fn written(json: bool) -> String {
        let lines = Lines::default();
        let inner = lines.clone();
        let builder = tracing_subscriber::fmt()
            .with_writer(move || inner.clone())
            .with_ansi(false)
            .fmt_fields(fields());
        if json {
            tracing::subscriber::with_default(builder.event_format(Json).finish(), log_something);
        } else {
            tracing::subscriber::with_default(builder.finish(), log_something);
        }
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_can_be_read_and_hold_no_secret() {
        let text = written(true);
        assert!(!text.contains("hunter2"), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "lane to r1 closed");
        assert_eq!(line["payload_bytes"], 7);
        assert_eq!(line["ok"], true);
        assert_eq!(line["password"], REDACTED);
        assert_eq!(line["error"], "broken \"pipe\"");
        assert_eq!(line["span"], "stanza{kind=\"message\" token=<redacted>}");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{text}");
    }

    #[test]
    fn text_lines_hold_no_secret() {
        let text = written(false);
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("lane to r1 closed"), "{text}");
        assert!(text.contains("password=<redacted>"), "{text}");
        assert!(text.contains("payload_bytes=7"), "{text}");
    }
}
