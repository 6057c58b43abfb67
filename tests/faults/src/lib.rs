//! Faults at chosen places of real processes, and what is promised in spite of them.
//!
//! - [`process`]: one process of the `sestina` binary, killed, suspended and started again
//! - [`cluster`]: three tiers of such processes with real Redis and PostgreSQL; [`alone`]: one process
//! - [`certificates`]: certificates of its processes, and of others
//! - [`throttle`]: a process that gets a part of a core
//! - [`client`]: a client that comes back on another edge by itself (XEP-0198)
//! - [`crowd`]: clients that talk while something else happens
//! - [`clock`]: a process's time of day, which a test can change
//! - [`world`]: the people, their sessions and rooms, chosen by who owns their slots
//! - [`deeds`]: what people do while a fault strikes, each with its own check
//! - [`fault`]: one fault at one point during one deed
//! - [`link`]: a network between routers and Redis that is late
//! - [`matrix`]: which faults are run
//!
//! All processes of a cluster live as long as the test: what a fault broke is started again, and
//! the next fault waits until the cluster is whole.

// The futures of the client are large, and live on the heap of a test.
#![allow(clippy::large_futures)]

pub mod alone;
pub mod certificates;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod crowd;
pub mod deeds;
pub mod fault;
pub mod link;
pub mod matrix;
pub mod process;
pub mod redis;
mod settings;
pub mod throttle;
pub mod wait;
pub mod world;
