//! The same metrics as OpenTelemetry instruments, read when they are about to be pushed.
//!
//! A histogram becomes three counters, as in Prometheus: `_bucket` (cumulative, by `le`), `_sum`
//! and `_count`. Observable histograms do not exist in OpenTelemetry, and recording each duration
//! twice would double its cost.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

use super::Metrics;
use super::kinds::{ByHost, Histogram};
use super::registry::{Labels, Value};

/// Makes an instrument for each metric. They live as long as the meter's provider.
pub(crate) fn observe(meter: &Meter, metrics: &Arc<Metrics>) {
    for (name, help, series) in metrics.families() {
        let name = format!("sestina_{name}");
        let mut counters = Vec::new();
        let mut gauges = Vec::new();
        let mut histograms = Vec::new();
        for (labels, value) in series {
            let labels = attributes(labels);
            match value {
                Value::Counter(counter) => counters.push((labels, counter.clone())),
                Value::Gauge(gauge) => gauges.push((labels, gauge.clone())),
                Value::Histogram(histogram) => histograms.push((labels, histogram.clone())),
                Value::Hosts(hosts) => host_gauges(meter, &name, help, hosts.clone()),
            }
        }
        if !counters.is_empty() {
            meter
                .u64_observable_counter(name.clone())
                .with_description(help.clone())
                .with_callback(move |observer| {
                    for (labels, counter) in &counters {
                        observer.observe(counter.get(), labels);
                    }
                })
                .build();
        }
        if !gauges.is_empty() {
            meter
                .i64_observable_gauge(name.clone())
                .with_description(help.clone())
                .with_callback(move |observer| {
                    for (labels, gauge) in &gauges {
                        observer.observe(gauge.get(), labels);
                    }
                })
                .build();
        }
        if !histograms.is_empty() {
            histogram_instruments(meter, &name, help, histograms);
        }
    }
}

fn host_gauges(meter: &Meter, name: &str, help: &str, hosts: ByHost) {
    meter
        .i64_observable_gauge(name.to_owned())
        .with_description(help.to_owned())
        .with_callback(move |observer| {
            for (host, value) in hosts.all() {
                observer.observe(value, &[KeyValue::new(ByHost::KEY, host)]);
            }
        })
        .build();
}

fn histogram_instruments(
    meter: &Meter,
    name: &str,
    help: &str,
    series: Vec<(Vec<KeyValue>, Histogram)>,
) {
    let series = Arc::new(series);
    let of = series.clone();
    meter
        .u64_observable_counter(format!("{name}_bucket"))
        .with_description(help.to_owned())
        .with_callback(move |observer| {
            of.iter()
                .for_each(|(labels, histogram)| buckets(observer, labels, histogram));
        })
        .build();
    let of = series.clone();
    meter
        .f64_observable_counter(format!("{name}_sum"))
        .with_description(help.to_owned())
        .with_callback(move |observer| {
            of.iter()
                .for_each(|(labels, histogram)| observer.observe(histogram.sum(), labels));
        })
        .build();
    meter
        .u64_observable_counter(format!("{name}_count"))
        .with_description(help.to_owned())
        .with_callback(move |observer| {
            series
                .iter()
                .for_each(|(labels, histogram)| observer.observe(histogram.count(), labels));
        })
        .build();
}

fn buckets(observer: &dyn AsyncInstrument<u64>, labels: &[KeyValue], histogram: &Histogram) {
    let mut below = 0;
    for (bound, count) in histogram.buckets() {
        below += count;
        let bound = if bound == f64::INFINITY {
            "+Inf".to_owned()
        } else {
            bound.to_string()
        };
        let mut labels = labels.to_vec();
        labels.push(KeyValue::new("le", bound));
        observer.observe(below, &labels);
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(key, value)| KeyValue::new(*key, *value))
        .collect()
}
