//! The simulation as a program: `cargo xtask sim`.

#![allow(clippy::print_stdout)]

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use sestina_sim::seeds::{self, GUARDS, Plan};

/// Runs seeds of the simulation of a cluster.
#[derive(Debug, Parser)]
#[command(name = "sestina-sim")]
struct Options {
    /// How many seeds to run.
    #[arg(long, env = "SESTINA_SIM_SEEDS", default_value_t = seeds::SEEDS)]
    seeds: u64,
    /// The first seed.
    #[arg(long, env = "SESTINA_SIM_FIRST", default_value_t = 0)]
    first: u64,
    /// Runs this seed only, and prints its trace.
    #[arg(long, env = "SESTINA_SIM_SEED")]
    seed: Option<u64>,
    /// Stops at the first seed that fails.
    #[arg(long)]
    enough: bool,
    /// Switches each guard off in turn, and runs seeds until one fails; if none does, that is an error.
    #[arg(long)]
    guards: bool,
    /// Takes faults of the network and of leases instead of the others.
    #[arg(long, env = "SESTINA_SIM_NETWORK")]
    network: bool,
    /// How many threads; 0: one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

fn main() -> Result<ExitCode> {
    sestina_runtime::faults_from_env()?;
    let options = Options::parse();
    if let Some(seed) = options.seed {
        return Ok(replay(seed, options.network));
    }
    if options.guards {
        return guards(&options);
    }
    let began = Instant::now();
    let failed = seeds::failing(&Plan {
        first: options.first,
        seeds: options.seeds,
        enough: options.enough || std::env::var_os("SESTINA_SIM_ENOUGH").is_some(),
        threads: options.threads,
        network: options.network,
    });
    println!(
        "{} seeds from {} in {:.1} s",
        options.seeds,
        options.first,
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let failed: Vec<u64> = failed.into_iter().map(|(seed, _)| seed).collect();
    println!("these seeds fail; replay one with --seed: {failed:?}");
    Ok(ExitCode::FAILURE)
}

/// Runs one seed, and prints its trace and what is wrong with it.
fn replay(seed: u64, network: bool) -> ExitCode {
    let wrong = seeds::replay(seed, network);
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("seed {seed}: {}", wrong.join("\n    "));
    ExitCode::FAILURE
}

/// Runs this program once for each guard, with that guard switched off: a guard can only be switched off
/// for a whole process.
fn guards(options: &Options) -> Result<ExitCode> {
    let mut missed = ExitCode::SUCCESS;
    let program = std::env::current_exe().context("this program has no path")?;
    for guard in GUARDS {
        let began = Instant::now();
        let output = Command::new(&program)
            .args(["--enough", "--seeds", &options.seeds.to_string()])
            .args(["--first", &options.first.to_string()])
            .args(["--threads", &options.threads.to_string()])
            .env(sestina_runtime::mutation::ENV, guard)
            .env_remove("SESTINA_SIM_SEED")
            .output()
            .context("this program does not start again")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let took = began.elapsed().as_secs_f64();
        if !output.status.success() && text.contains("these seeds fail") {
            println!("without the guard {guard} a seed fails ({took:.1} s)");
        } else {
            println!("no seed fails without the guard {guard} ({took:.1} s): {text}");
            missed = ExitCode::FAILURE;
        }
    }
    Ok(missed)
}
