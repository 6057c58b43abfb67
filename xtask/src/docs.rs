//! The pages that are generated from the code, and the check that they are up to date.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{repo, xeps};

/// The path of each page in the repository, and its content.
fn pages() -> Vec<(&'static str, String)> {
    vec![
        (
            "docs/config.md",
            sestina_config::docs::docs(&sestina_router::modules::declared()),
        ),
        ("docs/xeps.md", xeps::page()),
    ]
}

fn path(page: &str) -> PathBuf {
    repo::root().join(page)
}

/// Writes all pages.
pub(crate) fn write() -> Result<()> {
    for (page, content) in pages() {
        let path = path(page);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {page}");
    }
    Ok(())
}

/// Fails if a page differs from the generated content.
pub(crate) fn check() -> Result<()> {
    for (page, content) in pages() {
        let found = fs::read_to_string(path(page)).unwrap_or_default();
        if found != content {
            bail!("{page} is not what the code says; run `cargo xtask docs` and commit it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_pages_are_up_to_date() {
        let checked = super::check();
        assert!(checked.is_ok(), "{checked:?}");
    }
}
