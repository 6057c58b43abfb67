//! `cargo xtask sim`: seeds of the simulation of a cluster.

use anyhow::Result;

use crate::repo;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many seeds [default: 160].
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them [default: 0].
    #[arg(long)]
    first: Option<u64>,
    /// One seed, with its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed that fails is enough.
    #[arg(long)]
    enough: bool,
    /// Each guard is switched off in turn, until the first seed that fails; none is an error.
    #[arg(long)]
    guards: bool,
    /// Faults of the network and of leases instead of the others.
    #[arg(long)]
    network: bool,
    /// Threads [default: one for each core].
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = repo::cargo();
    command.args(["run", "--locked", "--package", "sestina-sim", "--"]);
    let numbers = [
        ("--seeds", options.seeds),
        ("--first", options.first),
        ("--seed", options.seed),
        ("--threads", options.threads.map(|threads| threads as u64)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    let flags = [
        ("--enough", options.enough),
        ("--guards", options.guards),
        ("--network", options.network),
    ];
    command.args(flags.iter().filter(|flag| flag.1).map(|flag| flag.0));
    repo::run(&mut command)
}
