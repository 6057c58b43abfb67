//! One process of the `sestina` binary.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use sestina_api::admin::AdminHandler;
use sestina_rpc::AdminClient;
use sestina_testkit::{find_program, spawn};

/// The variable that names the binary to test; without it, the binary beside this test is used.
pub const BINARY_VARIABLE: &str = "SESTINA_BIN";

/// The tier of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Holds sockets.
    Edge,
    /// Owns slots.
    Router,
    /// Speaks SQL.
    Storage,
}

impl Tier {
    /// The command that starts it.
    pub fn command(self) -> &'static str {
        match self {
            Tier::Edge => "edge",
            Tier::Router => "router",
            Tier::Storage => "storage",
        }
    }
}

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It runs.
    Running,
    /// It is suspended.
    Suspended,
    /// It was killed with SIGKILL.
    Killed,
    /// It has ended otherwise.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    /// Its name in the cluster.
    pub name: String,
    /// The command of the program that it runs.
    command: &'static str,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    child: Child,
}

/// The binary under test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // target/<profile>/deps/<this test>
    let folder = own
        .parent()
        .and_then(Path::parent)
        .context("a test lies in target/…/deps")?;
    let path = folder.join("sestina");
    if !path.exists() {
        bail!(
            "{} is not there; build it first with `cargo build -p sestina`, or name another with \
             {BINARY_VARIABLE}",
            path.display()
        );
    }
    Ok(path)
}

impl Process {
    /// Starts a process by a command of the program; its configuration is `sestina.toml` in that
    /// folder.
    pub fn start(
        name: &str,
        command: &'static str,
        folder: &Path,
        environment: &[(String, String)],
    ) -> Result<Process> {
        let child = spawn(program(command, folder, environment)?)
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process {
            name: name.to_owned(),
            command,
            folder: folder.to_owned(),
            environment: environment.to_vec(),
            child,
        })
    }

    /// Restarts the process, after it has ended.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill();
        self.child = spawn(program(self.command, &self.folder, &self.environment)?)?;
        Ok(())
    }

    /// Sets a variable of its environment for its next start; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Its present state.
    pub fn seen(&mut self) -> Result<Seen> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(match status.signal() {
                Some(signal) if signal == Signal::KILL.as_raw() => Seen::Killed,
                _ => Seen::Ended,
            });
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        Ok(if state == Some('T') {
            Seen::Suspended
        } else {
            Seen::Running
        })
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Suspends the process (SIGSTOP).
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes the process (SIGCONT).
    pub fn wake(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the process to drain and end (SIGTERM).
    pub fn drain(&self) {
        self.signal(Signal::TERM);
    }

    /// Its id, for code that stops it repeatedly.
    pub fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // Fails only if it has ended already.
            kill_process(pid, signal).ok();
        }
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("{} did not end within {limit:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Sends an administrator's command to this process.
    pub async fn ask(&self, command: &str, json: &str) -> Result<serde_json::Value> {
        let client = AdminClient::unix(&self.folder.join("admin.sock"));
        let asked = tokio::time::timeout(Duration::from_secs(10), client.call(command, json));
        let answer = asked
            .await
            .with_context(|| format!("{} did not answer {command}", self.name))?
            .map_err(|error| anyhow!("{}: {command}: {error}", self.name))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// The folder of its configuration, its log and its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program(name: &str, folder: &Path, environment: &[(String, String)]) -> Result<Command> {
    let binary = binary()?;
    // setpriv is replaced by the program itself, so the child's id is the program's.
    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
            command
        }
        None => Command::new(binary),
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))?;
    command
        .arg(name)
        .arg("--config")
        .arg(folder.join("sestina.toml"))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command)
}
