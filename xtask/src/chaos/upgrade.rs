//! `cargo xtask versions`: a cluster of another revision of this repository is upgraded to this
//! tree, process by process, and downgraded again, while the load generator's sessions write. No
//! message may be lost, doubled or reordered. It is run before a release, against the tag of the
//! previous release.
//!
//! The other revision is checked out and built under `target/versions/<commit>`, with build results
//! of its own; the logs of the run are there too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::load::{self, Load};
use super::millis;
use super::report::{Incident, Report};
use super::scene::{EDGES, ROUTERS, STORAGES, Scene};
use crate::fleet::{Links, Role};
use crate::repo;

/// How long the cluster may take to become redundant again: slots move a few at a time, and a build
/// without optimisation on a busy machine is slow.
const REDUNDANT: Duration = Duration::from_secs(300);
/// How long a process may take from its start to its readiness.
const READY: Duration = Duration::from_secs(60);
/// How long sessions may take to reconnect.
const CONNECTED: Duration = Duration::from_secs(60);
/// How long the cluster may take to speak the newest version.
const SPEAKS: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The revision with which the cluster begins: a tag, such as v0.1.0, a branch or a commit.
    #[arg(long)]
    before: String,
    /// The server of that revision, if it was built elsewhere (such as the released one), instead
    /// of building it.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The profile with which both are built.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Sessions of the load.
    #[arg(long, default_value_t = 200)]
    sessions: usize,
    /// Messages per second of each session, on average.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Selects the messages of the sessions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The programs of one revision, and their settings.
struct Programs {
    name: &'static str,
    binary: PathBuf,
    settings: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    sestina_testkit::ensure_installed()?;
    let commit = commit(&options.before)?;
    let folder = repo::target()?.join("versions").join(&commit);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let before = Programs {
        name: "the other revision",
        settings: settings_of(&commit, &folder)?,
        binary: match &options.program {
            Some(program) => program.clone(),
            None => build_before(&commit, &folder, &options.profile)?,
        },
    };
    let programs = repo::build_as(&options.profile, &["sestina", "sestina-load"])?;
    let after = Programs {
        name: "this tree",
        binary: programs.join("sestina"),
        settings: repo::settings(),
    };
    let logs = folder.join("logs");
    if logs.exists() {
        fs::remove_dir_all(&logs).with_context(|| format!("cannot empty {}", logs.display()))?;
    }
    fs::create_dir_all(&logs)?;
    println!("{} is {commit}, log in {}", options.before, logs.display());
    let mut scene = Scene::start_with(
        &programs,
        &before.binary,
        &before.settings,
        &logs,
        options.sessions,
        Links::Loopback,
    )?;
    let wanted = load::Wanted {
        sessions: options.sessions,
        rate: options.rate,
        seed: options.seed,
    };
    let mut load = Load::start(&programs, &logs, &scene, &wanted)?;
    let patience = Duration::from_secs(180) + Duration::from_millis(20) * options.sessions as u32;
    let ready = load.wait_for("ready", patience);
    ready.context("the sessions did not all log in")?;
    scene.fleet.wait_redundant(REDUNDANT)?;
    let mut report = Report::default();
    let mut order = order();
    if replace_all(&order, &after, &mut scene, &mut load, &mut report)? {
        says_what_it_speaks(&scene)?;
        order.reverse();
        replace_all(&order, &before, &mut scene, &mut load, &mut report)?;
    }
    let verdict = load.verify(Duration::from_secs(400))?;
    load.quit();
    println!("{}", report.write(&logs, options.seed, &verdict)?);
    let mut violations = report.violations(&verdict);
    for incident in &report.incidents {
        if incident.redundant_ms.is_none() || !incident.connected || !incident.unexpected.is_empty()
        {
            violations.push(format!("{}: {}", incident.label, incident.line()));
        }
    }
    scene.stop();
    for violation in &violations {
        println!("violation: {violation}");
    }
    ensure!(
        violations.is_empty(),
        "versions: {} violations; do not release this",
        violations.len()
    );
    println!(
        "versions: {} to this tree and back: nothing lost, nothing doubled, nothing reordered",
        options.before
    );
    Ok(())
}

/// All processes in the order of an upgrade: storages, routers, edges. A downgrade has the reverse
/// order.
fn order() -> Vec<(Role, usize)> {
    let tiers = [
        (Role::Storage, STORAGES),
        (Role::Router, ROUTERS),
        (Role::Edge, EDGES),
    ];
    let tier = |(role, count): (Role, usize)| (0..count).map(move |number| (role, number));
    tiers.into_iter().flat_map(tier).collect()
}

/// Replaces one process after the other; false if the cluster did not become redundant in between.
fn replace_all(
    order: &[(Role, usize)],
    programs: &Programs,
    scene: &mut Scene,
    load: &mut Load,
    report: &mut Report,
) -> Result<bool> {
    for (role, number) in order {
        let place = report.incidents.len() + 1;
        let name = role.name(number + 1);
        let label = format!("{place:02} {name} becomes that of {}", programs.name);
        println!("{label}");
        let incident = replace(&label, *role, *number, programs, scene, load)?;
        println!("  {}", incident.line());
        let came_back = incident.redundant_ms.is_some();
        report.incidents.push(incident);
        if !came_back {
            println!("the cluster did not become redundant again; nothing more is replaced");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Stops a process as an administrator would, and starts the other program instead.
fn replace(
    label: &str,
    role: Role,
    number: usize,
    programs: &Programs,
    scene: &mut Scene,
    load: &mut Load,
) -> Result<Incident> {
    load.mark(label)?;
    let edge = scene.edge_address(number).filter(|_| role == Role::Edge);
    if let Some(edge) = &edge {
        load.touch(edge, true)?;
    }
    let queries = scene.account_queries();
    let begun = Instant::now();
    scene.node(role, number)?.process.signal(Signal::TERM);
    scene.wait_drained(role, number)?;
    let node = scene.node(role, number)?;
    node.admin.binary.clone_from(&programs.binary);
    node.process
        .becomes(programs.binary.clone(), role.arguments(&programs.settings));
    node.process.restart()?;
    node.wait_ready(READY)?;
    let ready = Instant::now();
    let unexpected = scene.restart_what_ended()?;
    let redundant = scene.fleet.wait_redundant(REDUNDANT);
    if let Err(error) = &redundant {
        println!("{label}: {error:#}");
    }
    let redundant_ms = redundant.is_ok().then(|| millis(ready.elapsed()));
    let connected = load.wait_connected(CONNECTED);
    if let Err(error) = &connected {
        println!("{label}: {error:#}");
    }
    if let Some(edge) = &edge {
        load.touch(edge, false)?;
    }
    Ok(Incident {
        label: label.to_owned(),
        kinds: vec![format!("replace {}", role.word())],
        held_ms: millis(ready - begun),
        redundant_ms,
        connected: connected.is_ok(),
        unexpected,
        broken: Vec::new(),
        queries: scene.account_queries().saturating_sub(queries),
        peak: scene.peak_memory(),
    })
}

/// Checks that the cluster speaks the newest version once all processes are those of this tree.
fn says_what_it_speaks(scene: &Scene) -> Result<()> {
    sestina_testkit::wait_for("the cluster to speak its newest version", SPEAKS, || {
        let router = scene.fleet.of(Role::Router).next();
        let status = router.context("there is no router")?.admin.status()?;
        let processes = ["processes", "storages"].map(|key| status[key].as_array().cloned());
        let newest = processes.into_iter().flatten().flatten();
        let newest = newest
            .filter_map(|process| process["newest"].as_u64())
            .min();
        let speaks = status["speaks"].as_u64();
        ensure!(
            speaks == newest,
            "it speaks {speaks:?}, and all know {newest:?}"
        );
        println!("the cluster speaks version {}", status["speaks"]);
        Ok(())
    })
}

/// The commit of a revision.
fn commit(revision: &str) -> Result<String> {
    let mut command = git();
    command.args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
    let named = command.arg(format!("{revision}^{{commit}}"));
    let found = repo::capture(named).with_context(|| {
        format!("git knows no revision {revision:?}; name a tag, a branch or a commit")
    })?;
    Ok(found.trim().chars().take(12).collect())
}

fn git() -> Command {
    let mut command = Command::new("git");
    command.current_dir(repo::root());
    command
}

/// The settings of that commit: another revision may not know all options of this one.
fn settings_of(commit: &str, folder: &Path) -> Result<PathBuf> {
    let settings = folder.join("settings");
    fs::create_dir_all(&settings)?;
    for role in [Role::Edge, Role::Router, Role::Storage] {
        let file = format!("{}.toml", role.word());
        let shown = format!("{commit}:deploy/compose/{file}");
        fs::write(
            settings.join(&file),
            repo::capture(git().arg("show").arg(shown))?,
        )?;
    }
    Ok(settings)
}

/// Checks the commit out, builds its server, and removes the working tree.
fn build_before(commit: &str, folder: &Path, profile: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    remove_tree(&tree)?;
    repo::run(
        git()
            .args(["worktree", "add", "--detach"])
            .arg(&tree)
            .arg(commit),
    )?;
    let built = build_tree(&tree, folder, profile);
    let removed = remove_tree(&tree);
    let binary = built?;
    removed?;
    Ok(binary)
}

fn build_tree(tree: &Path, folder: &Path, profile: &str) -> Result<PathBuf> {
    let target = folder.join("target");
    let mut command = repo::cargo();
    command
        .args([
            "build",
            "--locked",
            "--package",
            "sestina",
            "--profile",
            profile,
        ])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", &target);
    repo::run(&mut command)?;
    Ok(target.join(repo::profile_folder(profile)).join("sestina"))
}

fn remove_tree(tree: &Path) -> Result<()> {
    if tree.exists() {
        let mut command = git();
        command.args(["worktree", "remove", "--force"]).arg(tree);
        if repo::run(&mut command).is_err() {
            bail!(
                "remove {} by hand, then call `git worktree prune`",
                tree.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_replaced_before_routers_and_routers_before_edges() {
        let order = order();
        assert_eq!(order.len(), STORAGES + ROUTERS + EDGES);
        assert_eq!(order[0], (Role::Storage, 0));
        assert_eq!(order[STORAGES], (Role::Router, 0));
        assert_eq!(order[order.len() - 1], (Role::Edge, EDGES - 1));
    }
}
