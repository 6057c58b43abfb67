//! `cargo xtask tidy`: checks beyond those of the compiler and clippy.
//!
//! - [`files`]: lengths, headers, forbidden words
//! - [`arrows`]: the allowed dependencies between crates
//! - [`bans`]: banned dependencies, and dependencies in two versions
//! - [`metrics`]: metrics that no code counts
//! - [`public`]: public items without a user
//! - [`sizes`]: long functions, structs with many fields
//! - [`unused`]: dependencies that no code uses

mod arrows;
mod bans;
mod files;
mod layers;
mod metrics;
mod public;
mod sizes;
mod unused;

use anyhow::{Result, bail};

use crate::{docs, repo};

/// Prints all findings; fails unless all are warnings.
pub(crate) fn run() -> Result<()> {
    let mut found = Findings::default();
    files::check(repo::root(), &mut found)?;
    metrics::check(repo::root(), &mut found)?;
    public::check(repo::root(), &mut found)?;
    let metadata = repo::metadata()?;
    arrows::check(&metadata, &mut found)?;
    bans::check(&metadata, &mut found)?;
    unused::check(repo::root(), &metadata, &mut found)?;
    if let Err(error) = docs::check() {
        found.error(error.to_string());
    }
    for warning in &found.warnings {
        println!("warning: {warning}");
    }
    for error in &found.errors {
        println!("error: {error}");
    }
    if found.errors.is_empty() {
        println!(
            "tidy: nothing to complain about, {} warnings",
            found.warnings.len()
        );
        return Ok(());
    }
    bail!("tidy found {} errors", found.errors.len())
}

/// The findings.
#[derive(Debug, Default)]
struct Findings {
    warnings: Vec<String>,
    errors: Vec<String>,
}

impl Findings {
    fn error(&mut self, text: String) {
        self.errors.push(text);
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_arrows_between_crates_hold() {
        let mut found = Findings::default();
        let metadata = repo::metadata().unwrap();
        arrows::check(&metadata, &mut found).unwrap();
        bans::check(&metadata, &mut found).unwrap();
        assert_eq!(found.errors, Vec::<String>::new());
    }
}
