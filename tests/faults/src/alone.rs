//! One process that is the whole system.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use sestina_testkit::free_port;
use tempfile::TempDir;

use crate::process::Process;
use crate::settings::{HOST, alone};
use crate::wait::until;

/// See the module.
pub struct Alone {
    /// The process.
    pub process: Process,
    /// Its port for clients.
    pub port: u16,
    folder: TempDir,
}

impl Alone {
    /// Starts the process in an empty folder, and waits until it is ready.
    pub async fn start() -> Result<Alone> {
        let folder = tempfile::Builder::new()
            .prefix("sestina-alone-")
            .tempdir()?;
        let port = free_port()?;
        fs::write(
            folder.path().join("sestina.toml"),
            alone(folder.path(), port),
        )?;
        let process = Process::start("one", "serve", folder.path(), &[])?;
        let mut one = Alone {
            process,
            port,
            folder,
        };
        let ready = until("it is ready", Duration::from_secs(60), async || {
            match one.process.ask("status", "").await {
                Ok(status) if status["redundant"] == true => Ok(()),
                Ok(status) => Err(status.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        ready.with_context(|| one.keep_log())?;
        Ok(one)
    }

    /// Adds accounts; the password is the user's name.
    pub async fn add_users(&self, names: &[String]) -> Result<()> {
        for name in names {
            let jid = format!("{name}@{HOST}");
            let json = serde_json::json!({ "jid": jid, "password": name }).to_string();
            self.process.ask("user.add", &json).await?;
        }
        Ok(())
    }

    /// Keeps the folder, and returns a text that names it.
    pub fn keep_log(&mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("the log is kept in {}", self.folder.path().display())
    }
}
