//! `cargo xtask fuzz`: all fuzz targets under libFuzzer, each for a short time.
//!
//! The programs are built with the stable toolchain: counters of coverage and traces of comparisons are
//! passes of the compiler, and no sanitizer is used, because there is no `unsafe` here. What a run found
//! new stays in the target folder and is the start of the next one; `fuzz/corpus` is what is committed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::repo;

/// Tells the program which target to run.
const TARGET: &str = "SESTINA_FUZZ_TARGET";

/// Coverage as libFuzzer wants it.
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

/// Which targets use which file of `fuzz/dictionaries`.
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
    /// The first number of libFuzzer's generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// Run this input once, as a failure names it, and find nothing new.
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

/// Builds the program in a folder of its own: with other flags everything is built anew.
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
            // With a target named, build scripts and macros are built without the flags.
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

/// The tokens from which inputs of a target are made.
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
