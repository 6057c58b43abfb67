//! `sestina-fuzz --target NAME|all --seconds N --seed S`, or `--input FILE` to run one input.
//!
//! The inputs depend on the seed alone. The first one that makes a target panic is written to
//! `fuzz/artifacts/`, and the exit code is 1.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use std::panic;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sestina_fuzz::mutate::{Rng, mutate};
use sestina_fuzz::{TARGETS, Target, corpus};

/// What is being run, for the panic hook: a release build aborts without unwinding.
static CURRENT: Mutex<Option<(&str, Vec<u8>)>> = Mutex::new(None);

struct Options {
    targets: Vec<Target>,
    seconds: u64,
    seed: u64,
    input: Option<String>,
}

fn options() -> Result<Options> {
    let mut options = Options {
        targets: TARGETS.to_vec(),
        seconds: 10,
        seed: 1,
        input: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--target" if value == "all" => {}
            "--target" => {
                options.targets.retain(|target| target.name == value);
                if options.targets.is_empty() {
                    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                    bail!("there is no target {value}; there are {}", names.join(", "));
                }
            }
            "--seconds" => options.seconds = value.parse().context("--seconds needs a number")?,
            "--seed" => options.seed = value.parse().context("--seed needs a number")?,
            "--input" => options.input = Some(value),
            _ => bail!("unknown flag {flag}; use --target, --seconds, --seed or --input"),
        }
    }
    Ok(options)
}

fn run(target: &Target, data: Vec<u8>) {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, data) = &*current.insert((target.name, data));
    let data = data.clone();
    drop(current);
    (target.run)(&data);
}

fn fuzz(target: &Target, time: Duration, seed: u64) -> Result<()> {
    let corpus = corpus::load(target.name)?;
    for input in &corpus {
        run(target, input.clone());
    }
    let mut rng = Rng::new(seed);
    let mut executions = corpus.len();
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..64 {
            run(target, mutate(&mut rng, &corpus, target.dictionary));
        }
        executions += 64;
    }
    println!("{}: {executions} executions, nothing found", target.name);
    Ok(())
}

fn main() -> Result<()> {
    let options = options()?;
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        let current = CURRENT.lock().map(|mut current| current.take());
        if let Ok(Some((target, data))) = current {
            eprintln!("{target} failed with {:?}", String::from_utf8_lossy(&data));
            match corpus::keep(target, &data) {
                Ok(path) => eprintln!("the input is in {}", path.display()),
                Err(error) => eprintln!("the input could not be kept: {error:#}"),
            }
        }
        std::process::exit(1);
    }));
    if let Some(path) = &options.input {
        let data = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
        for target in &options.targets {
            run(target, data.clone());
        }
        return Ok(());
    }
    let share = Duration::from_secs(options.seconds) / options.targets.len() as u32;
    for target in &options.targets {
        fuzz(target, share, options.seed)?;
    }
    Ok(())
}
