//! docs/benchmarks.md: the tables of a run, and the notes below them, which people write.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::Options;
use crate::repo;

/// The text below this line is kept when the page is written again.
const NOTES: &str = "<!-- What is below this line is written by people and kept. -->";

/// Writes the page.
pub(super) fn write(options: &Options, tables: &[String], missing: &[&str]) -> Result<()> {
    let path = repo::root().join("docs/benchmarks.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(
        &path,
        render(options, &joined(tables), missing, &machine(), &old),
    )
    .with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote docs/benchmarks.md");
    Ok(())
}

/// The tables of several runs of the generator; the legend at the end of each appears once.
fn joined(tables: &[String]) -> String {
    let mut legend = "";
    let mut all = String::new();
    for table in tables {
        let (rows, end) = table.trim().rsplit_once("\n\n").unwrap_or((table, ""));
        all.push_str(rows.trim());
        all.push_str("\n\n");
        legend = end;
    }
    all + legend
}

fn render(options: &Options, table: &str, missing: &[&str], machine: &str, old: &str) -> String {
    let notes = old.split_once(NOTES).map_or("\n", |(_, notes)| notes);
    let missing = if missing.is_empty() {
        String::new()
    } else {
        format!(
            "\nNot measured, because it could not be had: {}.\n",
            missing.join(", ")
        )
    };
    format!(
        "# Benchmarks\n\nWritten by `cargo xtask bench`; below the tables are notes.\n\n\
         {machine}\n\nEach figure is the median of {} runs of {} s; runs interleave the servers. \
         TLS 1.3 and ECDSA P-256 for all; stream management on for all, and each asks for \
         acknowledgements as often as it does by itself (the column `<r/>`). *Three tiers* are 2 edges, 2 routers and 2 storage \
         processes with mutual TLS between them, all their CPU added up. The floors are bare TLS \
         servers that send frames of the same size: *plain* makes one record and one write of \
         each delivery, *coalescing* combines the deliveries of one turn for a socket. Settings \
         of this server differ from the defaults in that limits on connections from one address \
         and on bytes per second are off, and the archive is off unless the row says otherwise. \
         Prosody's garbage collector is set as large Jitsi installations set it.\n\
         {missing}\n{}\n\n{NOTES}{notes}",
        options.runs,
        options.seconds,
        table.trim()
    )
}

/// The machine and the versions, in a sentence.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let first_line = |program: &str, arguments: &[&str]| {
        let text = repo::capture(Command::new(program).args(arguments)).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    format!(
        "Machine: {model}, {cores} cores, Linux {}; {}; Prosody {}; ejabberd {}.",
        first_line("uname", &["-r"]),
        first_line("rustc", &["--version"]),
        first_line("dpkg-query", &["-W", "-f=${Version}", "prosody"]),
        first_line("dpkg-query", &["-W", "-f=${Version}", "ejabberd"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legend_stands_once() {
        let tables = [
            "| a |\n\nlegend\n".to_owned(),
            "| b |\n\nlegend\n".to_owned(),
        ];
        assert_eq!(joined(&tables), "| a |\n\n| b |\n\nlegend");
    }

    #[test]
    fn notes_survive() {
        let options = Options {
            runs: 5,
            seconds: 5.0,
            scenario: None,
            ours: false,
            before: None,
            release: false,
            dry: false,
        };
        let first = render(&options, "| a |", &["prosody"], "Machine: m.", "");
        assert!(first.contains("| a |") && first.contains("had: prosody"));
        let edited = format!("{first}\n## Where the time goes\n\nElsewhere.\n");
        let second = render(&options, "| b |", &[], "Machine: m.", &edited);
        assert!(second.contains("| b |") && !second.contains("| a |"));
        assert!(second.contains("## Where the time goes") && !second.contains("had:"));
        assert_eq!(second.matches(NOTES).count(), 1);
    }
}
