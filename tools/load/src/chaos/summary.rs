//! Times of a run, or of a part of it, as figures.

use serde::Serialize;

use crate::measure::histogram::Histogram;

/// Figures of a set of durations, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Largest.
    pub max_ms: f64,
}

impl Spread {
    /// Figures of durations in microseconds.
    #[must_use]
    pub fn of(durations: &[u64]) -> Self {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        let at = |q: f64| {
            let rank = (sorted.len() as f64 * q).ceil() as usize;
            sorted
                .get(rank.max(1) - 1)
                .map_or(0.0, |micros| *micros as f64 / 1e3)
        };
        Self {
            count: sorted.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

/// Figures between two marks.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// The driver's name for it.
    pub label: String,
    /// Begin, microseconds since the start of the run.
    pub from: u64,
    /// Latency of all deliveries.
    pub latency: Histogram,
    /// Latency of deliveries between sessions that were not on an edge when it was touched.
    pub others: Histogram,
    /// Sessions that were on an edge when it was touched.
    pub struck: usize,
    /// Longest latency of a delivery to each session, in microseconds.
    pub worst: Vec<u64>,
    /// Longest wait of each session for an acknowledgement.
    pub worst_ack: Vec<u64>,
    /// From the loss of a socket to the resumed session.
    pub recoveries: Vec<u64>,
    /// From the successful attempt's connect to the resumed session.
    pub resumptions: Vec<u64>,
    /// Sockets lost.
    pub disconnects: u64,
    /// Of those, on edges that the driver had not touched.
    pub untouched_disconnects: u64,
    /// Successful resumptions.
    pub resumes_ok: u64,
    /// Resumptions that the server refused.
    pub resumes_refused: u64,
    /// Attempts to connect that failed.
    pub failed_attempts: u64,
}

/// A window in the report.
#[derive(Debug, Clone, Serialize)]
pub struct WindowReport {
    /// The driver's name for it.
    pub label: String,
    /// Begin, milliseconds since the start of the run.
    pub from_ms: u64,
    /// End.
    pub to_ms: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Latency of all deliveries.
    pub latency_p50_ms: f64,
    /// The 99th percentile of that.
    pub latency_p99_ms: f64,
    /// Sessions that were on an edge when it was touched.
    pub struck: usize,
    /// Deliveries between sessions that were not on an edge when it was touched.
    pub others: u64,
    /// Their latency.
    pub others_p50_ms: f64,
    /// The 99th percentile of that.
    pub others_p99_ms: f64,
    /// The longest wait for a message.
    pub longest_stall_ms: f64,
    /// Over sessions: the longest latency of each.
    pub stall: Spread,
    /// Over sessions: the longest wait of each for an acknowledgement.
    pub ack: Spread,
    /// From the loss of a socket to the resumed session.
    pub recovery: Spread,
    /// From the successful attempt's connect to the resumed session.
    pub connect_to_resumed: Spread,
    /// Sockets lost.
    pub disconnects: u64,
    /// Of those, on edges that the driver had not touched.
    pub untouched_disconnects: u64,
    /// Successful resumptions.
    pub resumes_ok: u64,
    /// Resumptions that the server refused.
    pub resumes_refused: u64,
    /// Attempts to connect that failed.
    pub failed_attempts: u64,
}

impl Window {
    /// An empty window.
    #[must_use]
    pub fn new(label: &str, from: u64, sessions: usize) -> Self {
        Self {
            label: label.to_owned(),
            from,
            worst: vec![0; sessions],
            worst_ack: vec![0; sessions],
            ..Self::default()
        }
    }

    /// The figures at time `to`.
    #[must_use]
    pub fn report(&self, to: u64) -> WindowReport {
        let some = |worst: &[u64]| -> Vec<u64> {
            worst.iter().copied().filter(|micros| *micros > 0).collect()
        };
        WindowReport {
            label: self.label.clone(),
            from_ms: self.from / 1000,
            to_ms: to / 1000,
            deliveries: self.latency.count(),
            latency_p50_ms: self.latency.quantile_us(0.5) / 1e3,
            latency_p99_ms: self.latency.quantile_us(0.99) / 1e3,
            struck: self.struck,
            others: self.others.count(),
            others_p50_ms: self.others.quantile_us(0.5) / 1e3,
            others_p99_ms: self.others.quantile_us(0.99) / 1e3,
            longest_stall_ms: self.latency.max_us() / 1e3,
            stall: Spread::of(&some(&self.worst)),
            ack: Spread::of(&some(&self.worst_ack)),
            recovery: Spread::of(&self.recoveries),
            connect_to_resumed: Spread::of(&self.resumptions),
            disconnects: self.disconnects,
            untouched_disconnects: self.untouched_disconnects,
            resumes_ok: self.resumes_ok,
            resumes_refused: self.resumes_refused,
            failed_attempts: self.failed_attempts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_take_ranks() {
        let durations: Vec<u64> = (1..=200).rev().map(|ms| ms * 1000).collect();
        let spread = Spread::of(&durations);
        assert_eq!(
            spread,
            Spread {
                count: 200,
                p50_ms: 100.0,
                p99_ms: 198.0,
                max_ms: 200.0
            }
        );
        assert_eq!(Spread::of(&[]), Spread::default());
    }
}
