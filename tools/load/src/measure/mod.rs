//! Measuring: processor time and memory of processes, and latencies.

pub mod histogram;
pub mod process;
