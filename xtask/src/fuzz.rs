//! `cargo xtask fuzz`: all fuzz targets under libFuzzer, each for a short time.
//!
//! The programs are built with the stable toolchain: coverage counters and traces of comparisons
//! are passes of the compiler. No sanitizer is used, because the code has no `unsafe`. New inputs
//! that a run found stay in the target folder and are the start of the next run; `fuzz/corpus`
//! holds the committed inputs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::repo;

/// The variable that selects the target.
const TARGET: &str = "SESTINA_FUZZ_TARGET";

/// Coverage in the form that libFuzzer uses.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// The files of `fuzz/dictionaries` and the targets that use them.
const DICTIONARIES: [(&[&str], &str); 8] = [
    (&["stream", "websocket", "element"], "xml"),
    (&["archive_query", "data_form"], "forms"),
    (&["frames", "proxy_protocol", "websocket_frames"], "bytes"),
    (&["sm_id", "redis_object"], "token"),
    (&["date_time"], "date"),
    (&["http_query"], "query"),
    (&["jid"], "jid"),
    (&["sasl"], "sasl"),
];

/// Longest input, in bytes.
const LONGEST: usize = 4096;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The seed of libFuzzer's random generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// Run this input once, as a failure names it, without fuzzing.
    #[arg(long, requires = "target", value_name = "FILE")]
    input: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !repo::have_or_install("c++", &["g++"]) {
        bail!("libFuzzer is C++; install a C++ compiler (Debian: g++)");
    }
    let fuzz = repo::root().join("fuzz");
    let mut targets = Vec::new();
    for entry in fs::read_dir(fuzz.join("corpus"))? {
        targets.push(entry?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    if let Some(only) = &options.target {
        if !targets.contains(only) {
            bail!(
                "there is no target {only}; there are {}",
                targets.join(", ")
            );
        }
        targets.retain(|target| target == only);
    }
    let folder = repo::target()?.join("fuzz");
    let program = build(&folder)?;
    for target in &targets {
        one(options, &program, &folder, &fuzz, target)?;
    }
    println!("fuzzing: {} targets, nothing found", targets.len());
    Ok(())
}

/// Builds the program in a folder of its own: other flags make cargo rebuild all crates.
fn build(folder: &Path) -> Result<std::path::PathBuf> {
    let host = repo::capture(std::process::Command::new("rustc").arg("-vV"))?;
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not say for which machine it is")?;
    repo::run(
        repo::cargo()
            .args(["build", "--release", "--locked"])
            .args(["--package", "sestina-libfuzzer"])
            // If a target is named, build scripts and macros are built without the flags.
            .args(["--target", host])
            .arg("--target-dir")
            .arg(folder)
            .env("RUSTFLAGS", FLAGS.join(" ")),
    )?;
    Ok(folder.join(host).join("release").join("sestina-libfuzzer"))
}

fn one(options: &Options, program: &Path, folder: &Path, fuzz: &Path, target: &str) -> Result<()> {
    let mut command = std::process::Command::new(program);
    command.env(TARGET, target);
    if let Some(input) = &options.input {
        return repo::run(command.arg(input));
    }
    let found = folder.join("found").join(target);
    let artifacts = fuzz.join("artifacts").join(target);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    println!("fuzzing {target}");
    let ended = repo::run(
        command
            .arg(format!("-max_total_time={}", options.seconds))
            .arg(format!("-seed={}", options.seed))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-timeout=10")
            .arg("-print_final_stats=1")
            .arg("-verbosity=0")
            .args(dictionary(fuzz, target))
            .arg(&found)
            .arg(fuzz.join("corpus").join(target)),
    );
    ended.with_context(|| {
        format!(
            "the target {target} failed; the input is in {}. Once more: cargo xtask fuzz --target {target} --input FILE",
            artifacts.display()
        )
    })
}

/// The tokens for the inputs of a target.
fn dictionary(fuzz: &Path, target: &str) -> Option<String> {
    let (_, name) = DICTIONARIES.iter().find(|(of, _)| of.contains(&target))?;
    let file = fuzz.join("dictionaries").join(format!("{name}.dict"));
    Some(format!("-dict={}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_a_dictionary_that_exists() {
        let fuzz = repo::root().join("fuzz");
        for entry in fs::read_dir(fuzz.join("corpus")).expect("there is a corpus") {
            let target = entry.expect("it can be read").file_name();
            let target = target.to_string_lossy();
            let argument = dictionary(&fuzz, &target).expect("it has a dictionary");
            assert!(Path::new(&argument["-dict=".len()..]).exists(), "{target}");
        }
    }
}
