//! The router tier: sessions, presence, messages, rooms; routing, ownership, failover.
//!
//! - [`worker`]: the state machines that own slots; no I/O in there
//! - [`room`]: rooms; [`modules`]: the features, one file each; [`hooks`]: how they plug in
//! - [`process`]: what a router process does around its workers: lanes, jobs, leases, the table
//! - [`config`], [`admin`]: what it is told, what it tells
//! - `simulation`: workers without a process, for `tests/sim`

// What is public inside is so for the simulation alone.
#![cfg_attr(not(feature = "simulation"), allow(unreachable_pub))]

pub mod admin;
mod chance;
pub mod config;
pub mod hooks;
mod metrics;
pub mod modules;
mod process;
mod room;
#[cfg(feature = "simulation")]
pub mod simulation;
mod worker;

pub use process::{Router, RouterDeps, RouterEnd, StartError};
