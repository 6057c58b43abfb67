//! Inputs on disk: the committed corpus, and what made a target fail.

use std::fs;
use std::path::{Path, PathBuf};

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

/// Keeps an input that made a target fail; its name is made of its content.
pub fn keep(target: &str, data: &[u8]) -> Result<PathBuf> {
    let folder = root().join("artifacts").join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder:?}"))?;
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    for byte in data {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    let path = folder.join(format!("{hash:016x}"));
    fs::write(&path, data).with_context(|| format!("cannot write {path:?}"))?;
    Ok(path)
}
