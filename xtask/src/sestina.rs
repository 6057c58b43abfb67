//! The `sestina` command, as an administrator would use it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The command, told which process to talk to.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) binary: PathBuf,
    /// The administrator's unix socket of one process.
    pub(crate) socket: PathBuf,
}

impl Admin {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(words)
            .env("SESTINA__ADMIN__SOCKET", &self.socket)
            .stdin(Stdio::null());
        command
    }

    /// Adds an account.
    pub(crate) fn add_user(&self, bare: &str, password: &str) -> Result<()> {
        let mut child = self
            .command(&["user", "add", bare, "--password-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        let mut input = child.stdin.take().context("no pipe to sestina user add")?;
        writeln!(input, "{password}")?;
        drop(input);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "sestina user add {bare} failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// What `sestina status --json` says.
    pub(crate) fn status(&self) -> Result<Value> {
        let text = crate::repo::capture(&mut self.command(&["status", "--json"]))?;
        serde_json::from_str(&text)
            .with_context(|| format!("sestina status --json printed no JSON: {text:?}"))
    }
}

/// Makes the certificate of one process with the private authority in `folder`, which is made at
/// the first call.
pub(crate) fn issue_certificate(
    binary: &Path,
    folder: &Path,
    name: &str,
    role: &str,
    sans: &[String],
) -> Result<()> {
    let mut command = Command::new(binary);
    command
        .arg("certs")
        .arg("--dir")
        .arg(folder)
        .args(["--name", name, "--role", role])
        .stdin(Stdio::null());
    for san in sans {
        command.args(["--san", san]);
    }
    crate::repo::capture(&mut command)?;
    Ok(())
}
