//! Temporary folders, which the next test process removes if their own was killed.

use std::fs;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result};
use tempfile::TempDir;

const PREFIX: &str = "sestina-test-";

/// Makes a folder that is removed on drop, or by the next test process if this one is killed.
pub(crate) fn make(kind: &str) -> Result<TempDir> {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| sweep(&std::env::temp_dir()));
    let prefix = format!("{PREFIX}{}-{kind}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir()
        .context("cannot make a temporary folder")
}

/// Removes folders whose process is gone. Best effort: errors are ignored.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some(pid) = rest
            .split('-')
            .next()
            .and_then(|pid| pid.parse::<u32>().ok())
        else {
            continue;
        };
        if !Path::new("/proc").join(pid.to_string()).exists() && Path::new("/proc/self").exists() {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sweeps_only_folders_of_dead_processes() {
        let root = tempfile::tempdir().unwrap();
        // Larger than any process id of Linux.
        let dead = root.path().join(format!("{PREFIX}4194305-redis-x"));
        let alive = root
            .path()
            .join(format!("{PREFIX}{}-redis-x", std::process::id()));
        let other = root.path().join("something-else");
        for path in [&dead, &alive, &other] {
            fs::create_dir(path).unwrap();
        }
        sweep(root.path());
        assert!(!dead.exists() && alive.exists() && other.exists());
    }
}
