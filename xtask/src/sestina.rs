//! The `sestina` command, as an administrator would use it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The time limit of a command: it would wait long for a suspended server.
const LIMIT: Duration = Duration::from_secs(20);

/// The command, for one process.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) binary: PathBuf,
    /// The administrator's unix socket of one process.
    pub(crate) socket: PathBuf,
}

impl Admin {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--socket").arg(&self.socket);
        command
    }

    /// Adds an account.
    pub(crate) fn add_user(&self, bare: &str, password: &str) -> Result<()> {
        let mut command = self.command(&["user", "add", bare, "--stdin"]);
        let (succeeded, _, errors) = run(&mut command, &format!("{password}\n"))?;
        if !succeeded {
            bail!("sestina user add {bare} failed: {}", errors.trim());
        }
        Ok(())
    }

    /// The output of `sestina status --json`.
    pub(crate) fn status(&self) -> Result<Value> {
        // The exit code shows whether the cluster is redundant; so does the answer.
        let (_, text, errors) = run(&mut self.command(&["status", "--json"]), "")?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "sestina status --json printed {text:?} and said {:?}",
                errors.trim()
            )
        })
    }
}

/// Runs a command for at most [`LIMIT`]: whether it succeeded, its output, its errors.
fn run(command: &mut Command, input: &str) -> Result<(bool, String, String)> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    let mut stdin = child.stdin.take().context("no pipe to the command")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            // The output before an error still helps.
            pipe.map(|mut pipe| pipe.read_to_string(&mut text));
            text
        })
    };
    let output = read(child.stdout.take().map(|p| Box::new(p) as _));
    let errors = read(child.stderr.take().map(|p| Box::new(p) as _));
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= end {
            child.kill().ok();
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let (output, errors) = (output.join(), errors.join());
    let status = status.with_context(|| format!("no answer within {LIMIT:?}"))?;
    Ok((
        status.success(),
        output.unwrap_or_default(),
        errors.unwrap_or_default(),
    ))
}

/// Issues the certificate of one process with the private authority in `folder`, which is created
/// at the first call.
pub(crate) fn issue_certificate(
    binary: &Path,
    folder: &Path,
    name: &str,
    role: &str,
    sans: &[String],
) -> Result<()> {
    let mut command = Command::new(binary);
    command
        .args(["certs", "node", name, "--role", role, "--dir"])
        .arg(folder);
    for san in sans {
        command.args(["--san", san]);
    }
    let (succeeded, _, errors) = run(&mut command, "")?;
    if !succeeded {
        bail!("sestina certs node {name} failed: {}", errors.trim());
    }
    Ok(())
}
