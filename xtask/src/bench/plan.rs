//! The scenarios, the same for every server.

use std::path::Path;

use serde_json::{Value, json};

use super::Options;

/// For the scenario with the archive.
pub(super) const ACCOUNTS: usize = 400;
pub(super) const PASSWORD: &str = "not a secret";

/// The scenarios that the options select.
pub(super) fn scenarios(options: &Options) -> Vec<Value> {
    let all = [
        json!({"name": "idle", "kind": "idle", "sessions": 10_000}),
        json!({"name": "chat, 8 in flight", "kind": "chat", "pairs": 200, "in_flight": 8}),
        json!({"name": "chat, 1 in flight", "kind": "chat", "pairs": 200, "in_flight": 1}),
        json!({"name": "chat, 4 in flight", "kind": "chat", "pairs": 200, "in_flight": 4}),
        json!({"name": "chat, 8 in flight in each pair", "kind": "chat", "pairs": 200,
            "in_flight": 8, "per_pair": true}),
        json!({"name": "chat, 500 a second", "kind": "chat", "pairs": 200, "rate": 500.0}),
        json!({"name": "login", "kind": "login"}),
        json!({"name": "room of 500, 1 in flight", "kind": "room", "in_flight": 1}),
        json!({"name": "room of 500, 4 in flight", "kind": "room", "in_flight": 4}),
        json!({"name": "chat, 1,000 online", "kind": "chat", "in_flight": 8, "background": 600}),
        json!({"name": "chat, 10,000 online", "kind": "chat", "in_flight": 8, "background": 9600}),
        json!({"name": "overload, twice what it can do", "kind": "overload", "times": 2.0}),
        json!({"name": "overload, a tenth of a core", "kind": "overload", "times": 1.0,
            "part": 10}),
        json!({"name": "chat with archive, 8 in flight", "kind": "chat", "in_flight": 8}),
    ];
    all.into_iter()
        .filter(|scenario| {
            let name = scenario["name"].as_str().unwrap_or_default();
            options
                .scenario
                .as_deref()
                .is_none_or(|part| name.contains(part))
        })
        .collect()
}

/// The scenarios that share servers: the memory of sessions is measured in newly started processes,
/// and the sessions that a scenario leaves behind must not affect others.
pub(super) fn groups(scenarios: &[Value]) -> Vec<Vec<Value>> {
    let mut groups: Vec<(u8, Vec<Value>)> = Vec::new();
    for scenario in scenarios {
        let kind = match scenario["kind"].as_str() {
            Some("idle") => 0,
            _ if needs_archive(scenario) => 4,
            Some("overload") => 3,
            _ if !scenario["background"].is_null() => 2,
            _ => 1,
        };
        match groups.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, group)) => group.push(scenario.clone()),
            None => groups.push((kind, vec![scenario.clone()])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Whether the scenario needs servers with an archive.
pub(super) fn needs_archive(scenario: &Value) -> bool {
    scenario["name"]
        .as_str()
        .is_some_and(|name| name.contains("with archive"))
}

/// The input of `sestina-load bench-all`.
pub(super) fn plan(
    options: &Options,
    servers: &[&Value],
    scenarios: &[Value],
    folder: &Path,
    table: &Path,
) -> Value {
    json!({
        "runs": options.runs,
        "timing": {"duration_s": options.seconds},
        "floors": true,
        "servers": servers,
        "scenarios": scenarios,
        "output": folder.join("outcomes.json"),
        "table": table,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_grouped_by_what_they_leave_behind() {
        let options = Options {
            runs: 3,
            seconds: 1.0,
            scenario: None,
            ours: false,
            before: None,
            release: false,
            dry: true,
        };
        let all = scenarios(&options);
        let groups = groups(&all);
        assert_eq!(groups.len(), 5);
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), all.len());
        assert!(groups[4].iter().all(needs_archive));
        let only = Options {
            scenario: Some("room".to_owned()),
            ..options
        };
        assert_eq!(scenarios(&only).len(), 2);
    }
}
