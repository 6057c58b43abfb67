//! Logs, traces and metrics. No other crate names OpenTelemetry or Prometheus.
//!
//! - [`init`](init()): sets up logging and the exporters, once per process
//! - [`metrics`]: every metric of the system as a field of one struct
//! - [`trace`]: spans of sampled stanzas, and the trace context that the tiers pass on
//! - [`http`]: `/metrics`, `/health` and `/ready`

mod fields;
mod format;
pub mod http;
mod init;
mod log_export;
mod log_writer;
pub mod metrics;
mod otlp;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;

pub use init::{Guard, TelemetryError, init};
pub use metrics::Metrics;
pub use metrics::kinds::{By, By2, Counter, Gauge, Histogram, Label};
pub use metrics::labels::*;
