//! The administrator's commands, as every tier takes them.

use async_trait::async_trait;

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct AdminError {
    /// A short fixed word for programs: `unknown-command`, `invalid-arguments`, `not-found`,
    /// `exists`, `away`, `internal`, or one of the command's own.
    pub code: String,
    /// What is wrong and what to do, for people.
    pub text: String,
}

impl AdminError {
    /// An error with this code and text.
    pub fn new(code: impl Into<String>, text: impl Into<String>) -> AdminError {
        AdminError {
            code: code.into(),
            text: text.into(),
        }
    }

    /// No such command here.
    pub fn unknown_command(command: &str) -> AdminError {
        AdminError::new(
            "unknown-command",
            format!("this process knows no command {command:?}"),
        )
    }
}

/// Performs commands. Implemented by each tier, and by the clients that reach one.
#[async_trait]
pub trait AdminHandler: Send + Sync + 'static {
    /// Performs `command` with the arguments in `json` (an object; empty = none); the result is JSON.
    async fn call(&self, command: &str, json: &str) -> Result<String, AdminError>;
}
