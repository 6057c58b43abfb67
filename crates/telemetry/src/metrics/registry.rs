//! Names and help texts, and the Prometheus text form.

use std::marker::PhantomData;

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{counter, gauge};
use prometheus_client::registry::Registry;

use super::Metrics;
use super::kinds::{By, By2, ByHost, Counter, Gauge, Histogram, Label};

/// A series' labels.
pub(super) type Labels = Vec<(&'static str, &'static str)>;

/// Keeps every metric under its name, for both kinds of output.
#[derive(Debug)]
pub(super) struct Registrar {
    prometheus: Registry,
    /// For OpenTelemetry.
    pub(super) families: Vec<Enlisted>,
}

/// Name, help text and series of one metric.
pub(super) type Enlisted = (&'static str, String, Vec<(Labels, Value)>);

/// A handle on one series.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
    Hosts(ByHost),
}

impl Registrar {
    pub(super) fn new() -> Registrar {
        let mut prometheus = Registry::with_prefix("sestina");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        prometheus.register("build", "Version of this process", Info::new(version));
        Registrar {
            prometheus,
            families: Vec::new(),
        }
    }
}

/// A metric that can be registered: with no, one or two labels.
pub(super) trait Metric {
    fn register(registrar: &mut Registrar, name: &'static str, doc: &[&'static str]) -> Self;
}

/// A metric without labels.
pub(super) trait Single: Clone {
    fn value(&self) -> Value;
    /// Makes and registers all series of one name.
    fn make(
        registry: &mut Registry,
        name: &'static str,
        help: &str,
        labels: &[Labels],
    ) -> Vec<Self>;
}

macro_rules! single {
    ($($type:ident($prometheus:ty) $wrap:expr, $unwrap:expr;)*) => {$(
        impl Single for $type {
            fn value(&self) -> Value {
                Value::$type(self.clone())
            }

            fn make(
                registry: &mut Registry,
                name: &'static str,
                help: &str,
                labels: &[Labels],
            ) -> Vec<$type> {
                if let [only] = labels && only.is_empty() {
                    let metric = $type::default();
                    registry.register(name, help, ($unwrap)(metric.clone()));
                    return vec![metric];
                }
                let family = Family::<Labels, $prometheus>::default();
                let each = labels.iter().map(|labels| family.get_or_create_owned(labels));
                let each = each.map($wrap).collect();
                registry.register(name, help, family);
                each
            }
        }

        impl Metric for $type {
            fn register(r: &mut Registrar, name: &'static str, doc: &[&'static str]) -> $type {
                enlist(r, name, doc, &[Labels::new()]).pop().unwrap_or_default()
            }
        }
    )*};
}

single! {
    Counter(counter::Counter) Counter, |metric: Counter| metric.0;
    Gauge(gauge::Gauge) Gauge, |metric: Gauge| metric.0;
    Histogram(Histogram) |metric| metric, |metric| metric;
}

fn enlist<M: Single>(
    registrar: &mut Registrar,
    name: &'static str,
    doc: &[&'static str],
    labels: &[Labels],
) -> Vec<M> {
    let help = help(doc);
    let each = M::make(&mut registrar.prometheus, name, &help, labels);
    let values = labels
        .iter()
        .cloned()
        .zip(each.iter().map(M::value))
        .collect();
    registrar.families.push((name, help, values));
    each
}

fn help(doc: &[&'static str]) -> String {
    let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
    lines.join(" ").trim_end_matches('.').to_owned()
}

impl Metric for ByHost {
    fn register(registrar: &mut Registrar, name: &'static str, doc: &[&'static str]) -> ByHost {
        let (metric, help) = (ByHost::default(), help(doc));
        let family = metric.family.clone();
        registrar.prometheus.register(name, help.clone(), family);
        let series = vec![(Labels::new(), Value::Hosts(metric.clone()))];
        registrar.families.push((name, help, series));
        metric
    }
}

impl<L: Label, M: Single> Metric for By<L, M> {
    fn register(registrar: &mut Registrar, name: &'static str, doc: &[&'static str]) -> By<L, M> {
        let labels: Vec<Labels> = L::ALL
            .iter()
            .map(|label| vec![(L::KEY, label.as_str())])
            .collect();
        By {
            each: enlist(registrar, name, doc, &labels),
            label: PhantomData,
        }
    }
}

impl<A: Label, B: Label, M: Single> Metric for By2<A, B, M> {
    fn register(r: &mut Registrar, name: &'static str, doc: &[&'static str]) -> By2<A, B, M> {
        let mut labels = Vec::new();
        for a in A::ALL {
            for b in B::ALL {
                labels.push(vec![(A::KEY, a.as_str()), (B::KEY, b.as_str())]);
            }
        }
        By2 {
            each: enlist(r, name, doc, &labels),
            labels: PhantomData,
        }
    }
}

impl Metrics {
    /// All metrics in the OpenMetrics text form.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        match text::encode(&mut page, &self.registrar.prometheus) {
            Ok(()) => page,
            // Writing to a string does not fail; if the encoder fails all the same, the page shows
            // the error.
            Err(error) => format!("# cannot be encoded: {error}\n# EOF\n"),
        }
    }

    pub(super) fn families(&self) -> &[Enlisted] {
        &self.registrar.families
    }
}
