//! `cargo xtask test`: all tests, with the servers they need.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use sestina_testkit::{POSTGRES_VARIABLE, Postgres, PostgresOptions, REDIS_VARIABLE, Redis};

use crate::{interop, repo};

/// The scenarios write here how many of them ran: a file for each topology, with a number in each
/// line.
const COUNTS: &str = "sestina-scenarios";

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave out the clients of other projects (they need Python and Node).
    #[arg(long)]
    no_interop: bool,
    /// Passed on to `cargo test`, as in `cargo xtask test -- -p sestina-router`.
    #[arg(last = true)]
    cargo: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    sestina_testkit::ensure_installed()?;
    let servers = Servers::start()?;
    let counts = repo::target()?.join(COUNTS);
    if counts.exists() {
        fs::remove_dir_all(&counts)?;
    }
    fs::create_dir_all(&counts)?;
    let tests = cargo_test(&servers, options)?;
    let mut scenarios = tests.scenarios.clone();
    for (topology, count) in read_counts(&counts)? {
        // The files count all scenarios, also those whose output cargo hides because they passed.
        scenarios.insert(topology, count);
    }
    drop(servers);
    let clients = if options.no_interop {
        None
    } else {
        Some(interop::run_clients()?)
    };
    println!();
    for (topology, count) in &scenarios {
        println!("topology={topology} scenarios={count}");
    }
    if let Some(checks) = clients {
        println!("clients of other projects: {checks} checks passed");
    }
    println!(
        "test result: {}. {} passed; {} failed; {} ignored in {} test programs",
        if tests.succeeded { "ok" } else { "FAILED" },
        tests.passed,
        tests.failed,
        tests.ignored,
        tests.programs
    );
    if !tests.succeeded {
        bail!("tests failed");
    }
    if options.cargo.is_empty() && scenarios.len() < 3 {
        bail!(
            "scenarios ran in {} topologies instead of three",
            scenarios.len()
        );
    }
    Ok(())
}

/// One Redis and one PostgreSQL for the whole run: those that the environment names, or private
/// ones on free loopback ports, in temporary folders.
struct Servers {
    redis: Option<Redis>,
    postgres: Option<Postgres>,
}

impl Servers {
    fn start() -> Result<Servers> {
        let redis = match std::env::var(REDIS_VARIABLE) {
            Ok(_) => None,
            Err(_) => Some(Redis::start_own()?),
        };
        let postgres = match std::env::var(POSTGRES_VARIABLE) {
            Ok(_) => None,
            // The machine does not fail during these tests, so the data need not reach the disk;
            // tests that kill a server start one of their own.
            Err(_) => Some(Postgres::start_own(&PostgresOptions {
                fsync: false,
                settings: vec![("max_connections".to_owned(), "400".to_owned())],
            })?),
        };
        Ok(Servers { redis, postgres })
    }

    fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let redis = self
            .redis
            .as_ref()
            .map(|redis| (REDIS_VARIABLE, redis.url()));
        let postgres = self.postgres.as_ref().map(|p| (POSTGRES_VARIABLE, p.url()));
        redis.into_iter().chain(postgres)
    }
}

/// The sum of the results of the test programs.
#[derive(Debug, Default)]
struct Tests {
    succeeded: bool,
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    scenarios: BTreeMap<String, u64>,
}

impl Tests {
    /// Counts one line of output.
    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.programs += 1;
            for (count, word) in rest
                .split([';', '.'])
                .filter_map(|part| part.trim().split_once(' '))
            {
                let Ok(count) = count.parse::<u64>() else {
                    continue;
                };
                match word {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.ignored += count,
                    _ => {}
                }
            }
        } else if let Some((topology, count)) = scenario_count(line) {
            *self.scenarios.entry(topology).or_default() += count;
        }
    }
}

/// `topology=<name> scenarios=<count>`, anywhere in a line.
fn scenario_count(line: &str) -> Option<(String, u64)> {
    let value = |key: &str| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix(key))
    };
    let count = value("scenarios=")?.parse().ok()?;
    Some((value("topology=")?.to_owned(), count))
}

fn cargo_test(servers: &Servers, options: &Options) -> Result<Tests> {
    let mut command = repo::cargo();
    command.args(["test", "--locked"]);
    if options.cargo.is_empty() {
        command.args(["--workspace", "--no-fail-fast"]);
    }
    command.args(&options.cargo);
    for (name, value) in servers.variables() {
        command.env(name, value);
    }
    command.env("SESTINA_SCENARIO_COUNTS", repo::target()?.join(COUNTS));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut tests = Tests::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tests.line(&line);
    }
    tests.succeeded = child.wait()?.success();
    Ok(tests)
}

/// Sums the files `<topology>.count`.
fn read_counts(folder: &std::path::Path) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "count") {
            continue;
        }
        let topology = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(&path)?;
        let counts: Vec<u64> = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} does not hold numbers", path.display()))?;
        found.insert(topology.into_owned(), counts.iter().sum());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn closing_lines_are_summed() {
        let mut tests = Tests::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; finished in 1.50s",
            "topology=wire scenarios=12",
            "topology=wire scenarios=3",
        ] {
            tests.line(line);
        }
        let counts = (tests.programs, tests.passed, tests.failed, tests.ignored);
        assert_eq!(counts, (2, 8, 2, 1));
        assert_eq!(tests.scenarios["wire"], 15);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("embedded.count"), "4\n5\n").unwrap();
        fs::write(folder.path().join("embedded.log"), "x").unwrap();
        let read = read_counts(folder.path()).unwrap();
        assert_eq!(
            read.into_iter().collect::<Vec<_>>(),
            [("embedded".to_owned(), 9)]
        );
    }
}
