//! The allowed dependencies between the crates of this repository: `xmpp ← proto ← api ← other
//! crates ← services ← binary, tests, tools`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Findings;

/// The layer of a crate; an arrow points from a higher layer to a lower one, or stays in
/// [`Layer::Crates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Xmpp,
    Proto,
    Api,
    Crates,
    /// The tiers: they never depend on each other.
    Service,
    /// The binary, tests and tools: they may depend on all crates.
    Top,
    /// The load generator, which checks the server from outside and shares no code with it.
    Load,
}

fn layer(path: &str) -> Layer {
    match path {
        "crates/xmpp" => Layer::Xmpp,
        "proto" => Layer::Proto,
        "crates/api" => Layer::Api,
        "tools/load" => Layer::Load,
        _ if path.starts_with("crates/") => Layer::Crates,
        _ if path.starts_with("services/") => Layer::Service,
        _ => Layer::Top,
    }
}

/// Dependencies of other projects that only some crates may name.
const OUTSIDE: [(&str, &[&str]); 4] = [
    ("sqlx", &["services/storage"]),
    ("redis", &["crates/state"]),
    ("opentelemetry", &["crates/telemetry"]),
    ("tokio", &["!crates/xmpp"]),
];

/// Compares the output of `cargo metadata` with the rules.
pub(super) fn check(metadata: &Value, found: &mut Findings) -> Result<()> {
    let root = metadata["workspace_root"]
        .as_str()
        .context("cargo metadata names no workspace")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    for package in packages
        .iter()
        .filter(|package| package["source"].is_null())
    {
        let path = folder(package["manifest_path"].as_str().unwrap_or_default(), root);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if let Some(target) = dependency["path"].as_str() {
                let target = Path::new(target)
                    .strip_prefix(root)
                    .unwrap_or(Path::new(target));
                check_arrow(&path, &target.to_string_lossy(), for_tests, found);
            } else {
                check_outside(&path, name, found);
            }
        }
    }
    Ok(())
}

fn folder(manifest: &str, root: &str) -> String {
    let folder = Path::new(manifest).parent().unwrap_or(Path::new(""));
    let inside = folder.strip_prefix(root).unwrap_or(folder);
    inside.to_string_lossy().into_owned()
}

fn check_arrow(from: &str, to: &str, for_tests: bool, found: &mut Findings) {
    let (above, below) = (layer(from), layer(to));
    let allowed = match (above, below) {
        (Layer::Load, _) | (_, Layer::Load) => false,
        (Layer::Top, _) => true,
        // Servers for tests, which depend on no crate of the project.
        (_, Layer::Top) => for_tests && to == "tests/testkit",
        (Layer::Crates, Layer::Crates) => true,
        _ => below < above,
    };
    if !allowed {
        let from = if from.is_empty() { "the binary" } else { from };
        found.error(format!("{from} must not depend on {to}"));
    }
}

fn check_outside(from: &str, name: &str, found: &mut Findings) {
    for (dependency, places) in OUTSIDE {
        let named = name == dependency || name.starts_with(&format!("{dependency}_"));
        if !named {
            continue;
        }
        let allowed = places.iter().any(|place| match place.strip_prefix('!') {
            Some(not) => not != from,
            None => *place == from,
        });
        if !allowed {
            found.error(format!("{from} must not depend on {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_one_way() {
        let errors = |from, to, for_tests| {
            let mut found = Findings::default();
            check_arrow(from, to, for_tests, &mut found);
            found.errors.len()
        };
        for (from, to) in [
            ("proto", "crates/xmpp"),
            ("crates/api", "proto"),
            ("crates/telemetry", "crates/config"),
            ("services/edge", "crates/api"),
            ("", "services/edge"),
            ("xtask", "services/router"),
        ] {
            assert_eq!(errors(from, to, false), 0, "{from} {to}");
        }
        for (from, to) in [
            ("crates/xmpp", "proto"),
            ("proto", "crates/api"),
            ("crates/rpc", "services/edge"),
            ("services/edge", "services/router"),
            ("services/edge", "tests/testkit"),
            ("tools/load", "crates/xmpp"),
            ("", "tools/load"),
        ] {
            assert_eq!(errors(from, to, false), 1, "{from} {to}");
        }
        assert_eq!(errors("services/storage", "tests/testkit", true), 0);
        assert_eq!(errors("services/edge", "services/router", true), 1);
        let outside = |from, name| {
            let mut found = Findings::default();
            check_outside(from, name, &mut found);
            found.errors.len()
        };
        assert_eq!(outside("services/storage", "sqlx"), 0);
        assert_eq!(outside("services/router", "sqlx"), 1);
        assert_eq!(outside("services/router", "opentelemetry_sdk"), 1);
        assert_eq!(outside("crates/xmpp", "tokio"), 1);
        assert_eq!(outside("crates/rpc", "tokio"), 0);
    }
}
