//! One process.
//!
//! - [`process`]: the common part of all roles: telemetry, signals, readiness, the admin socket
//! - [`cell`]: the router that runs now; it may be replaced after its lease was lost
//! - [`embedded`]: all tiers in one process; [`lock`]: its data directory has one user
//! - [`replicas`]: the state that a single process saves for its next start
//! - [`edge`], [`router`], [`storage`]: one tier each
//! - [`welcome`]: the lines that are printed at the start

pub mod cell;
pub mod edge;
pub mod embedded;
pub mod lock;
pub mod process;
mod replicas;
pub mod router;
pub mod storage;
pub mod welcome;
