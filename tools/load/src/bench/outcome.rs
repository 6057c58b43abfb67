//! The result of one run of a scenario.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::histogram::Histogram;
use crate::measure::process::{Own, Usage};

/// Figures of one run against one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the server.
    pub server: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The unit of the count: `message`, `delivery`, `login` or `session`.
    pub unit: String,
    /// The number of units.
    pub operations: u64,
    /// Wall-clock seconds.
    pub wall_s: f64,
    /// Operations per second.
    pub per_second: f64,
    /// Processor time per operation in microseconds, by group of processes.
    pub cpu_us: BTreeMap<String, f64>,
    /// Latencies.
    pub latency: Latency,
    /// The generator's own cost.
    pub generator: Generator,
    /// The server's requests for acknowledgements per 1,000 operations.
    pub requests_per_1000: f64,
    /// Mean size of a delivery in bytes of XML.
    pub delivery_bytes: f64,
    /// Memory by group, in the idle scenario.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub memory: BTreeMap<String, Memory>,
    /// The figures of the overload scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,
}

/// The result of a load beyond the capacity of the server.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Overload {
    /// The capacity, measured before: deliveries a second in a closed loop.
    pub capacity_per_second: f64,
    /// Messages a second that were due.
    pub offered_per_second: f64,
    /// Of these, messages that were not sent because the session's connection took no more bytes.
    pub skipped_per_second: f64,
    /// Sessions whose connection was closed.
    pub cut: u64,
    /// Messages that were sent and did not arrive within a minute after the last.
    pub missing: u64,
    /// Leases that processes lost; none for a server without leases.
    pub leases_lost: Option<u64>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Largest.
    pub max_us: f64,
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Self {
        Self {
            p50_us: histogram.quantile_us(0.5),
            p99_us: histogram.quantile_us(0.99),
            max_us: histogram.max_us(),
        }
    }
}

/// The generator's own use of the machine.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Generator {
    /// Cores in use during the measurement.
    pub cores: f64,
    /// Processor time per operation in microseconds.
    pub cpu_us: f64,
    /// Context switches per operation.
    pub switches: f64,
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Before the first session.
    pub before: u64,
    /// With all sessions.
    pub with_sessions: u64,
    /// After the last session has left.
    pub after: u64,
    /// Growth per session.
    pub per_session: f64,
    /// The part of it that was not freed.
    pub kept_per_session: f64,
}

/// Processor time at the start of a measurement.
#[derive(Debug, Clone)]
pub struct Start {
    /// Of the servers.
    pub usage: Usage,
    /// Of this process.
    pub own: Own,
}

impl Start {
    /// Fills the fields that are differences to the start.
    #[must_use]
    pub fn outcome(&self, end: &Self, unit: &str, operations: u64, wall_s: f64) -> Outcome {
        let per = 1e6 / operations.max(1) as f64;
        let cpu_us = end
            .usage
            .cpu
            .iter()
            .map(|(group, cpu)| {
                let before = self.usage.cpu.get(group).copied().unwrap_or(0.0);
                (group.clone(), (cpu - before) * per)
            })
            .collect();
        let own = end.own.cpu - self.own.cpu;
        let switches = end.own.switches.saturating_sub(self.own.switches);
        Outcome {
            server: String::new(),
            scenario: String::new(),
            unit: unit.to_owned(),
            operations,
            wall_s,
            per_second: operations as f64 / wall_s.max(1e-9),
            cpu_us,
            latency: Latency::default(),
            generator: Generator {
                cores: own / wall_s.max(1e-9),
                cpu_us: own * per,
                switches: switches as f64 / operations.max(1) as f64,
            },
            requests_per_1000: 0.0,
            delivery_bytes: 0.0,
            memory: BTreeMap::new(),
            overload: None,
        }
    }
}
