//! Sestina, put together: the only place that knows all three tiers.
//!
//! - [`compose`]: the configuration mapped onto what each tier is told
//! - [`direct`]: edge and router, router and router, joined by direct calls
//! - [`metrics`]: what tiers and stores count, in the words of the telemetry
//! - [`serve`]: one process: all tiers, or one of them
//! - [`admin`]: the administrator's commands, as a process performs them
//! - [`cli`]: the command line

pub mod admin;
pub mod cli;
pub mod compose;
pub mod direct;
pub mod metrics;
pub mod serve;
