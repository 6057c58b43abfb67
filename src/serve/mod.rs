//! One process at work.
//!
//! - [`process`]: what all kinds have in common: telemetry, signals, readiness, the admin socket
//! - [`cell`]: the router that is at work now; it may be replaced when its lease was lost
//! - [`embedded`]: all tiers in one process; [`lock`]: its data directory has one user
//! - [`replicas`]: what one process leaves to its next start
//! - [`edge`], [`router`], [`storage`]: one tier each
//! - [`welcome`]: what is said at the start

pub mod cell;
pub mod edge;
pub mod embedded;
pub mod lock;
pub mod process;
mod replicas;
pub mod router;
pub mod storage;
pub mod welcome;
