//! `cargo xtask sim`: seeds of the simulation of a cluster.

use anyhow::Result;

use crate::repo;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The number of seeds [default: 160].
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed [default: 0].
    #[arg(long)]
    first: Option<u64>,
    /// Run one seed and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Stop at the first seed that fails.
    #[arg(long)]
    enough: bool,
    /// Switch off each guard in turn, until the first seed that fails; it is an error if none does.
    #[arg(long)]
    guards: bool,
    /// Inject faults of the network and of leases instead of the others.
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
