//! Counters, gauges and histograms. Each update is one or two relaxed atomic operations: labels
//! are resolved when the process starts.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Index;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric, counter, gauge};

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(pub(super) counter::Counter);

impl Counter {
    /// Counts one.
    #[inline]
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Counts `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.inc_by(n);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that grows and shrinks.
#[derive(Clone, Debug, Default)]
pub struct Gauge(pub(super) gauge::Gauge);

impl Gauge {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Subtracts one.
    #[inline]
    pub fn dec(&self) {
        self.0.dec();
    }

    /// Adds `n`, which may be negative.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.inc_by(n);
    }

    /// Sets the value.
    #[inline]
    pub fn set(&self, n: i64) {
        self.0.set(n);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// A gauge for each host. Only for hosts of the configuration: a host is never removed.
#[derive(Clone, Debug, Default)]
pub struct ByHost {
    pub(super) family: Family<Vec<(&'static str, String)>, gauge::Gauge>,
    values: Arc<Mutex<BTreeMap<String, i64>>>,
}

impl ByHost {
    /// The label.
    pub(super) const KEY: &'static str = "host";

    /// Sets the value of a host.
    pub fn set(&self, host: &str, value: i64) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert(host.to_owned(), value);
        let labels = vec![(ByHost::KEY, host.to_owned())];
        self.family.get_or_create(&labels).set(value);
    }

    /// All hosts and their values.
    pub fn all(&self) -> BTreeMap<String, i64> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.clone()
    }
}

/// Upper bounds of the buckets in microseconds: 100 µs to 10 s.
pub(super) const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Distribution of durations.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// One count for each bound, and one for values above all bounds.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn observe(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.0
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Their sum in seconds.
    pub fn sum(&self) -> f64 {
        self.0.sum_ns.load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Upper bound in seconds and count of each bucket, not cumulated.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_US
            .iter()
            .map(|us| *us as f64 / 1e6)
            .chain([f64::INFINITY]);
        bounds
            .zip(
                self.0
                    .counts
                    .iter()
                    .map(|count| count.load(Ordering::Relaxed)),
            )
            .collect()
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let buckets = self.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

/// The values of a label.
pub trait Label: Copy + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// All values, in order of their index.
    const ALL: &'static [Self];
    /// The index in `ALL`.
    fn index(self) -> usize;
    /// The value as text.
    fn as_str(self) -> &'static str;
}

/// One metric for each value of a label: `metrics.sessions[Transport::Tcp].inc()`.
#[derive(Clone, Debug)]
pub struct By<L, M> {
    pub(super) each: Vec<M>,
    pub(super) label: PhantomData<fn(L)>,
}

impl<L: Label, M> Index<L> for By<L, M> {
    type Output = M;

    #[inline]
    fn index(&self, label: L) -> &M {
        &self.each[label.index()]
    }
}

impl<L: Label, M> By<L, M> {
    /// Every value with its metric.
    pub fn iter(&self) -> impl Iterator<Item = (L, &M)> {
        L::ALL.iter().copied().zip(&self.each)
    }
}

/// One metric for each pair of values: `metrics.stanzas[(Kind::Message, Outcome::Delivered)]`.
#[derive(Clone, Debug)]
pub struct By2<A, B, M> {
    pub(super) each: Vec<M>,
    pub(super) labels: PhantomData<fn(A, B)>,
}

impl<A: Label, B: Label, M> Index<(A, B)> for By2<A, B, M> {
    type Output = M;

    #[inline]
    fn index(&self, (a, b): (A, B)) -> &M {
        &self.each[a.index() * B::ALL.len() + b.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(us));
        }
        histogram.observe(Duration::MAX);
        let filled: Vec<(f64, u64)> = histogram
            .buckets()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            filled,
            [(0.0001, 2), (0.00025, 1), (10.0, 1), (f64::INFINITY, 2)]
        );
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn sums_are_in_seconds() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1500));
        histogram.observe(Duration::from_nanos(500));
        assert!((histogram.sum() - 1.500_000_5).abs() < 1e-12);
    }
}
