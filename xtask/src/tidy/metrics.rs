//! Checks that the code counts every metric and uses every label value: a series that stays zero
//! for ever tells an operator that all is well.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Findings;

/// The files that declare metrics and labels.
const METRICS: &str = "crates/telemetry/src/metrics/mod.rs";
const LABELS: &str = "crates/telemetry/src/metrics/labels.rs";
/// The folders whose code may use them.
const USERS: [&str; 3] = ["services", "src", "crates"];

/// Finds metrics and label values without use.
pub(super) fn check(root: &Path, found: &mut Findings) -> Result<()> {
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))
    };
    let mut code = String::new();
    for folder in USERS {
        gather(&root.join(folder), &mut code)?;
    }
    for unused in unused(&read(METRICS)?, &read(LABELS)?, &code) {
        found.error(format!("no code counts {unused}"));
    }
    Ok(())
}

/// All code except tests and the telemetry itself.
fn gather(folder: &Path, code: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.contains("test") || name == "telemetry" || name == "sim" {
            continue;
        }
        if path.is_dir() {
            gather(&path, code)?;
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path)?;
            let tests = text.find("\n#[cfg(test)]\nmod tests {");
            code.push_str(&text[..tests.unwrap_or(text.len())]);
        }
    }
    Ok(())
}

/// Metrics without use as `name`, label values without use as `Label::Value`.
fn unused(metrics: &str, labels: &str, code: &str) -> Vec<String> {
    let used = |text: &str| {
        code.match_indices(text).any(|(at, _)| {
            let next = code[at + text.len()..].chars().next();
            !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    };
    let mut unused = Vec::new();
    for line in metrics.lines().filter(|line| line.ends_with(';')) {
        if let Some((name, kind)) = line.trim().split_once(": ")
            && ["By", "Counter", "Gauge", "Histogram"]
                .iter()
                .any(|known| kind.starts_with(known))
            && !used(&format!(".{name}"))
        {
            unused.push(name.to_owned());
        }
    }
    let mut label = "";
    for line in labels.lines() {
        if let Some(name) = line.trim().strip_prefix("pub enum ") {
            label = name.split('(').next().unwrap_or_default();
        } else if let Some((value, _)) = line.trim().split_once(" = \"") {
            let value = format!("{label}::{value}");
            // Values may also be looked up by their names.
            if !used(&value) && !used(&format!("{label}::named")) {
                unused.push(value);
            }
        }
    }
    unused
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "    /// Lanes\n    lanes: By<Lane, Gauge>;\n    whole: Gauge;\n";
    const LABELS: &str = "    pub enum Lane(\"lane\") {\n        Peer = \"peer\",\n        PeerToo = \"peer_too\",\n    }\n    pub enum Why(\"why\") {\n        Other = \"other\",\n    }\n";

    #[test]
    fn a_metric_without_a_counter_is_named() {
        let code = "all.lanes[Lane::PeerToo].inc(); Why::named(x)";
        assert_eq!(unused(METRICS, LABELS, code), ["whole", "Lane::Peer"]);
        let code = "all.lanes[Lane::PeerToo].inc(); .whole.set(1); Lane::Peer; Why::Other";
        assert_eq!(unused(METRICS, LABELS, code), Vec::<String>::new());
    }
}
