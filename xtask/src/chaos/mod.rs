//! `cargo xtask chaos`: faults under load, and their cost.
//!
//! Three edges, three routers, two storage processes, a real Redis and a real PostgreSQL;
//! `sestina-load chaos` writes numbered messages through them and checks each. The next fault waits
//! until the cluster is redundant again. A seed gives the same faults in the same order; the log is
//! kept under `target/chaos/<seed>`.
//!
//! Without options, proxies on loopback make the faults of the network: connections are cut or
//! freeze. With `--namespaces`, which needs root, each process has a network namespace of its own,
//! and the network between them fails: packets vanish, and no process is notified.
//!
//! - [`fault`]: the faults, and how a seed selects them; [`scene`]: the cluster that they affect
//! - [`partition`]: the faults that need namespaces
//! - [`upgrade`]: processes that are replaced by those of another revision: `cargo xtask versions`
//! - [`load`]: the dialogue with the load generator; [`report`]: the result

mod fault;
mod load;
mod partition;
mod report;
mod scene;
pub(crate) mod upgrade;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::fleet::{Links, network};
use crate::repo;
use crate::rng::Rng;
use fault::Fault;
use load::Load;
use report::{Incident, Report};
use scene::Scene;

/// The longest that a cluster may take to be redundant again.
const REDUNDANT: Duration = Duration::from_secs(90);

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long faults are injected.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Selects the faults. Without it: by the clock; it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Inject two faults at a time, more than the cluster promises to survive. Violations are only
    /// reported; the run fails only if the cluster does not become redundant again.
    #[arg(long)]
    overlap: bool,
    /// Sessions of the load.
    #[arg(long, default_value_t = 500)]
    sessions: usize,
    /// Messages per second of each session, on average.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Inject only faults whose name contains this, such as `router` or `kill`, or one of several
    /// such words separated by commas.
    #[arg(long)]
    only: Option<String>,
    /// Give each process a network namespace of its own, so that faults of the network are real:
    /// packets vanish, instead of proxies that cut and freeze connections. Needs root and iproute2,
    /// which is installed if it is missing (Debian, Ubuntu); in a container, `--privileged`.
    #[arg(long)]
    namespaces: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    sestina_testkit::ensure_installed()?;
    let links = if options.namespaces {
        network::check()?;
        Links::Namespaces
    } else {
        Links::Proxies
    };
    let programs = repo::build_release(&["sestina", "sestina-load"])?;
    let seed = options.seed.unwrap_or_else(clock_seed);
    let folder = folder(seed)?;
    println!("seed {seed}, log in {}", folder.display());
    fs::write(folder.join("seed"), format!("{seed}\n"))?;
    let mut scene = Scene::start(&programs, &folder, options.sessions, links)?;
    let wanted = load::Wanted {
        sessions: options.sessions,
        rate: options.rate,
        seed,
    };
    let mut load = Load::start(&programs, &folder, &scene, &wanted)?;
    let patience = Duration::from_secs(180) + Duration::from_millis(20) * options.sessions as u32;
    let ready = load.wait_for("ready", patience);
    ready.context("the sessions did not all log in")?;
    scene.fleet.wait_redundant(REDUNDANT)?;
    println!(
        "{} sessions are there, the cluster is redundant",
        options.sessions
    );
    let mut report = Report::default();
    inject(options, seed, &mut scene, &mut load, &mut report)?;
    let verdict = load.verify(Duration::from_secs(400))?;
    load.quit();
    let text = report.write(&folder, seed, &verdict)?;
    println!("{text}");
    let violations = report.violations(&verdict);
    scene.stop();
    if violations.is_empty() {
        println!("chaos: seed {seed}: nothing lost, nothing doubled, nothing reordered");
        return Ok(());
    }
    for violation in &violations {
        println!("violation: {violation}");
    }
    if options.overlap && report.came_back() {
        println!("chaos: seed {seed}: overlapping faults; the above is reported only");
        return Ok(());
    }
    bail!(
        "chaos: seed {seed}: {} violations; replay with --seed {seed}",
        violations.len()
    )
}

fn inject(
    options: &Options,
    seed: u64,
    scene: &mut Scene,
    load: &mut Load,
    report: &mut Report,
) -> Result<()> {
    let mut rng = Rng::new(seed);
    let mut order =
        fault::Order::new(options.only.as_deref(), options.seconds, options.namespaces)?;
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(rng.between(1500, 3500)));
        let mut faults = vec![order.next(&mut rng)];
        if options.overlap {
            faults.push(order.next(&mut rng));
        }
        let number = report.incidents.len() + 1;
        let names: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let label = format!("{number:02} {}", names.join(" and "));
        println!("{label}");
        let incident = strike(&label, &faults, scene, load, &mut rng)?;
        let came_back = incident.redundant_ms.is_some();
        report.incidents.push(incident);
        if !came_back {
            println!("the cluster did not become redundant again; no more faults");
            break;
        }
    }
    Ok(())
}

/// One fault, or two that overlap: begin, hold, end, wait until the cluster is redundant.
fn strike(
    label: &str,
    faults: &[Fault],
    scene: &mut Scene,
    load: &mut Load,
    rng: &mut Rng,
) -> Result<Incident> {
    load.mark(label)?;
    let touched: Vec<String> = faults
        .iter()
        .filter_map(|fault| fault.edge())
        .filter_map(|edge| scene.edge_address(edge))
        .collect();
    for edge in &touched {
        load.touch(edge, true)?;
    }
    let queries = scene.account_queries();
    let begun = Instant::now();
    for (number, fault) in faults.iter().enumerate() {
        if number > 0 {
            std::thread::sleep(Duration::from_millis(rng.between(100, 1500)));
        }
        fault.begin(scene, rng)?;
    }
    // The fault with the longest duration ends last.
    let mut ending: Vec<&Fault> = faults.iter().collect();
    ending.sort_by_key(|fault| fault.hold());
    let mut broken = Vec::new();
    for fault in ending {
        std::thread::sleep(fault.hold().saturating_sub(begun.elapsed()));
        broken.extend(fault.end(scene)?);
    }
    let ended = Instant::now();
    for fault in faults {
        broken.extend(fault.wait_renewed(scene)?);
    }
    let unexpected = scene.restart_what_ended()?;
    let redundant = scene.fleet.wait_redundant(REDUNDANT);
    if let Err(error) = &redundant {
        println!("{label}: {error:#}");
    }
    let redundant_ms = redundant.is_ok().then(|| millis(ended.elapsed()));
    let connected = load.wait_connected(Duration::from_secs(60));
    for edge in &touched {
        load.touch(edge, false)?;
    }
    if let Err(error) = &connected {
        println!("{label}: {error:#}");
    }
    let incident = Incident {
        label: label.to_owned(),
        kinds: faults.iter().map(Fault::kind).collect(),
        held_ms: millis(ended - begun),
        redundant_ms,
        connected: connected.is_ok(),
        unexpected,
        broken,
        queries: scene.account_queries().saturating_sub(queries),
        peak: scene.peak_memory(),
    };
    println!("  {}", incident.line());
    Ok(incident)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn clock_seed() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| since.as_secs())
}

fn folder(seed: u64) -> Result<PathBuf> {
    let folder = repo::target()?.join("chaos").join(seed.to_string());
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
