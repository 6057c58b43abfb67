//! Banned dependencies, unknown sources and licences, and crates that occur in more than one
//! version. `deny.toml` has the same rules for cargo-deny, if that is installed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Findings;
use crate::repo;

/// Banned crates, each with the reason.
const BANNED: [(&str, &str); 6] = [
    ("openssl", "rustls only"),
    ("openssl-sys", "rustls only"),
    ("native-tls", "rustls only"),
    ("ring", "one cryptographic provider: aws-lc-rs"),
    ("async-std", "one runtime: tokio"),
    ("protoc-bin-vendored", "protobuf is compiled without protoc"),
];

/// A licence expression must be satisfied by these licences.
const LICENCES: [&str; 15] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "OpenSSL",
    // Weak copyleft, file by file: used by tests and unchanged.
    "MPL-2.0",
];

/// Checks the source and licence of all packages, and the names of those in the server.
pub(super) fn check(metadata: &Value, found: &mut Findings) -> Result<()> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let linked = linked()?;
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let version = package["version"].as_str().unwrap_or_default();
        let Some(source) = package["source"].as_str() else {
            continue;
        };
        if !source.contains("crates.io-index") {
            found.error(format!(
                "{name} {version} comes from {source}; use a registry release"
            ));
        }
        let licence = package["license"].as_str().unwrap_or_default();
        if !licence_is_known(licence) {
            found.error(format!("{name} {version} has the licence {licence:?}"));
        }
        if !linked.contains(&(name.to_owned(), version.to_owned())) {
            continue;
        }
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            found.error(format!("{name} {version} is in the server: {why}"));
        }
        versions.entry(name).or_default().insert(version);
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let list: Vec<&str> = versions.iter().copied().collect();
        found.warn(format!(
            "{name} is in the server more than once: {}",
            list.join(", ")
        ));
    }
    Ok(())
}

/// Names and versions of all crates that the server is linked with. `cargo metadata` also lists
/// optional dependencies that no feature enables; `cargo tree` does not.
fn linked() -> Result<BTreeSet<(String, String)>> {
    let text = repo::capture(repo::cargo().args([
        "tree",
        "--locked",
        "--package",
        "sestina",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let linked: BTreeSet<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            Some((name, words.next()?.strip_prefix('v')?.to_owned()))
        })
        .collect();
    ensure!(
        linked.len() > 1,
        "cargo tree lists no dependencies of the server"
    );
    Ok(linked)
}

/// Whether one of the alternatives of an SPDX expression has only known licences. Parentheses are
/// removed: in the expressions of published crates, each group that `AND` joins has a known
/// alternative.
fn licence_is_known(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], " ").replace('/', " OR ");
    let known = |name: &str| LICENCES.contains(&name.trim());
    flat.split(" OR ")
        .any(|alternative| alternative.split(" AND ").all(known))
}

#[cfg(test)]
mod tests {
    use super::licence_is_known;

    #[test]
    fn licences_are_judged_by_their_alternatives() {
        for known in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "ISC AND (Apache-2.0 OR ISC)",
        ] {
            assert!(licence_is_known(known), "{known}");
        }
        for unknown in ["", "GPL-3.0-only", "MIT AND GPL-3.0-only"] {
            assert!(!licence_is_known(unknown), "{unknown}");
        }
    }
}
