//! Faults at chosen points of real processes, and the promises that hold in spite of them.
//!
//! - [`process`]: one process of the `sestina` binary, killed, suspended and restarted
//! - [`cluster`]: three tiers of such processes with real Redis and PostgreSQL; [`alone`]: one process
//! - [`certificates`]: certificates of its processes, and of others
//! - [`throttle`]: a process that gets a part of a core
//! - [`client`]: a client that resumes on another edge by itself (XEP-0198)
//! - [`crowd`]: clients that talk while a test does other work
//! - [`clock`]: a process's time of day, which a test can change
//! - [`world`]: the users, their sessions and rooms, chosen by the owners of their slots
//! - [`deeds`]: the actions of clients while a fault strikes, each with its own check
//! - [`fault`]: one fault at one point during one action
//! - [`link`]: a network between routers and Redis that is late
//! - [`matrix`]: the faults of a run
//!
//! All processes of a cluster live as long as the test: killed processes are restarted, and the
//! next fault waits until the cluster is redundant.

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
