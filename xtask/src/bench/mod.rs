//! `cargo xtask bench`: this server beside Prosody, ejabberd and bare TLS servers, in one run.
//!
//! The load generator (`sestina-load bench-all`) interleaves the servers and takes medians; this
//! tool starts the servers, passes their addresses, and writes docs/benchmarks.md. Scenarios that
//! leave thousands of sessions behind have servers of their own: some servers keep the sessions for
//! minutes.
//!
//! - [`ours`]: one process, and three tiers; [`prosody`], [`ejabberd`]: from Debian
//! - [`plan`]: the scenarios; [`page`]: docs/benchmarks.md

mod ejabberd;
mod ours;
mod page;
mod plan;
mod prosody;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::child::Process;
use crate::repo;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Runs of each scenario at each server; medians are reported.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only scenarios whose name contains this.
    #[arg(long)]
    scenario: Option<String>,
    /// Only this server, without Prosody and ejabberd.
    #[arg(long)]
    ours: bool,
    /// The `sestina` program of another version, measured beside this one in the same run. Build
    /// it with the same profile.
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// Use programs of the profile `release`, which build faster and run slower; do not write
    /// docs/benchmarks.md.
    #[arg(long)]
    release: bool,
    /// Do not write docs/benchmarks.md.
    #[arg(long)]
    dry: bool,
}

/// A server that is measured: its entry in the generator's plan, and the owner of its processes.
struct Measured {
    spec: Value,
    _alive: Box<dyn std::any::Any>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    sestina_testkit::ensure_installed()?;
    let build = match options.release {
        true => repo::build_release,
        false => repo::build_dist,
    };
    let programs = build(&["sestina", "sestina-load"])?;
    let folder = repo::target()?.join("bench");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let scenarios = plan::scenarios(options);
    ensure!(!scenarios.is_empty(), "no scenario has such a name");
    let mut tables = Vec::new();
    let mut missing = Vec::new();
    for (number, group) in plan::groups(&scenarios).into_iter().enumerate() {
        let folder = folder.join(number.to_string());
        std::fs::create_dir_all(&folder)?;
        tables.push(measure(options, &programs, &folder, &group, &mut missing)?);
    }
    for package in &missing {
        println!("{package} cannot be had here and was not measured");
    }
    if !options.dry && !options.release {
        page::write(options, &tables, &missing)?;
    }
    println!("outcomes of all runs: {}", folder.display());
    Ok(())
}

/// Measures some scenarios at newly started servers; returns the tables.
fn measure(
    options: &Options,
    programs: &Path,
    folder: &Path,
    scenarios: &[Value],
    missing: &mut Vec<&'static str>,
) -> Result<String> {
    let archive = scenarios.iter().any(plan::needs_archive);
    let mut servers = Vec::new();
    let this = ours::Version::this(programs);
    let before = options.before.as_deref().map(ours::Version::before);
    for version in std::iter::once(this).chain(before) {
        servers.push(version.embedded(folder, archive)?);
        servers.push(version.tiers(folder, archive)?);
    }
    if !options.ours && !archive {
        type Start = fn(&Path, &Path) -> Result<Measured>;
        let others: [(&str, &str, Start); 2] = [
            ("prosody", "prosody", prosody::start),
            ("ejabberd", "ejabberdctl", ejabberd::start),
        ];
        for (package, program, start) in others {
            if repo::have_or_install(program, &[package]) {
                servers.push(start(programs, folder)?);
            } else if !missing.contains(&package) {
                missing.push(package);
            }
        }
    }
    let specs: Vec<&Value> = servers.iter().map(|server| &server.spec).collect();
    let table = folder.join("table.md");
    let plan = plan::plan(options, &specs, scenarios, folder, &table);
    let path = folder.join("plan.json");
    std::fs::write(&path, serde_json::to_string_pretty(&plan)?)?;
    repo::run(
        Command::new(programs.join("sestina-load"))
            .arg("bench-all")
            .arg("--config")
            .arg(&path),
    )?;
    drop(servers);
    Ok(std::fs::read_to_string(table)?)
}

/// A server of another project: a process, and the folder that it runs in.
struct Other {
    _process: Process,
    _folder: tempfile::TempDir,
}

/// The entry of such a server in the plan: anonymous users log in over TLS, and there are rooms.
fn other(name: &str, port: u16, process: Process, folder: tempfile::TempDir) -> Measured {
    Measured {
        spec: json!({
            "name": name,
            "addresses": [format!("127.0.0.1:{port}")],
            "transport": "direct-tls",
            "domain": "localhost",
            "muc": "conference.localhost",
            "auth": {"mechanism": "ANONYMOUS"},
            "pids": {"server": [process.pid()]},
        }),
        _alive: Box::new(Other {
            _process: process,
            _folder: folder,
        }),
    }
}

/// A certificate for `localhost` (ECDSA P-256) in PEM, made by the server that is measured too.
fn certificate(programs: &Path, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let certs = folder.join("certs");
    let binary = programs.join("sestina");
    crate::sestina::issue_certificate(&binary, &certs, "localhost", "edge", &[])?;
    Ok((certs.join("localhost.pem"), certs.join("localhost.key")))
}
