//! Inputs on disk: the committed corpus.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The folder of this crate.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs of a target, in the order of their file names.
pub fn load(target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = root().join("corpus").join(target);
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no corpus in {folder:?}"))? {
        paths.push(entry?.path());
    }
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).with_context(|| format!("cannot read {path:?}")))
        .collect()
}
