//! Child processes of these tools: their output goes to a file, and none survives the tool.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A program to start, and to restart if needed.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Name in messages and of the log file.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
    /// Its working directory.
    pub(crate) folder: PathBuf,
    /// Its standard output and error are appended to this file.
    pub(crate) log: PathBuf,
    /// Unix user to run as, if this tool runs as root.
    pub(crate) user: Option<String>,
}

/// A process, running or ended.
#[derive(Debug)]
pub(crate) struct Process {
    spec: Spec,
    child: Child,
}

impl Process {
    /// Starts the process. The kernel kills it when the thread that started it ends, so that must
    /// always be the main thread of the tool.
    pub(crate) fn start(spec: Spec) -> Result<Process> {
        let child = spawn(&spec)?;
        Ok(Process { spec, child })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; no error if the process has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            kill_process(pid, signal).ok();
        }
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().ok();
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            match self.ended() {
                Some(status) => return Some(status),
                None if Instant::now() >= end => return None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Asks it to end (SIGTERM); kills it if that takes longer than `limit`.
    pub(crate) fn stop(&mut self, limit: Duration) {
        // A suspended process handles no other signal.
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        if self.wait(limit).is_none() {
            self.kill();
        }
    }

    /// Sets the program of the next start.
    pub(crate) fn becomes(&mut self, program: PathBuf, arguments: Vec<OsString>) {
        (self.spec.program, self.spec.arguments) = (program, arguments);
    }

    /// Starts it again; the previous process must have ended.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.spec)?;
        Ok(())
    }

    /// Fails with the last lines of its log if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.ended() {
            Some(status) => bail!(
                "{} ended with {status}; the end of {}:\n{}",
                self.spec.name,
                self.spec.log.display(),
                tail(&self.spec.log)
            ),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // If the child is a shell, the server itself would survive it.
            let below = descendants(self.pid());
            self.kill();
            for pid in below.into_iter().filter_map(Pid::from_raw) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
}

/// The descendants of a process, as the kernel lists them.
fn descendants(of: u32) -> Vec<i32> {
    let list = format!("/proc/{of}/task/{of}/children");
    let children = std::fs::read_to_string(list).unwrap_or_default();
    let mut all = Vec::new();
    for child in children.split_whitespace() {
        all.extend(child.parse::<i32>());
        all.extend(child.parse::<u32>().map(descendants).unwrap_or_default());
    }
    all
}

fn spawn(spec: &Spec) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("cannot write {}", spec.log.display()))?;
    let mut command = Command::new("setpriv");
    if let Some(user) = spec.user.as_deref()
        && rustix::process::geteuid().is_root()
    {
        command
            .arg(format!("--reuid={user}"))
            .arg(format!("--regid={user}"))
            .arg("--init-groups");
    }
    // setpriv replaces itself by the program, so the child's id is the program's.
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(&spec.program)
        .args(&spec.arguments)
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn().with_context(|| {
        format!(
            "cannot start {} through setpriv (package util-linux)",
            spec.program.display()
        )
    })
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn is_stopped_and_started_again_and_tells_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(Spec {
            name: "sleeper".to_owned(),
            program: "sh".into(),
            arguments: vec!["-c".into(), "echo \"$GREETING\"; exec sleep 1000".into()],
            environment: vec![("GREETING".to_owned(), "good day".to_owned())],
            folder: folder.path().to_owned(),
            log: folder.path().join("log"),
            user: None,
        })
        .unwrap();
        process.check().unwrap();
        let first = process.pid();
        process.signal(Signal::STOP);
        process.stop(Duration::from_secs(5));
        // The log is complete: the shell has ended, before or after its first line.
        assert!(process.ended().is_some());
        process.restart().unwrap();
        assert_ne!(process.pid(), first);
        sestina_testkit::wait_for("the greeting", Duration::from_secs(10), || {
            let text = std::fs::read_to_string(folder.path().join("log"))?;
            anyhow::ensure!(text.contains("good day"), "{text:?}");
            Ok(())
        })
        .unwrap();
        process.kill();
        let error = process.check().unwrap_err().to_string();
        assert!(
            error.contains("sleeper ended") && error.contains("good day"),
            "{error}"
        );
    }
}
