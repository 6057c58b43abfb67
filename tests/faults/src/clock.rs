//! The time of day of one process, changed while the process runs. The speed of time is not
//! changed, nor are clocks that count from the start of the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// See the module.
#[derive(Clone, Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// The clock of the process with that folder; correct at first.
    pub(crate) fn new(folder: &Path) -> Result<Clock> {
        let clock = Clock {
            file: folder.join("clock"),
        };
        if !clock.file.exists() {
            clock.set("+0")?;
        }
        Ok(clock)
    }

    /// Sets the error of the time of day: `+400d`, `-1h`, `+0`.
    pub fn set(&self, wrong: &str) -> Result<()> {
        // A reader sees the old file or the new one, never a part of it.
        let next = self.file.with_extension("next");
        fs::write(&next, wrong)?;
        Ok(fs::rename(&next, &self.file)?)
    }

    /// The environment that makes a process use it.
    pub(crate) fn environment(&self) -> Result<Vec<(String, String)>> {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Ok(vec![
            variable("LD_PRELOAD", &library()?),
            variable("FAKETIME_TIMESTAMP_FILE", &self.file.display().to_string()),
            variable("FAKETIME_NO_CACHE", "1"),
            variable("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            variable("DONT_FAKE_MONOTONIC", "1"),
        ])
    }
}

/// The library of the program `faketime`, which the testkit installs.
fn library() -> Result<String> {
    let found = fs::read_dir("/usr/lib")?.flatten().find_map(|entry| {
        let library = entry.path().join("faketime/libfaketimeMT.so.1");
        library.exists().then(|| library.display().to_string())
    });
    found.context("libfaketime was not found; install the package faketime")
}
