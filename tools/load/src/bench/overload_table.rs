//! The table of the overload scenario: how much arrives, and the effect on the clients.

use std::fmt::Write as _;

use super::outcome::Outcome;

/// One line for each run.
pub(super) fn markdown(scenario: &str, outcomes: &[&Outcome]) -> String {
    let mut out = format!(
        "### {scenario}\n\n| server | can do per s | offered per s | arrived per s | held back per s \
         | p50 ms | p99 ms | clients cut | never arrived | leases lost | generator cores |\n|{}\n",
        "---|".repeat(11)
    );
    for outcome in outcomes {
        let Some(found) = &outcome.overload else {
            continue;
        };
        let leases = match found.leases_lost {
            Some(lost) => lost.to_string(),
            None => "—".to_owned(),
        };
        writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {} | {leases} | {:.2} |",
            outcome.server,
            found.capacity_per_second,
            found.offered_per_second,
            outcome.per_second,
            found.skipped_per_second,
            outcome.latency.p50_us / 1e3,
            outcome.latency.p99_us / 1e3,
            found.cut,
            found.missing,
            outcome.generator.cores,
        )
        .expect("writing to a string does not fail");
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::outcome::{Generator, Latency, Overload};

    #[test]
    fn a_run_is_a_line_with_as_many_columns_as_the_head() {
        let outcome = Outcome {
            server: "a".to_owned(),
            scenario: "overload".to_owned(),
            unit: "message".to_owned(),
            operations: 10,
            wall_s: 1.0,
            per_second: 1234.0,
            cpu_us: BTreeMap::new(),
            latency: Latency::default(),
            generator: Generator::default(),
            requests_per_1000: 0.0,
            delivery_bytes: 0.0,
            memory: BTreeMap::new(),
            overload: Some(Overload {
                capacity_per_second: 2000.0,
                offered_per_second: 4000.0,
                cut: 3,
                ..Overload::default()
            }),
        };
        let text = markdown("overload", &[&outcome]);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        let columns = |line: &str| line.matches('|').count();
        assert!(
            lines[2].starts_with("| a | 2000 | 4000 | 1234 | 0 |"),
            "{text}"
        );
        assert_eq!(columns(lines[2]), columns(lines[0]), "{text}");
        assert_eq!(columns(lines[1]), columns(lines[0]), "{text}");
    }
}
