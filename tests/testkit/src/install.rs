//! Finds the programs of the servers, and installs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Programs and their Debian packages.
const NEEDED: [(&str, &str); 5] = [
    ("redis-server", "redis-server"),
    ("postgres", "postgresql"),
    ("initdb", "postgresql"),
    ("psql", "postgresql-client"),
    ("faketime", "faketime"),
];

/// Searches a program in PATH, the usual system folders and PostgreSQL's versioned ones (newest
/// first).
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.extend(postgres_folders(Path::new("/usr/lib/postgresql")));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn postgres_folders(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

/// The program, or an error with advice on how to install it.
pub(crate) fn require(name: &str) -> Result<PathBuf> {
    if let Some(found) = find_program(name) {
        return Ok(found);
    }
    let package = NEEDED
        .iter()
        .find(|(program, _)| *program == name)
        .map_or(name, |(_, p)| *p);
    bail!(
        "{name} was not found in PATH; run `cargo xtask test`, which installs what tests need, \
         or `apt-get install {package}`"
    )
}

/// Installs missing packages with apt-get (through sudo if not root). Does nothing if all programs
/// exist.
pub fn ensure_installed() -> Result<()> {
    let mut packages: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        bail!(
            "cannot install {}: there is no apt-get; install them by hand",
            packages.join(", ")
        );
    }
    run_apt(&["update"])?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&packages);
    run_apt(&arguments)?;
    for (program, _) in NEEDED {
        require(program)?;
    }
    Ok(())
}

fn run_apt(arguments: &[&str]) -> Result<()> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "--preserve-env=DEBIAN_FRONTEND,RUNLEVEL", "apt-get"]);
        sudo
    };
    // Run level 1 prevents the packages' services from starting.
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    let status = command.status().context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed with {status}", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn finds_the_newest_postgres_and_names_the_package() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "16", "common"] {
            std::fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let folders = postgres_folders(root.path());
        assert_eq!(folders.len(), 3);
        assert_eq!(folders[0], root.path().join("16/bin"));
        assert!(find_program("sh").is_some());
        let error = require("no-such-program").unwrap_err().to_string();
        assert!(
            error.contains("no-such-program") && error.contains("cargo xtask test"),
            "{error}"
        );
    }
}
