//! The router tier: sessions, presence, messages, rooms; routing, ownership, failover.
//!
//! - [`worker`]: the state machines that own slots; no I/O in there
//! - [`domain`]: what an XMPP server decides, as pure types: rooms so far
//! - [`room`]: rooms with their events, in the slots that own them
//! - [`modules`]: the features, one file each; [`hooks`]: how they plug in
//! - [`process`]: what a router process does around its workers: lanes, jobs, leases, the table
//! - [`services`]: the domains of the cluster; [`config`]: its settings; [`admin`]: its
//!   answers to administrators
//! - `simulation`: workers without a process, for `tests/sim`

// Items inside are public for the simulation alone.
#![cfg_attr(not(feature = "simulation"), allow(unreachable_pub))]

pub mod admin;
pub mod config;
mod domain;
pub mod hooks;
mod metrics;
pub mod modules;
mod process;
mod rng;
mod room;
pub mod services;
#[cfg(feature = "simulation")]
pub mod simulation;
mod worker;

pub use process::{Router, RouterDeps, RouterEnd, StartError};
