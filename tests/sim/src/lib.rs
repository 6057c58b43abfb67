//! A simulation of a whole cluster around the real workers: one thread, one seed, one order of
//! events.
//!
//! Routers are the workers themselves, driven turn by turn; edges hold their sessions with the code
//! of the edge (`sestina_edge::attachment`); stores, clients and the network are models that keep
//! their contracts to the letter. Every step is one of the things that could
//! happen next, chosen by the seed: a frame arrives, a worker turns, a commit answers, a client
//! speaks. Faults come one at a time; when the cluster is whole again and at rest, `check` says
//! what is wrong.
//!
//! - [`seeds`]: many seeds on many threads; [`scenarios`]: runs with a fault of their own; [`scripts`]:
//!   faults in an order that is written down
//! - `world`: what there is; `acts`, `steps`: what may happen next, and that it does; `faults`:
//!   what goes wrong; `talk`: what clients do
//! - `host`: a router process; `jobs`: what it asks of stores; `edge`, `socket`: an edge process; `client`, `heard`, `stores`, `state_store`,
//!   `net`: the models
//! - `partition`: what the network does not let through; `lease`: who has a lease; `planner`: who
//!   claims slots of the dead
//! - `skew`: frames of versions to come
//! - `whole`: a death when the cluster says that it can bear one
//! - [`hoard`]: a client that takes all that it may, and harms nobody
//! - `check`: what must hold; `places`: who is in which room, to all concerned; `trace`: what is printed of a run that failed
//!
//! `cargo xtask sim` runs it. `SESTINA_SIM_SEED=n` replays one seed with its trace,
//! `SESTINA_SIM_SEEDS=n` runs that many, `SESTINA_SIM_FIRST=n` from that one on,
//! `SESTINA_SIM_ENOUGH=1` up to the first that fails, `SESTINA_SIM_NETWORK=true` with faults of the
//! network and of leases.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation
)]

mod acts;
mod check;
mod client;
mod commits;
mod edge;
mod faults;
mod heard;
pub mod hoard;
mod host;
mod jobs;
mod lease;
mod net;
mod partition;
mod places;
mod planner;
mod rng;
pub mod scenarios;
pub mod scripts;
pub mod seeds;
mod skew;
mod socket;
mod state_store;
mod steps;
mod stores;
mod talk;
mod trace;
mod whole;
mod wires;
mod world;

pub use faults::run;
