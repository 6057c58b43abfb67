//! `cargo xtask`: the project's own tools.
//!
//! - [`mod@test`]: all tests, with the servers they need
//! - [`tidy`]: checks of the tree beyond those of the compiler and clippy
//! - [`docs`]: the pages that are generated from the code
//! - [`fuzz`]: the fuzz targets, for a short time
//! - [`cluster`]: a trial cluster on this machine
//! - [`chaos`]: faults under load, and their cost; processes of another revision beside this one's
//! - [`mod@bench`]: the benchmark, side by side with other servers
//! - [`sim`]: seeds of the simulation of a cluster
//! - [`interop`]: clients of other projects against a running server
//! - [`fleet`], [`child`], [`proxy`], [`sestina`], [`repo`]: shared parts
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

mod bench;
mod chaos;
mod child;
mod cluster;
mod docs;
mod fleet;
mod fuzz;
mod interop;
mod proxy;
mod repo;
mod rng;
mod sestina;
mod sim;
mod test;
mod tidy;
mod xeps;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tools")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs all tests; installs PostgreSQL and Redis if they are missing (Debian, Ubuntu).
    Test(test::Options),
    /// Checks file lengths, headers, crate arrows, banned dependencies and generated pages.
    Tidy,
    /// Writes the generated pages again: docs/config.md and docs/xeps.md.
    Docs,
    /// Runs all fuzz targets.
    Fuzz(fuzz::Options),
    /// Runs seeds of the simulation of a cluster (tests/sim).
    Sim(sim::Options),
    /// Logs clients of other projects in to a server started for them.
    Interop,
    /// Runs a cluster on this machine with the settings of docker-compose.yml, until Ctrl-C.
    Cluster(cluster::Options),
    /// Injects faults into a cluster under load and checks that nothing is lost.
    Chaos(chaos::Options),
    /// Upgrades a cluster of another revision to this tree and downgrades it, under load; for
    /// releases.
    Versions(chaos::upgrade::Options),
    /// Measures this server beside Prosody, ejabberd and bare TLS servers.
    Bench(bench::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Test(options) => test::run(&options),
        Command::Tidy => tidy::run(),
        Command::Docs => docs::write(),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Sim(options) => sim::run(&options),
        Command::Interop => interop::run(),
        Command::Cluster(options) => cluster::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        Command::Versions(options) => chaos::upgrade::run(&options),
        Command::Bench(options) => bench::run(&options),
    }
}
