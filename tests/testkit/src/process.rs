//! A server process: it dies with the test process, and signals reach its children too.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::install::find_program;

/// A program to start.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Unix user to run as (only when root).
    pub(crate) user: Option<String>,
    /// Signal that makes it stop at once, cleanly if possible.
    pub(crate) stop: Signal,
    pub(crate) folder: PathBuf,
}

/// A running (or killed) server process.
#[derive(Debug)]
pub struct ServerProcess {
    program: Program,
    child: Child,
}

impl ServerProcess {
    pub(crate) fn start(program: Program) -> Result<ServerProcess> {
        let child = spawn(command(&program)?)
            .with_context(|| format!("cannot start {}", program.path.display()))?;
        Ok(ServerProcess { program, child })
    }

    /// The server's process id (for PostgreSQL the postmaster's).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the server and its children with SIGKILL, as a crash would, and waits for the end.
    pub fn kill9(&mut self) {
        let children = descendants(self.pid());
        signal(self.pid(), Signal::KILL);
        children
            .iter()
            .for_each(|child| signal(*child, Signal::KILL));
        self.child.wait().ok();
        wait_gone(&children);
    }

    /// Suspends the server and its children (SIGSTOP): connections stay open, and nothing answers.
    pub fn suspend(&self) {
        // The parent first, so that no child appears after the list was made.
        signal(self.pid(), Signal::STOP);
        descendants(self.pid())
            .into_iter()
            .for_each(|child| signal(child, Signal::STOP));
    }

    /// Resumes a suspended server.
    pub fn resume(&self) {
        descendants(self.pid())
            .into_iter()
            .for_each(|child| signal(child, Signal::CONT));
        signal(self.pid(), Signal::CONT);
    }

    /// Stops the process if it runs, and starts the same program with the same arguments.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop();
        *self = ServerProcess::start(self.program.clone())?;
        Ok(())
    }

    /// Fails with the last lines of its log if the process has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(log_path(&self.program.folder)).unwrap_or_default();
            let start = log.len().saturating_sub(2000);
            let tail = log.get(start..).unwrap_or(&log);
            bail!(
                "{} ended with {status}: {tail}",
                self.program.path.display()
            );
        }
        Ok(())
    }

    /// Stops the server: its stop signal first, SIGKILL after three seconds.
    pub(crate) fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let children = descendants(self.pid());
        self.resume();
        signal(self.pid(), self.program.stop);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                wait_gone(&children);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill9();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("server.log")
}

fn command(program: &Program) -> Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log_path(&program.folder))?;
    let user = program
        .user
        .as_deref()
        .filter(|_| rustix::process::geteuid().is_root());
    // setpriv is replaced by the program itself, so the child's id is the server's.
    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            if let Some(user) = user {
                let name = format!("--reuid={user}");
                command
                    .arg(name)
                    .arg(format!("--regid={user}"))
                    .arg("--init-groups");
            }
            let death = if program.stop == Signal::QUIT {
                "QUIT"
            } else {
                "KILL"
            };
            command
                .args(["--pdeathsig", death, "--"])
                .arg(&program.path);
            command
        }
        None if user.is_none() => Command::new(&program.path),
        None => bail!("setpriv was not found; install the package util-linux"),
    };
    command
        .args(&program.arguments)
        .current_dir(&program.folder)
        .env("LC_ALL", "C")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command)
}

/// Starts a process from a thread that lives as long as this process. The kernel sends the
/// parent-death signal (`setpriv --pdeathsig`) when the *thread* that started the child ends, and
/// the thread of a test ends before the tests do.
///
/// # Errors
///
/// When the program cannot be started.
pub fn spawn(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in jobs {
                answer.send(command.spawn()).ok();
            }
        });
        sender
    });
    let (answer, result) = mpsc::sync_channel(1);
    spawner
        .send((command, answer))
        .context("the thread that starts processes has ended")?;
    Ok(result
        .recv()
        .context("the thread that starts processes has ended")??)
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Fails only when the process is gone already.
        kill_process(pid, signal).ok();
    }
}

/// All descendants of a process. PostgreSQL's children are in sessions of their own, so a signal to
/// the process group would not reach them.
fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(above) = found.get(next).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == above)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.split_off(1)
}

/// The parent's id: the second field after the command name, which is in parentheses.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn wait_gone(pids: &[u32]) {
    let end = Instant::now() + Duration::from_secs(3);
    let alive = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit_once(") ")
                .is_some_and(|(_, s)| s.starts_with('Z'))
        })
    };
    while pids.iter().any(alive) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(folder: &Path, script: &str) -> ServerProcess {
        ServerProcess::start(Program {
            path: find_program("sh").unwrap(),
            arguments: vec!["-c".into(), script.into()],
            user: None,
            stop: Signal::TERM,
            folder: folder.to_owned(),
        })
        .unwrap()
    }

    fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[test]
    fn outlives_the_thread_that_asked_for_it_and_dies_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        // Both in the background: a shell starts a command in the foreground by vfork, in which it cannot be stopped. If
        // the child were stopped before its exec, the shell would stay there.
        let mut server = std::thread::spawn(move || shell(&path, "sleep 1000 & sleep 1000 & wait"))
            .join()
            .unwrap();
        let children = crate::wait_for("two sleeps", Duration::from_secs(5), || {
            let children = descendants(server.pid());
            if children.len() == 2 {
                Ok(children)
            } else {
                bail!("{children:?}")
            }
        })
        .unwrap();
        server.check_alive().unwrap();
        server.suspend();
        crate::wait_for("all stopped", Duration::from_secs(5), || {
            let all = children
                .iter()
                .chain([&server.child.id()])
                .all(|p| state(*p) == Some('T'));
            if all {
                Ok(())
            } else {
                bail!("not all are stopped")
            }
        })
        .unwrap();
        server.kill9();
        assert!(server.check_alive().is_err());
        assert!(
            children
                .iter()
                .all(|pid| matches!(state(*pid), None | Some('Z')))
        );
    }

    #[test]
    fn the_log_is_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = shell(folder.path(), "echo went wrong; exit 3");
        server.child.wait().unwrap();
        let error = server.check_alive().unwrap_err().to_string();
        assert!(
            error.contains("went wrong") && error.contains('3'),
            "{error}"
        );
    }
}
