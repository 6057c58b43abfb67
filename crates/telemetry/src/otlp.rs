//! The exporters to an OpenTelemetry collector (OTLP over gRPC).
//!
//! Each signal has a bounded queue and a thread of its own in the SDK: when the collector is unavailable
//! the queue fills, further items are dropped and counted in a warning of the SDK, and nothing
//! else waits.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use sestina_config::Telemetry;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

use crate::init::TelemetryError;
use crate::metrics::{Metrics, push};

/// Longest time for one export.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for the last export of each signal when the process ends.
const LAST: Duration = Duration::from_secs(2);

/// The providers of the three signals.
#[derive(Clone, Debug)]
pub(crate) struct Providers {
    pub(crate) traces: SdkTracerProvider,
    pub(crate) metrics: SdkMeterProvider,
    pub(crate) logs: SdkLoggerProvider,
}

impl Providers {
    /// Sets up the exporters. The connection is made when it is first needed.
    pub(crate) fn new(
        config: &Telemetry,
        endpoint: &str,
        resource: Resource,
        metrics: &Arc<Metrics>,
    ) -> Result<Providers, TelemetryError> {
        let channel = channel(config, endpoint)?;
        let built = |error: opentelemetry_otlp::ExporterBuildError| {
            TelemetryError::Exporter(error.to_string())
        };
        let spans = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel.clone())
            .with_timeout(TIMEOUT)
            .build()
            .map_err(built)?;
        let traces = SdkTracerProvider::builder()
            .with_batch_exporter(spans)
            .with_sampler(crate::trace::sampler(config.trace_ratio))
            .with_resource(resource.clone())
            .build();
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_channel(channel.clone())
            .with_timeout(TIMEOUT)
            .build()
            .map_err(built)?;
        let reader = PeriodicReader::builder(exporter)
            .with_interval(*config.otlp_interval)
            .build();
        let meters = SdkMeterProvider::builder()
            .with_reader(reader)
            .with_resource(resource.clone())
            .build();
        push::observe(&meters.meter("sestina"), metrics);
        let records = LogExporter::builder()
            .with_tonic()
            .with_channel(channel)
            .with_timeout(TIMEOUT)
            .build()
            .map_err(built)?;
        let logs = SdkLoggerProvider::builder()
            .with_batch_exporter(records)
            .with_resource(resource)
            .build();
        Ok(Providers {
            traces,
            metrics: meters,
            logs,
        })
    }

    /// Exports the waiting data and ends the exporters. Blocks for a few seconds at most.
    pub(crate) fn shutdown(&self) {
        let results = [
            ("traces", self.traces.shutdown_with_timeout(LAST)),
            ("metrics", self.metrics.shutdown_with_timeout(LAST)),
            ("logs", self.logs.shutdown_with_timeout(LAST)),
        ];
        for (signal, result) in results {
            if let Err(error) = result {
                tracing::warn!(signal, %error, "the last export did not reach the collector");
            }
        }
    }
}

/// The sending process, as attributes by OpenTelemetry's conventions.
pub(crate) fn resource(role: &'static str, node: &str) -> Resource {
    Resource::builder()
        .with_service_name("sestina")
        .with_attributes([
            KeyValue::new("service.namespace", role),
            KeyValue::new("service.instance.id", node.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

fn channel(config: &Telemetry, endpoint: &str) -> Result<Channel, TelemetryError> {
    let wrong = |error: tonic::transport::Error| TelemetryError::Endpoint {
        endpoint: endpoint.to_owned(),
        reason: error.to_string(),
    };
    let mut built = Endpoint::from_shared(endpoint.to_owned())
        .map_err(wrong)?
        .timeout(TIMEOUT)
        .connect_timeout(TIMEOUT);
    if let Some(path) = &config.otlp_ca {
        let pem = std::fs::read(path).map_err(|error| TelemetryError::Authority {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        built = built.tls_config(tls).map_err(wrong)?;
    }
    Ok(built.connect_lazy())
}

/// Converts Sestina's spans (not those of libraries) to OpenTelemetry's. Events stay in the logs.
pub(crate) fn trace_layer(tracer: SdkTracer) -> Box<dyn Layer<Registry> + Send + Sync> {
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target("sestina", LevelFilter::INFO))
        .boxed()
}
