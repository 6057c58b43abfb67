//! `cargo xtask fuzz`: all fuzz targets, for a short time.

use anyhow::Result;

use crate::repo;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The inputs depend on this alone.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    repo::run(
        repo::cargo()
            .args([
                "run",
                "--release",
                "--locked",
                "--package",
                "sestina-fuzz",
                "--",
            ])
            .args(["--target", "all"])
            .args(["--seconds", &options.seconds.to_string()])
            .args(["--seed", &options.seed.to_string()]),
    )
}
