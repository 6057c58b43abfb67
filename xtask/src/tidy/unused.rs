//! Dependencies that are declared and not used.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Findings, files};

/// Checks every crate of the workspace: its code must contain the name of each of its dependencies,
/// and each dependency that the workspace declares must be a dependency of a crate.
pub(super) fn check(root: &Path, metadata: &Value, found: &mut Findings) -> Result<()> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let mut used = BTreeSet::new();
    for package in packages.iter().filter(|p| p["source"].is_null()) {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest.parent().context("a manifest has no folder")?;
        let code = code_of(package, folder, root)?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["name"].as_str().unwrap_or_default();
            used.insert(name.to_owned());
            let called = dependency["rename"].as_str().unwrap_or(name);
            if !mentions(&code, &called.replace('-', "_")) {
                found.error(format!(
                    "{}: the dependency {name} is used by no code of the crate; remove it",
                    manifest.strip_prefix(root).unwrap_or(&manifest).display()
                ));
            }
        }
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    for name in declared(&manifest) {
        if !used.contains(name) {
            found.error(format!(
                "Cargo.toml: no crate uses the dependency {name} of the workspace; remove it"
            ));
        }
    }
    Ok(())
}

/// All Rust code of a package. The folder of the root package contains the whole repository, so
/// only the folders of its targets are read.
fn code_of(package: &Value, folder: &Path, root: &Path) -> Result<String> {
    let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
    let mut code = String::new();
    for target in package["targets"].as_array().into_iter().flatten() {
        let source = PathBuf::from(target["src_path"].as_str().unwrap_or_default());
        match source.parent() {
            Some(parent) if parent == folder || parent == root => {
                code += &fs::read_to_string(&source)?;
            }
            Some(parent) => {
                folders.insert(parent.to_owned());
            }
            None => {}
        }
    }
    for folder in folders {
        let mut files = Vec::new();
        files::walk(&folder, &mut files)?;
        for file in files
            .iter()
            .filter(|f| f.extension() == Some("rs".as_ref()))
        {
            code += &fs::read_to_string(file)?;
        }
    }
    Ok(code)
}

/// Whether the name occurs as a word.
fn mentions(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        !code[..at].ends_with(is_word) && !code[at + name.len()..].starts_with(is_word)
    })
}

/// The names in the table `[workspace.dependencies]`.
fn declared(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest.lines();
    let lines = lines.skip_while(|line| line.trim() != "[workspace.dependencies]");
    let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| {
        let (name, _) = line.split_once('=')?;
        let name = name.split('.').next().unwrap_or(name).trim();
        (!name.is_empty() && !name.starts_with('#')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_inside_of_another_is_no_use() {
        assert!(mentions("use hmac::Hmac;", "hmac"));
        assert!(mentions("hmac", "hmac"));
        assert!(!mentions("use my_hmac::Hmac;", "hmac"));
        assert!(!mentions("hmac_sha1()", "hmac"));
    }

    #[test]
    fn the_dependencies_of_the_workspace_are_read() {
        let manifest = "[workspace.dependencies]\n# why\na = \"1\"\nb-c = { version = \"2\" }\n\n\
            [workspace.lints.rust]\nd = \"warn\"\n";
        assert_eq!(declared(manifest).collect::<Vec<_>>(), ["a", "b-c"]);
    }
}
