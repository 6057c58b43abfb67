//! Fields of events and spans as JSON values, without secrets and message bodies.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

/// Replaces a value that must not be logged.
pub(crate) const REDACTED: &str = "<redacted>";

/// Names of fields whose value no log line or span may carry. No code should log such a field; this
/// is the last check.
const SENSITIVE: [&str; 6] = [
    "password",
    "secret",
    "token",
    "credential",
    "body",
    "payload",
];

/// Whether the value of a field with this name must not be logged. Sizes and counts of such values
/// may be logged (`payload_bytes`, `token_count`).
pub(crate) fn is_sensitive(name: &str) -> bool {
    let harmless = ["_bytes", "_count", "_len"]
        .iter()
        .any(|end| name.ends_with(end));
    !harmless && SENSITIVE.iter().any(|part| name.contains(part))
}

/// Collects the fields of an event or span.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// The text of an event.
    pub(crate) message: String,
    /// All other fields.
    pub(crate) rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if name == "message" {
            self.message = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
        } else if is_sensitive(name) {
            self.rest.insert(name.to_owned(), Value::from(REDACTED));
        } else {
            self.rest.insert(name.to_owned(), value);
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, Value::from(value.to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }
}
