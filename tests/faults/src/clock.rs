//! The time of day as one process reads it, changed while it runs. How fast time goes is not changed,
//! nor are clocks that count from the start of the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// See the module.
#[derive(Clone, Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// The clock of a process with that folder; right at first.
    pub(crate) fn new(folder: &Path) -> Result<Clock> {
        let clock = Clock {
            file: folder.join("clock"),
        };
        if !clock.file.exists() {
            clock.set("+0")?;
        }
        Ok(clock)
    }

    /// From now on the time of day is wrong by that much: `+400d`, `-1h`, `+0`.
    pub fn set(&self, wrong: &str) -> Result<()> {
        // A reader sees the old file or the new one, never half of it.
        let next = self.file.with_extension("next");
        fs::write(&next, wrong)?;
        Ok(fs::rename(&next, &self.file)?)
    }

    /// What makes a process read it.
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
