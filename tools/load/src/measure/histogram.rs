//! A histogram of durations with a relative error of about 1.6%, in fixed memory.

use std::time::Duration;

const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
const BUCKETS: usize = SUB * (64 - SUB_BITS as usize + 1);

/// Durations in nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest, in microseconds.
    #[must_use]
    pub fn max_us(&self) -> f64 {
        self.max as f64 / 1e3
    }

    /// The value below which the share `q` of all lies, in microseconds; 0 when empty.
    #[must_use]
    pub fn quantile_us(&self, q: f64) -> f64 {
        let wanted = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(index).min(self.max as f64) / 1e3;
            }
        }
        0.0
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < SUB as u64 {
        return nanos as usize;
    }
    let exponent = 63 - nanos.leading_zeros();
    let shift = exponent - SUB_BITS;
    let sub = (nanos >> shift) as usize - SUB;
    (shift as usize + 1) * SUB + sub
}

fn middle(bucket: usize) -> f64 {
    if bucket < SUB {
        return bucket as f64;
    }
    let shift = bucket / SUB - 1;
    let low = ((bucket % SUB + SUB) as u128) << shift;
    low as f64 + (1u128 << shift) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::default();
        for micros in 1..=10_000u64 {
            histogram.record(Duration::from_micros(micros));
        }
        for (q, expected) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let got = histogram.quantile_us(q);
            assert!((got - expected).abs() / expected < 0.02, "{q}: {got}");
        }
        assert_eq!(Histogram::default().quantile_us(0.99), 0.0);
    }

    proptest::proptest! {
        #[test]
        fn every_value_lies_near_its_bucket(nanos: u64) {
            let index = bucket(nanos);
            proptest::prop_assert!(index < BUCKETS);
            let error = (middle(index) - nanos as f64).abs();
            proptest::prop_assert!(error <= nanos as f64 / 64.0 + 1.0);
        }
    }
}
