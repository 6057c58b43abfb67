//! Sets up logging and the exporters, once per process.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use sestina_config::{LogFormat, Telemetry};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::format;
use crate::log_export::LogExport;
use crate::log_writer::LogWriter;
use crate::metrics::Metrics;
use crate::otlp::{self, Providers};

type Reload = reload::Handle<EnvFilter, Registry>;

/// Longest wait for the last exports.
const LAST: Duration = Duration::from_secs(8);

/// Longest wait for the last log lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is invalid.
    #[error("telemetry.log: {0:?} is no log filter; write a level, or `info,target=debug`")]
    Filter(String),
    /// The collector's address is invalid.
    #[error("telemetry.otlp_endpoint: {endpoint:?} cannot be used: {reason}")]
    Endpoint {
        /// The address.
        endpoint: String,
        /// The reason.
        reason: String,
    },
    /// The collector's authority cannot be read.
    #[error("telemetry.otlp_ca: cannot read {}: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// An exporter cannot be made.
    #[error("the exporter to the collector cannot be set up: {0}")]
    Exporter(String),
    /// The thread that writes log lines cannot be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(std::io::Error),
    /// The exporters need a runtime to connect on.
    #[error("telemetry must be set up inside the async runtime when a collector is configured")]
    NoRuntime,
    /// This process logs already.
    #[error("logging has been set up before in this process")]
    Twice,
}

/// Owns the exporters; [`Guard::shutdown`] ends them.
#[derive(Debug)]
pub struct Guard {
    /// The metrics of this process, to be shared with all tiers in it.
    pub metrics: Arc<Metrics>,
    providers: Option<Providers>,
    filters: Vec<Reload>,
    log: LogWriter,
}

/// Sets up logging to standard error and, if a collector is configured, the exporters. `role` and
/// `node` name this process in the exported data.
pub fn init(config: &Telemetry, role: &'static str, node: &str) -> Result<Guard, TelemetryError> {
    let metrics = Metrics::new();
    let mut filters = Vec::new();
    let log = LogWriter::start(std::io::stderr()).map_err(TelemetryError::Thread)?;
    let mut layers = vec![stderr_layer(config, &mut filters, log.clone())?];
    let mut providers = None;
    if let Some(endpoint) = &config.otlp_endpoint {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(TelemetryError::NoRuntime);
        }
        let built = Providers::new(config, endpoint, otlp::resource(role, node), &metrics)?;
        layers.push(otlp::trace_layer(built.traces.tracer("sestina")));
        let (filter, handle) = reload::Layer::new(filter(&config.log)?);
        filters.push(handle);
        layers.push(LogExport::new(&built.logs).with_filter(filter).boxed());
        providers = Some(built);
    }
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    if providers.is_some() {
        crate::trace::enable(config.trace_ratio);
    }
    Ok(Guard {
        metrics,
        providers,
        filters,
        log,
    })
}

impl Guard {
    /// Changes the log filter until the process ends.
    pub fn set_log_filter(&self, directives: &str) -> Result<(), TelemetryError> {
        let gone = |_| TelemetryError::Filter(directives.to_owned());
        let new: Vec<EnvFilter> = self
            .filters
            .iter()
            .map(|_| filter(directives))
            .collect::<Result<_, _>>()?;
        self.filters
            .iter()
            .zip(new)
            .try_for_each(|(handle, new)| handle.reload(new).map_err(gone))
    }

    /// Exports the waiting data and ends the exporters, within a few seconds if the collector is
    /// unavailable. Log lines still go to standard error afterwards.
    pub async fn shutdown(mut self) {
        let Some(providers) = self.providers.take() else {
            return;
        };
        let last = tokio::task::spawn_blocking(move || providers.shutdown());
        if tokio::time::timeout(LAST, last).await.is_err() {
            tracing::warn!("the last exports to the collector took too long");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.log.flush(LAST_LINES);
    }
}

fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(directives).map_err(|_| TelemetryError::Filter(directives.to_owned()))
}

fn stderr_layer(
    config: &Telemetry,
    filters: &mut Vec<Reload>,
    log: LogWriter,
) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(&config.log)?);
    filters.push(handle);
    let layer = fmt::layer().with_writer(log).fmt_fields(format::fields());
    Ok(match config.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            layer.with_ansi(colours).with_filter(filter).boxed()
        }
        LogFormat::Json => layer
            .with_ansi(false)
            .event_format(format::Json)
            .with_filter(filter)
            .boxed(),
    })
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
