//! The command line.
//!
//! - [`args`]: the arguments; [`run`]: performs them
//! - [`check`]: checks of a configuration
//! - [`remote`]: commands that a server performs; [`local`]: those that need no server
//! - [`show`]: answers for people; [`password`]: sources of passwords

pub mod args;
mod check;
mod local;
mod password;
mod remote;
mod run;
mod show;

use std::io::Write;
use std::path::PathBuf;

pub use run::main;
use sestina_config::Config;

/// Writes to standard output; a closed reader is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::debug!(%error, "standard output is closed");
    }
}

/// Writes to standard error.
fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    if let Err(error) = writeln!(out, "{text}") {
        tracing::debug!(%error, "standard error is closed");
    }
}

/// The unix socket for the administrator's commands.
pub fn socket(config: &Config) -> PathBuf {
    let default = || config.node.data_dir.join("admin.sock");
    config.admin.socket.clone().unwrap_or_else(default)
}

#[cfg(test)]
mod tests;
