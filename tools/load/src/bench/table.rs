//! Medians and ratios as Markdown.

use std::fmt::Write as _;

use super::all::Findings;
use super::outcome::Outcome;
use super::overload_table;

const SERVER: &str = "server";
const FLOORS: [&str; 2] = ["floor-plain", "floor-coalescing"];
/// Runs are not compared if their generators differ by more cores than this.
const COMPARABLE_CORES: f64 = 0.1;
/// If the generator uses more cores than this, its wall-clock figures do not show the server's
/// speed.
const BUSY_CORES: f64 = 0.9;

/// The tables of all scenarios, in the order in which they ran.
#[must_use]
pub fn markdown(findings: &Findings) -> String {
    let mut names: Vec<&str> = Vec::new();
    let failed = findings
        .failures
        .iter()
        .map(|failure| failure.scenario.as_str());
    for name in findings
        .outcomes
        .iter()
        .map(|o| o.scenario.as_str())
        .chain(failed)
    {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut out = String::new();
    for name in names {
        table(&mut out, findings, name);
    }
    out.push_str(
        "CPU is that of all threads and children of the group's processes, per operation. \
         `×` is the ratio of the servers' CPU (or memory) to that of the floor. † the generators \
         of the two runs differ by more than 0.1 core. — a wall-clock figure with the generator \
         above 0.9 core is not quoted.\n",
    );
    out
}

fn table(out: &mut String, findings: &Findings, scenario: &str) {
    let outcomes: Vec<&Outcome> = findings
        .outcomes
        .iter()
        .filter(|outcome| outcome.scenario == scenario)
        .collect();
    if outcomes.iter().any(|outcome| outcome.overload.is_some()) {
        out.push_str(&overload_table::markdown(scenario, &outcomes));
        failures(out, findings, scenario);
        return;
    }
    let mut servers: Vec<&str> = Vec::new();
    for outcome in &outcomes {
        if !servers.contains(&outcome.server.as_str()) {
            servers.push(&outcome.server);
        }
    }
    let rows: Vec<Row> = servers
        .iter()
        .filter_map(|server| Row::new(server, outcomes.iter().copied()))
        .collect();
    let Some(first) = rows.first() else {
        append(out, format_args!("### {scenario}\n\nall runs failed\n\n"));
        failures(out, findings, scenario);
        return;
    };
    let mut others: Vec<&str> = Vec::new();
    for (group, _) in rows.iter().flat_map(|row| &row.others) {
        if !others.contains(&group.as_str()) {
            others.push(group);
        }
    }
    let quantity = if first.memory {
        "KiB per session"
    } else {
        "CPU µs"
    };
    append(
        out,
        format_args!("### {scenario} (per {}, medians)\n\n", first.unit),
    );
    append(
        out,
        format_args!("| server | runs | {quantity} | × plain | × coalescing |"),
    );
    for group in &others {
        append(out, format_args!(" {group} |"));
    }
    if first.memory {
        out.push_str(" kept after leaving KiB |");
    }
    out.push_str(
        " per s | p50 ms | p99 ms | generator cores | switches | `<r/>` per 1,000 | bytes |\n",
    );
    let columns = 12 + others.len() + usize::from(first.memory);
    append(out, format_args!("|{}\n", "---|".repeat(columns)));
    for row in &rows {
        line(out, row, &rows, &others);
    }
    out.push('\n');
    failures(out, findings, scenario);
}

/// The line of a server.
fn line(out: &mut String, row: &Row, rows: &[Row], others: &[&str]) {
    let floor = |name| rows.iter().find(|row| row.server == name);
    append(
        out,
        format_args!("| {} | {} | {:.2} |", row.server, row.runs, row.cost),
    );
    for name in FLOORS {
        match floor(name) {
            Some(floor) if floor.cost > 0.0 => {
                let differ = (floor.cores - row.cores).abs() > COMPARABLE_CORES;
                let mark = if differ && !row.memory { "†" } else { "" };
                append(out, format_args!(" {:.2}{mark} |", row.cost / floor.cost));
            }
            _ => out.push_str(" |"),
        }
    }
    for group in others {
        match row.others.iter().find(|(name, _)| name == group) {
            Some((_, cost)) => append(out, format_args!(" {cost:.2} |")),
            None => out.push_str(" |"),
        }
    }
    if row.memory {
        append(out, format_args!(" {:.2} |", row.kept));
    }
    if row.cores > BUSY_CORES {
        out.push_str(" — | — | — |");
    } else {
        append(
            out,
            format_args!(
                " {:.0} | {:.2} | {:.2} |",
                row.per_second, row.p50_ms, row.p99_ms
            ),
        );
    }
    append(
        out,
        format_args!(
            " {:.2} | {:.2} | {:.0} | {:.0} |\n",
            row.cores, row.switches, row.requests, row.bytes
        ),
    );
}

fn failures(out: &mut String, findings: &Findings, scenario: &str) {
    let mut any = false;
    for failure in findings
        .failures
        .iter()
        .filter(|failure| failure.scenario == scenario)
    {
        append(
            out,
            format_args!("- failed at {}: {}\n", failure.server, failure.reason),
        );
        any = true;
    }
    if any {
        out.push('\n');
    }
}

fn append(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what)
        .expect("writing to a string does not fail");
}

/// The medians of one server.
struct Row {
    server: String,
    unit: String,
    runs: usize,
    memory: bool,
    cost: f64,
    kept: f64,
    others: Vec<(String, f64)>,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cores: f64,
    switches: f64,
    requests: f64,
    bytes: f64,
}

impl Row {
    fn new<'a>(server: &str, outcomes: impl Iterator<Item = &'a Outcome>) -> Option<Self> {
        let runs: Vec<&Outcome> = outcomes
            .filter(|outcome| outcome.server == server)
            .collect();
        let first = *runs.first()?;
        let memory = !first.memory.is_empty();
        let of = |pick: &dyn Fn(&Outcome) -> f64| median(runs.iter().map(|run| pick(run)));
        let cost = |group: &str| {
            of(&|run| match run.memory.get(group) {
                Some(memory) => memory.per_session / 1024.0,
                None => run.cpu_us.get(group).copied().unwrap_or_default(),
            })
        };
        Some(Self {
            server: server.to_owned(),
            unit: first.unit.clone(),
            runs: runs.len(),
            memory,
            cost: cost(SERVER),
            kept: of(&|run| {
                run.memory
                    .get(SERVER)
                    .map_or(0.0, |memory| memory.kept_per_session / 1024.0)
            }),
            others: first
                .cpu_us
                .keys()
                .filter(|group| *group != SERVER)
                .map(|group| (group.clone(), cost(group)))
                .collect(),
            per_second: of(&|run| run.per_second),
            p50_ms: of(&|run| run.latency.p50_us / 1e3),
            p99_ms: of(&|run| run.latency.p99_us / 1e3),
            cores: of(&|run| run.generator.cores),
            switches: of(&|run| run.generator.switches),
            requests: of(&|run| run.requests_per_1000),
            bytes: of(&|run| run.delivery_bytes),
        })
    }
}

/// The median; of an even number of values the lower of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::outcome::{Generator, Latency};
    use std::collections::BTreeMap;

    fn outcome(server: &str, cpu: f64, cores: f64) -> Outcome {
        Outcome {
            server: server.to_owned(),
            scenario: "chat".to_owned(),
            unit: "message".to_owned(),
            operations: 10,
            wall_s: 1.0,
            per_second: 1234.0,
            cpu_us: BTreeMap::from([("server".to_owned(), cpu), ("redis".to_owned(), 1.5)]),
            latency: Latency::default(),
            generator: Generator {
                cores,
                cpu_us: 1.0,
                switches: 0.5,
            },
            requests_per_1000: 40.0,
            delivery_bytes: 420.0,
            memory: BTreeMap::new(),
            overload: None,
        }
    }

    #[test]
    fn medians_ratios_and_marks_are_printed() {
        let outcomes = vec![
            outcome("a", 100.0, 0.5),
            outcome("a", 15.0, 0.5),
            outcome("a", 5.0, 0.5),
            outcome("b", 20.0, 0.95),
            outcome("floor-plain", 7.5, 0.45),
        ];
        let text = markdown(&Findings {
            outcomes,
            failures: Vec::new(),
        });
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap_or("")
        };
        assert!(
            line("| a |").starts_with("| a | 3 | 15.00 | 2.00 | | 1.50 | 1234 |"),
            "{text}"
        );
        assert!(
            line("| b |").starts_with("| b | 1 | 20.00 | 2.67† | | 1.50 | — |"),
            "{text}"
        );
        let columns = |line: &str| line.matches('|').count();
        assert_eq!(columns(line("| a |")), columns(line("|---")), "{text}");
        assert_eq!(columns(line("| server |")), columns(line("|---")), "{text}");
    }
}
