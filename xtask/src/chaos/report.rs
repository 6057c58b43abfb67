//! The result of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

/// One fault, as this tool saw it.
#[derive(Debug)]
pub(super) struct Incident {
    pub(super) label: String,
    pub(super) kinds: Vec<String>,
    /// From its begin to its end.
    pub(super) held_ms: u64,
    /// From its end until the cluster was redundant; none if that took too long.
    pub(super) redundant_ms: Option<u64>,
    /// All sessions were connected again in time.
    pub(super) connected: bool,
    /// Processes that ended without an order.
    pub(super) unexpected: Vec<String>,
    /// Broken promises that the fault itself found.
    pub(super) broken: Vec<String>,
    /// How often accounts were looked up in the database during the fault.
    pub(super) queries: u64,
    /// The most memory that a process of the server has used until then, MiB, and its name.
    pub(super) peak: (u64, String),
}

impl Incident {
    /// For the terminal.
    pub(super) fn line(&self) -> String {
        let mut line = format!("over after {} ms", self.held_ms);
        match self.redundant_ms {
            Some(ms) => line.push_str(&format!(", redundant {ms} ms later")),
            None => line.push_str(", never redundant again"),
        }
        if !self.connected {
            line.push_str(", not all sessions came back in time");
        }
        line.push_str(&format!(
            ", {} accounts looked up, most memory {} MiB ({})",
            self.queries, self.peak.0, self.peak.1
        ));
        if !self.unexpected.is_empty() {
            line.push_str(&format!(
                ", ended by themselves: {}",
                self.unexpected.join(", ")
            ));
        }
        line
    }
}

/// All faults of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) incidents: Vec<Incident>,
}

/// The promise for a kind of fault: the kind, two keys that name the figure in the load's window,
/// and its limit in milliseconds.
const BUDGETS: [(&str, &str, &str, f64); 5] = [
    ("kill router", "stall", "p99_ms", 5000.0),
    ("suspend router past its lease", "stall", "p99_ms", 5000.0),
    ("drain router", "stall", "p99_ms", 200.0),
    ("kill edge", "connect_to_resumed", "p99_ms", 200.0),
    ("drain edge", "connect_to_resumed", "p99_ms", 200.0),
];

impl Report {
    /// Whether the cluster became redundant after each fault.
    pub(super) fn came_back(&self) -> bool {
        self.incidents
            .iter()
            .all(|incident| incident.redundant_ms.is_some())
    }

    /// All broken promises.
    pub(super) fn violations(&self, verdict: &Value) -> Vec<String> {
        let mut found = Vec::new();
        let check = &verdict["check"];
        for (key, what) in [
            ("lost", "acknowledged messages lost"),
            ("doubled", "messages delivered twice"),
            ("reordered", "messages out of order"),
            ("invented", "messages that no session sent"),
            ("archives_unread", "archives that could not be read"),
            (
                "archive_missing",
                "acknowledged messages missing in an archive",
            ),
            ("archive_doubled", "messages twice in an archive"),
            ("archive_reordered", "messages out of order in an archive"),
            (
                "stanza_id_mismatch",
                "messages archived under another id than delivered",
            ),
        ] {
            match check[key].as_u64() {
                Some(0) => {}
                Some(count) => found.push(format!("{count} {what}")),
                None => found.push(format!("the checker does not say how many {what}")),
            }
        }
        let total = &verdict["total"];
        let counts = [
            (&total["resumes_refused"], "resumptions refused"),
            (
                &total["untouched_disconnects"],
                "sessions on untouched edges disconnected",
            ),
            (
                &verdict["leaves_seen"],
                "occupants announced as gone that had not left",
            ),
            (&verdict["evictions"], "sessions put out of their room"),
        ];
        for (count, what) in counts {
            if let Some(count) = count.as_u64().filter(|count| *count > 0) {
                found.push(format!("{count} {what}"));
            }
        }
        if verdict["settled"].as_bool() != Some(true) {
            found.push("some messages were not acknowledged and delivered in the end".to_owned());
        }
        for incident in &self.incidents {
            if incident.redundant_ms.is_none() {
                found.push(format!(
                    "{}: the cluster did not become redundant",
                    incident.label
                ));
            }
            if !incident.connected {
                found.push(format!("{}: not all sessions came back", incident.label));
            }
            for broken in &incident.broken {
                found.push(format!("{}: {broken}", incident.label));
            }
            for name in &incident.unexpected {
                found.push(format!("{}: {name} ended by itself", incident.label));
            }
        }
        found
    }

    /// Writes `report.json` and `report.txt`; returns the latter.
    pub(super) fn write(&self, folder: &Path, seed: u64, verdict: &Value) -> Result<String> {
        let incidents: Vec<Value> = self
            .incidents
            .iter()
            .map(|incident| {
                json!({"label": incident.label, "kinds": incident.kinds,
                    "held_ms": incident.held_ms, "redundant_ms": incident.redundant_ms,
                    "connected": incident.connected, "unexpected": incident.unexpected,
                    "broken": incident.broken, "account_queries": incident.queries, "peak_mib": incident.peak.0})
            })
            .collect();
        let all = json!({"seed": seed, "incidents": incidents, "load": verdict});
        fs::write(
            folder.join("report.json"),
            serde_json::to_string_pretty(&all)?,
        )?;
        let text = self.text(seed, verdict);
        fs::write(folder.join("report.txt"), &text)?;
        Ok(text)
    }

    fn text(&self, seed: u64, verdict: &Value) -> String {
        let mut text = String::new();
        let (check, total) = (&verdict["check"], &verdict["total"]);
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        add(
            &mut text,
            &format!(
                "\nseed {seed}: {} faults; {} messages sent, {} acknowledged, {} delivered, {} archives \
             read; longest stall {:.0} ms",
                self.incidents.len(),
                check["sent"],
                check["acknowledged"],
                check["delivered"],
                check["archives_read"],
                number(&total["longest_stall_ms"]),
            ),
        );
        add(
            &mut text,
            &format!(
                "{:<32} {:>3} {:>12} {:>12} {:>12} {:>18} {:>18} {:>16}",
                "fault",
                "n",
                "stall p99",
                "longest",
                "others p99",
                "recovery p50/p99",
                "resumed p50/p99",
                "redundant p50/p99"
            ),
        );
        let windows: Vec<&Value> = verdict["windows"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let mut kinds: BTreeMap<String, (Vec<&Value>, Vec<u64>)> = BTreeMap::new();
        for incident in &self.incidents {
            let entry = kinds.entry(incident.kinds.join(" and ")).or_default();
            let window = windows
                .iter()
                .find(|window| window["label"].as_str() == Some(incident.label.as_str()));
            entry.0.extend(window);
            entry.1.extend(incident.redundant_ms);
        }
        for (kind, (windows, mut redundant)) in kinds {
            let most = |group: &str, key: &str| {
                let values = windows.iter().map(|window| number(&window[group][key]));
                values.fold(0.0, f64::max)
            };
            redundant.sort_unstable();
            let longest = windows
                .iter()
                .map(|window| number(&window["longest_stall_ms"]));
            add(
                &mut text,
                &format!(
                    "{kind:<32} {:>3} {:>9.0} ms {:>9.0} ms {:>9.0} ms {:>7.0} / {:>5.0} ms {:>7.0} / {:>5.0} ms {:>5} / {:>5} ms",
                    windows.len(),
                    most("stall", "p99_ms"),
                    longest.fold(0.0, f64::max),
                    windows
                        .iter()
                        .map(|window| others(window))
                        .fold(0.0, f64::max),
                    most("recovery", "p50_ms"),
                    most("recovery", "p99_ms"),
                    most("connect_to_resumed", "p50_ms"),
                    most("connect_to_resumed", "p99_ms"),
                    rank(&redundant, 0.5),
                    rank(&redundant, 0.99),
                ),
            );
            for (name, group, key, budget) in BUDGETS {
                if name == kind {
                    let got = most(group, key);
                    let judged = if got <= budget { "within" } else { "OVER" };
                    add(
                        &mut text,
                        &format!(
                            "    {judged} the budget: {} p99 {got:.0} ms of {budget:.0} ms",
                            group.replace('_', " ")
                        ),
                    );
                }
            }
        }
        let examples = check["examples"].as_array().into_iter().flatten();
        for example in examples.filter_map(Value::as_str) {
            add(&mut text, &format!("  {example}"));
        }
        text
    }
}

/// Latency (p99, ms) between sessions that the fault did not affect; of all if it affected none.
fn others(window: &Value) -> f64 {
    let key = match window["struck"].as_u64() {
        Some(0) | None => "latency_p99_ms",
        // 0 if all sessions were on the affected edge.
        Some(_) => "others_p99_ms",
    };
    window[key].as_f64().unwrap_or_default()
}

fn add(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn rank(sorted: &[u64], share: f64) -> u64 {
    let place = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted.get(place - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Value {
        json!({
            "settled": true, "leaves_seen": 0, "evictions": 0,
            "check": {"sent": 9, "acknowledged": 9, "delivered": 9, "archives_read": 2,
                "lost": 0, "doubled": 0, "reordered": 0, "invented": 0, "archives_unread": 0,
                "archive_missing": 0, "archive_doubled": 0, "archive_reordered": 0,
                "stanza_id_mismatch": 0, "examples": []},
            "total": {"resumes_refused": 0, "untouched_disconnects": 0, "longest_stall_ms": 61.0},
            "windows": [{"label": "01 kill router (router-1)", "longest_stall_ms": 4100.0,
                "stall": {"p99_ms": 4000.0}, "recovery": {}, "connect_to_resumed": {}}],
        })
    }

    fn report() -> Report {
        Report {
            incidents: vec![Incident {
                label: "01 kill router (router-1)".to_owned(),
                kinds: vec!["kill router".to_owned()],
                held_ms: 100,
                redundant_ms: Some(700),
                connected: true,
                unexpected: Vec::new(),
                broken: Vec::new(),
                queries: 0,
                peak: (1, "edge-1".to_owned()),
            }],
        }
    }

    #[test]
    fn a_clean_run_has_no_violations_and_is_compared_with_its_budget() {
        assert_eq!(report().violations(&verdict()), Vec::<String>::new());
        let text = report().text(5, &verdict());
        assert!(
            text.contains("within the budget: stall p99 4000 ms of 5000 ms"),
            "{text}"
        );
    }

    #[test]
    fn every_fault_of_the_server_is_a_violation() {
        let mut bad = verdict();
        bad["check"]["lost"] = json!(1);
        bad["total"]["resumes_refused"] = json!(2);
        bad["leaves_seen"] = json!(3);
        bad["settled"] = json!(false);
        let mut report = report();
        report.incidents[0].redundant_ms = None;
        report.incidents[0].unexpected.push("router-1".to_owned());
        let found = report.violations(&bad);
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(!report.came_back());
        bad["check"] = json!({});
        assert!(report.violations(&bad).len() > 9);
    }
}
