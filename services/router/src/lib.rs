//! The router tier: sessions, presence, messages, rooms; routing, ownership, failover.
//!
//! - [`worker`]: the state machines that own slots; no I/O in there
//! - [`room`]: rooms; [`modules`]: the features, one file each; [`hooks`]: how they plug in
//! - [`process`]: what a router process does around its workers: lanes, jobs, leases, the table
//! - [`config`], [`admin`]: what it is told, what it tells

pub mod admin;
mod chance;
pub mod config;
pub mod hooks;
mod metrics;
pub mod modules;
mod process;
mod room;
#[cfg(test)]
mod sim;
mod worker;

pub use process::{Router, RouterDeps, RouterEnd, StartError};
