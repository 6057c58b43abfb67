#![allow(clippy::unwrap_used)]
use std::collections::HashSet;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

use super::*;

fn some() -> Arc<Metrics> {
    let metrics = Metrics::new();
    metrics.sessions[Transport::WebSocket].inc();
    metrics.stanzas[(Kind::Presence, Outcome::Bounced)].add(3);
    metrics.stanzas[(Kind::Iq, Outcome::Settled)].inc();
    metrics.slot_seconds[SlotStep::TakeOver].observe(Duration::from_millis(30));
    metrics.redundant.set(1);
    metrics
}

#[test]
fn each_series_stands_under_its_own_labels() {
    let page = some().encode();
    for line in [
        "# TYPE sestina_sessions gauge",
        "# HELP sestina_lost What was promised and lost: must stay 0.",
        "sestina_sessions{transport=\"websocket\"} 1",
        "sestina_sessions{transport=\"tcp\"} 0",
        "sestina_stanzas_total{kind=\"presence\",outcome=\"bounced\"} 3",
        "sestina_stanzas_total{kind=\"iq\",outcome=\"settled\"} 1",
        "sestina_stanzas_total{kind=\"message\",outcome=\"accepted\"} 0",
        "sestina_slot_seconds_bucket{le=\"0.025\",step=\"take_over\"} 0",
        "sestina_slot_seconds_bucket{le=\"0.05\",step=\"take_over\"} 1",
        "sestina_slot_seconds_bucket{le=\"+Inf\",step=\"take_over\"} 1",
        "sestina_slot_seconds_sum{step=\"take_over\"} 0.03",
        "sestina_redundant 1",
        "sestina_lost_total{what=\"input\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn no_series_stands_twice() {
    let page = some().encode();
    let mut seen = HashSet::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        let series = line.rsplit_once(' ').unwrap().0;
        assert!(line.starts_with('#') || seen.insert(series), "{line}");
    }
}

#[test]
fn labels_and_indices_agree() {
    fn agree<L: Label + PartialEq + std::fmt::Debug>() {
        for (i, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), i, "{label:?}");
        }
    }
    agree::<Transport>();
    agree::<StoreOp>();
    agree::<Lost>();
}

#[test]
fn the_same_values_are_pushed() {
    let metrics = some();
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(exporter.clone()).build())
        .build();
    push::observe(&provider.meter("test"), &metrics);
    provider.force_flush().unwrap();
    let mut found = Vec::new();
    for resource in exporter.get_finished_metrics().unwrap() {
        for metric in resource.scope_metrics().flat_map(|scope| scope.metrics()) {
            if let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() {
                for point in sum.data_points().filter(|point| point.value() > 0) {
                    let mut labels: Vec<String> = point
                        .attributes()
                        .map(|label| format!("{}={}", label.key, label.value))
                        .collect();
                    labels.sort();
                    found.push(format!("{} {labels:?} {}", metric.name(), point.value()));
                }
            }
            if let AggregatedMetrics::I64(MetricData::Gauge(gauge)) = metric.data() {
                for point in gauge.data_points().filter(|point| point.value() > 0) {
                    found.push(format!("{} {}", metric.name(), point.value()));
                }
            }
        }
    }
    for expected in [
        "sestina_stanzas [\"kind=presence\", \"outcome=bounced\"] 3",
        "sestina_slot_seconds_count [\"step=take_over\"] 1",
        "sestina_slot_seconds_bucket [\"le=0.05\", \"step=take_over\"] 1",
        "sestina_slot_seconds_bucket [\"le=+Inf\", \"step=take_over\"] 1",
        "sestina_sessions 1",
        "sestina_redundant 1",
    ] {
        assert!(
            found.iter().any(|line| line == expected),
            "{expected}\n{found:#?}"
        );
    }
}
