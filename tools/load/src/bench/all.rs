//! Runs several servers and scenarios several times, interleaved, so that other work on the machine
//! affects all of them alike.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::chat::chat;
use super::idle::idle;
use super::login::login;
use super::open::Target;
use super::outcome::Outcome;
use super::overload::overload;
use super::room::room;
use super::spec::{AuthSpec, Scenario, ServerKind, ServerSpec, Timing};
use crate::client::endpoint::Transport;
use crate::floor::peers::Mode;
use crate::measure::process::Groups;

/// A plan of `bench-all`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Repetitions; medians are reported.
    #[serde(default = "five")]
    pub runs: usize,
    /// Timing of each run.
    #[serde(default)]
    pub timing: Timing,
    /// Start the two floors and measure them too.
    #[serde(default = "yes")]
    pub floors: bool,
    /// The servers.
    pub servers: Vec<ServerSpec>,
    /// The scenarios.
    pub scenarios: Vec<Named>,
    /// File for the outcomes of all runs, as JSON.
    #[serde(default)]
    pub output: Option<PathBuf>,
    /// File for the table, in addition to standard output.
    #[serde(default)]
    pub table: Option<PathBuf>,
}

/// A scenario with a name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named {
    /// Name in the report.
    pub name: String,
    /// Only for these servers (and the floors); all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<String>>,
    /// The scenario.
    #[serde(flatten)]
    pub scenario: Scenario,
}

fn five() -> usize {
    5
}

fn yes() -> bool {
    true
}

/// The results of a plan.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Outcomes of all runs.
    pub outcomes: Vec<Outcome>,
    /// Runs that failed.
    pub failures: Vec<Failure>,
}

/// A run that failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Name of the server.
    pub server: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The reason.
    pub reason: String,
}

/// One run of one scenario at one server.
///
/// # Errors
/// When the server cannot be driven through it.
pub async fn one(server: &ServerSpec, timing: &Timing, scenario: &Scenario) -> Result<Outcome> {
    let target = Target::new(server, timing.ask_every)?;
    let mut outcome = match scenario {
        Scenario::Chat(spec) => Box::pin(chat(&target, timing, spec)).await,
        Scenario::Room(spec) => Box::pin(room(&target, timing, spec)).await,
        Scenario::Login(spec) => Box::pin(login(&target, spec)).await,
        Scenario::Idle(spec) => Box::pin(idle(&target, timing, spec)).await,
        Scenario::Overload(spec) => Box::pin(overload(&target, timing, spec)).await,
    }?;
    outcome.server.clone_from(&server.name);
    Ok(outcome)
}

/// Runs a plan. A run that fails is recorded, and the others continue.
///
/// # Errors
/// When the floors cannot be started or the plan is empty.
pub async fn all(plan: &Plan, progress: impl Fn(&str)) -> Result<Findings> {
    ensure!(!plan.scenarios.is_empty(), "the plan has no scenario");
    let mut servers = plan.servers.clone();
    let mut floors = Vec::new();
    if plan.floors {
        for mode in [Mode::Plain, Mode::Coalescing] {
            let floor = FloorProcess::start(mode).await?;
            servers.push(floor.spec());
            floors.push(floor);
        }
    }
    ensure!(!servers.is_empty(), "the plan has no server");
    let mut findings = Findings::default();
    for named in &plan.scenarios {
        // A process may keep the memory of its first sessions, so only the first run of `idle`
        // counts. Overload runs once because it takes long.
        let runs = match named.scenario {
            Scenario::Idle(_) | Scenario::Overload(_) => 1,
            _ => plan.runs,
        };
        for run in 1..=runs {
            for server in &servers {
                let wanted = named.servers.as_ref().is_none_or(|names| {
                    server.kind == ServerKind::Floor || names.contains(&server.name)
                });
                if !wanted {
                    continue;
                }
                let result = Box::pin(one(server, &plan.timing, &named.scenario)).await;
                let head = format!("{} {run}/{runs} {}", named.name, server.name);
                match result {
                    Ok(mut outcome) => {
                        outcome.scenario.clone_from(&named.name);
                        let cpu = outcome.cpu_us.get("server").copied().unwrap_or_default();
                        progress(&format!(
                            "{head}: {cpu:.2} µs per {}, {:.0}/s, p99 {:.0} µs, generator {:.2}",
                            outcome.unit,
                            outcome.per_second,
                            outcome.latency.p99_us,
                            outcome.generator.cores
                        ));
                        findings.outcomes.push(outcome);
                    }
                    Err(error) => {
                        progress(&format!("{head}: failed: {error:#}"));
                        findings.failures.push(Failure {
                            server: server.name.clone(),
                            scenario: named.name.clone(),
                            reason: format!("{error:#}"),
                        });
                    }
                }
                tokio::time::sleep(std::time::Duration::from_secs_f64(plan.timing.settle_s)).await;
            }
        }
    }
    Ok(findings)
}

/// A floor in a process of its own, which is killed when this value is dropped.
#[derive(Debug)]
pub struct FloorProcess {
    child: Child,
    address: SocketAddr,
    mode: Mode,
}

impl FloorProcess {
    /// Starts this program as a floor on a free port of the loopback.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(mode: Mode) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        Self::start_program(&program, mode).await
    }

    /// Starts `program` (this one, under any path) as a floor.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_program(program: &std::path::Path, mode: Mode) -> Result<Self> {
        let name = match mode {
            Mode::Plain => "plain",
            Mode::Coalescing => "coalescing",
        };
        let mut child = Command::new(program)
            .args(["floor", "--mode", name, "--port", "0", "--with-parent"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the floor")?;
        let output = child.stdout.take().context("the floor has no output")?;
        let mut lines = BufReader::new(output).lines();
        let line = lines
            .next_line()
            .await?
            .context("the floor ended at once")?;
        let address = line
            .strip_prefix("listening on ")
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("the floor said '{line}'"))?;
        Ok(Self {
            child,
            address,
            mode,
        })
    }

    /// The floor as a server to measure.
    #[must_use]
    pub fn spec(&self) -> ServerSpec {
        let name = match self.mode {
            Mode::Plain => "floor-plain",
            Mode::Coalescing => "floor-coalescing",
        };
        ServerSpec {
            name: name.to_owned(),
            kind: ServerKind::Floor,
            addresses: vec![self.address.to_string()],
            transport: Transport::DirectTls,
            domain: "localhost".to_owned(),
            muc: None,
            ca: None,
            path: String::new(),
            auth: AuthSpec::default(),
            pids: Groups::from([(
                "server".to_owned(),
                self.child.id().into_iter().collect::<Vec<_>>(),
            )]),
            leases: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plan_is_read() {
        let plan: Plan = serde_json::from_str(
            r#"{"servers":[{"name":"a","addresses":["127.0.0.1:5223"]}],
                "scenarios":[{"name":"chat 8","kind":"chat","in_flight":8},
                             {"name":"idle","kind":"idle","sessions":10,"servers":["a"]}]}"#,
        )
        .unwrap();
        assert_eq!((plan.runs, plan.floors), (5, true));
        assert!(matches!(&plan.scenarios[0].scenario, Scenario::Chat(c) if c.in_flight == 8));
        assert_eq!(
            plan.scenarios[1].servers.as_deref(),
            Some(&["a".to_owned()][..])
        );
    }
}
