//! Files: their lengths, their headers, and words that they must not contain.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Findings;

/// A file tells one story; most are shorter than this.
const WARN_LINES: usize = 400;
/// No file is longer than this.
const MOST_LINES: usize = 600;
/// Tests are lists of cases; they may be longer.
const MOST_TEST_LINES: usize = 1000;

/// Folders of other projects, or made by tools.
const SKIP: [&str; 7] = [
    ".git",
    "target",
    "node_modules",
    "corpus",
    "artifacts",
    "sestina-data",
    "venv",
];

/// Forbidden texts, each with the reason. They are written in two parts, so that this file does not
/// contain them.
const FORBIDDEN: [(&str, &str, &str); 9] = [
    (
        "TO",
        "DO",
        "finish it, or describe the limit in the documentation",
    ),
    (
        "FIX",
        "ME",
        "finish it, or describe the limit in the documentation",
    ),
    ("todo", "!(", "finish it"),
    ("unimple", "mented!(", "finish it"),
    (
        "/ho",
        "me/",
        "paths of one machine do not belong in the tree",
    ),
    (
        "/ro",
        "ot/",
        "paths of one machine do not belong in the tree",
    ),
    (
        "/wo",
        "rk/",
        "paths of one machine do not belong in the tree",
    ),
    (
        "DESIGN",
        ".md",
        "no such page is in this repository; see ARCHITECTURE.md",
    ),
    (
        "MODELS",
        ".md",
        "no such page is in this repository; see ARCHITECTURE.md",
    ),
];

/// Code that only some files may contain: the code, the files, the reason.
const ONLY: [(&str, &str, &[&str], &str); 4] = [
    (
        "SystemTime::",
        "now()",
        &[
            "crates/certs/",
            "crates/runtime/src/clock.rs",
            "src/cli/local.rs",
            "tools/",
            "xtask/",
        ],
        "wall clocks tell people dates, and decide nothing; see sestina_runtime::clock",
    ),
    (
        "mpsc::unbounded_",
        "channel(",
        &[],
        "every queue is bounded",
    ),
    (
        "Server::",
        "builder()",
        &["crates/rpc/src/server.rs"],
        "servers between tiers are made by sestina_rpc::RpcServer, with its limits and TLS",
    ),
    (
        "opentele",
        "metry::",
        &["crates/telemetry/"],
        "only sestina-telemetry knows OpenTelemetry",
    ),
];

/// Checks all files of the tree.
pub(super) fn check(root: &Path, found: &mut Findings) -> Result<()> {
    let mut files = Vec::new();
    walk(root, &mut files)?;
    files.sort();
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path);
        let name = name.to_string_lossy().into_owned();
        let Ok(text) = String::from_utf8(
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
        ) else {
            continue;
        };
        check_words(&name, &text, found);
        if name.ends_with(".rs") {
            check_source(&name, &text, found);
            super::layers::check(&name, &text, found);
        }
    }
    Ok(())
}

pub(super) fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        // In a worktree `.git` is a file.
        if SKIP.iter().any(|skip| name == *skip) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() && name != "Cargo.lock" {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn check_words(name: &str, text: &str, found: &mut Findings) {
    for (first, second, why) in FORBIDDEN {
        let word = format!("{first}{second}");
        for (number, line) in text.lines().enumerate() {
            if line.contains(&word) && !name.ends_with("package-lock.json") {
                found.error(format!("{name}:{}: {word:?}: {why}", number + 1));
            }
        }
    }
}

fn is_test(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    name.contains("/tests/")
        || name.contains("/sim/")
        || name.starts_with("tests/")
        || file.contains("tests")
}

fn check_source(name: &str, text: &str, found: &mut Findings) {
    let lines = text.lines().count();
    let most = if is_test(name) {
        MOST_TEST_LINES
    } else {
        MOST_LINES
    };
    if lines > most {
        found.error(format!(
            "{name} has {lines} lines, more than {most}: split it"
        ));
    } else if lines > WARN_LINES && !is_test(name) {
        found.warn(format!("{name} has {lines} lines, more than {WARN_LINES}"));
    }
    let file = name.rsplit('/').next().unwrap_or(name);
    if !is_test(name) && file != "build.rs" && !text.trim_start().starts_with("//!") {
        found.error(format!(
            "{name} does not begin with a comment (//!) that says what is in it"
        ));
    }
    if !is_test(name) {
        super::sizes::check(name, text, found);
    }
    for (first, second, allowed, why) in ONLY {
        let code = format!("{first}{second}");
        let here = text.contains(&code) && !is_test(name);
        if here && !allowed.iter().any(|allowed| name.starts_with(allowed)) {
            found.error(format!("{name}: {code:?}: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(name: &str, text: &str) -> Vec<String> {
        let mut found = Findings::default();
        check_words(name, text, &mut found);
        check_source(name, text, &mut found);
        found.errors
    }

    #[test]
    fn finds_what_it_looks_for() {
        let clean = "//! A file.\nfn main() {}\n";
        assert!(errors("crates/a/src/lib.rs", clean).is_empty());
        assert_eq!(errors("crates/a/src/lib.rs", "fn main() {}").len(), 1);
        assert!(errors("crates/a/src/a_tests.rs", "fn main() {}").is_empty());
        let late = format!("{clean}// TO{}: later\n", "DO");
        assert!(errors("crates/a/src/lib.rs", &late)[0].contains("lib.rs:3"));
        let queue = format!("{clean}mpsc::unbounded_{}();", "channel");
        assert_eq!(errors("crates/a/src/lib.rs", &queue).len(), 1);
        assert!(errors("crates/a/src/tests/queue.rs", &queue).is_empty());
        let long = clean.repeat(MOST_LINES);
        assert_eq!(errors("crates/a/src/lib.rs", &long).len(), 1);
    }
}
