//! What is measured: the same scenarios for every server.

use std::path::Path;

use serde_json::{Value, json};

use super::Options;

pub(super) const EMBEDDED: &str = "sestina, one process";
pub(super) const TIERS: &str = "sestina, three tiers";
/// For the scenario with the archive.
pub(super) const ACCOUNTS: usize = 400;
pub(super) const PASSWORD: &str = "not a secret";

/// The scenarios that the options leave.
pub(super) fn scenarios(options: &Options) -> Vec<Value> {
    let archived: Vec<String> = [EMBEDDED, TIERS]
        .iter()
        .map(|name| format!("{name}, archive"))
        .collect();
    let all = [
        // First: the memory of processes that have just started.
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
        json!({"name": "chat with archive, 8 in flight", "kind": "chat", "in_flight": 8,
            "servers": archived}),
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

/// Whether servers with an archive have to be started for it.
pub(super) fn needs_archive(scenario: &Value) -> bool {
    scenario["name"]
        .as_str()
        .is_some_and(|name| name.contains("with archive"))
}

/// What `sestina-load bench-all` reads.
pub(super) fn plan(
    options: &Options,
    servers: &[&Value],
    scenarios: &[Value],
    folder: &Path,
    table: &Path,
) -> Value {
    // Servers with an archive are for the scenario that names them; all others are for the rest.
    let plain: Vec<&str> = servers
        .iter()
        .filter_map(|server| server["name"].as_str())
        .filter(|name| !name.ends_with(", archive"))
        .collect();
    let scenarios: Vec<Value> = scenarios
        .iter()
        .map(|scenario| {
            let mut scenario = scenario.clone();
            if scenario["servers"].is_null() {
                scenario["servers"] = json!(plain);
            }
            scenario
        })
        .collect();
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
    fn every_scenario_names_its_servers() {
        let options = Options {
            runs: 3,
            seconds: 1.0,
            scenario: None,
            ours: false,
            dry: true,
        };
        let servers = [
            json!({"name": EMBEDDED}),
            json!({"name": format!("{EMBEDDED}, archive")}),
        ];
        let servers: Vec<&Value> = servers.iter().collect();
        let all = scenarios(&options);
        assert_eq!(all.iter().filter(|s| needs_archive(s)).count(), 1);
        let plan = plan(&options, &servers, &all, Path::new("a"), Path::new("b"));
        assert_eq!(plan["scenarios"][0]["servers"], json!([EMBEDDED]));
        let only = Options {
            scenario: Some("room".to_owned()),
            ..options
        };
        assert_eq!(scenarios(&only).len(), 2);
    }
}
