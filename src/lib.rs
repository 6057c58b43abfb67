//! Sestina, composed: the only crate that uses all three tiers.
//!
//! - [`compose`]: derives the settings of each tier from the configuration
//! - [`direct`]: lanes by direct calls between edge and router, router and router
//! - [`metrics`]: the counts of tiers and stores as metrics
//! - [`serve`]: one process: all tiers, or one of them
//! - [`admin`]: the administrator's commands, as performed by a server process
//! - [`cli`]: the command line

pub mod admin;
pub mod cli;
pub mod compose;
pub mod direct;
pub mod metrics;
pub mod serve;
