//! A simulation of a whole cluster around the real workers: one thread, one seed, one order of
//! events.
//!
//! The workers of routers are the real ones, driven turn by turn, and edges hold their sessions with the
//! real code of the edge (`sestina_edge::attachment`). The stores, the clients and the network are models
//! that keep the contracts of what they stand for. The simulation goes on in steps. Each step is one of
//! the acts that are possible then, chosen by the seed: a frame arrives, a worker has a turn, a store
//! answers, a client connects. Faults happen one at a time. When all faults are over and the cluster is at
//! rest, `check` tells what is wrong.
//!
//! Runs:
//! - [`seeds`]: many seeds on many threads
//! - [`scenarios`], [`scripts`], [`hoard`]: runs with given faults, in a given order, or with a client that
//!   never reads
//! - `rounds`, `redundant`: what happens in the run of a seed
//!
//! The cluster:
//! - `world`: everything that exists; `setup`: what exists at the beginning; `processes`: routers and edges
//!   start and die
//! - `acts`, `steps`: what is possible next, and doing it
//! - `host`: a router process; `jobs`: its requests to the stores; `planner`: it takes slots from dead
//!   routers
//! - `edge`: an edge process; `socket`, `elements`: its connections to clients
//! - `client`, `heard`: a client, and what it has been told of others; `talk`: what clients send
//! - `net`, `wires`, `frames`: connections, how they are opened, and what arrives on them
//! - `stores`, `commits`: storage; `state_store`: the state store
//! - `lease`: leases of processes, where they are renewed
//!
//! Faults:
//! - `faults`: all of them; `partition`: cuts of the network; `skew`: frames of later versions
//!
//! Judgement:
//! - `check`, `places`: what must hold; `trace`: the lines that are printed of a run
//!
//! `cargo xtask sim` runs it. `SESTINA_SIM_SEED=n` replays one seed with its trace,
//! `SESTINA_SIM_SEEDS=n` runs that many, `SESTINA_SIM_FIRST=n` begins with that one,
//! `SESTINA_SIM_ENOUGH=1` stops at the first that fails, and `SESTINA_SIM_NETWORK=true` takes faults of
//! the network and of leases.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

mod acts;
mod blocks;
mod cards;
mod check;
mod client;
mod commits;
mod edge;
mod elements;
mod faults;
mod frames;
mod heard;
pub mod hoard;
mod host;
mod jobs;
mod lease;
mod net;
mod partition;
mod places;
mod planner;
mod processes;
mod redundant;
mod rng;
mod rounds;
pub mod scenarios;
pub mod scripts;
pub mod seeds;
mod setup;
mod skew;
mod socket;
mod state_store;
mod steps;
mod stores;
mod talk;
mod trace;
mod wires;
mod world;
