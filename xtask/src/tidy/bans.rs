//! Dependencies that must not come in, sources and licences that are not known, and crates that
//! come in in more than one version. `deny.toml` says the same to cargo-deny, where that is
//! installed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Findings;

/// Crates that must not be in the tree, and why.
const BANNED: [(&str, &str); 6] = [
    ("openssl", "rustls only"),
    ("openssl-sys", "rustls only"),
    ("native-tls", "rustls only"),
    ("ring", "one cryptographic provider: aws-lc-rs"),
    ("async-std", "one runtime: tokio"),
    ("protoc-bin-vendored", "protobuf is compiled without protoc"),
];

/// A licence expression must be satisfied by these.
const LICENCES: [&str; 14] = [
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
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "OpenSSL",
    // Weak copyleft, file by file: used by tests and without changes.
    "MPL-2.0",
];

/// What the server binary is linked with: the crates that its package reaches.
pub(super) fn check(metadata: &Value, found: &mut Findings) -> Result<()> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let linked = reached(metadata, "sestina")?;
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
        if !linked.contains(package["id"].as_str().unwrap_or_default()) {
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

/// The ids of all packages that a package reaches, tests aside.
fn reached(metadata: &Value, name: &str) -> Result<BTreeSet<String>> {
    let nodes = metadata["resolve"]["nodes"]
        .as_array()
        .context("cargo metadata resolved nothing")?;
    let by_id: BTreeMap<&str, &Value> = nodes
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let start = packages
        .filter(|package| package["name"].as_str() == Some(name))
        .find_map(|package| package["id"].as_str())
        .with_context(|| format!("there is no package {name}"))?;
    let mut seen = BTreeSet::new();
    let mut next = vec![start];
    while let Some(id) = next.pop() {
        if !seen.insert(id.to_owned()) {
            continue;
        }
        let dependencies = by_id.get(id).and_then(|node| node["deps"].as_array());
        for dependency in dependencies.into_iter().flatten() {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            // Only what is linked on this kind of machine: not tests, not build scripts.
            let linked = kinds.any(|kind| {
                let target = kind["target"].as_str().unwrap_or_default();
                kind["kind"].is_null() && !target.contains("windows") && !target.contains("wasm")
            });
            if linked && let Some(id) = dependency["pkg"].as_str() {
                next.push(id);
            }
        }
    }
    Ok(seen)
}

/// Whether one of the alternatives of an SPDX expression is of known licences only. Parentheses
/// are taken out: in the expressions of published crates, `AND` between groups of alternatives
/// stands only where each group has a known one.
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
