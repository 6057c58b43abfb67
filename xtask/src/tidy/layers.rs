//! The cut between the engine, which owns, orders and replicates, and the code that decides what an XMPP server does:
//! the latter names nothing of the former, so that a feature is written and tested without it.

use super::Findings;

/// Folders whose code decides.
const DECIDE: [&str; 3] = [
    "services/router/src/domain/",
    "services/router/src/hooks/",
    "services/router/src/modules/",
];
/// Words of the engine, and modules of it.
const ENGINE: [&str; 10] = [
    "slot", "slots", "lane", "lanes", "job", "jobs", "counter", "counters", "worker", "process",
];

/// Checks a source file.
pub(super) fn check(name: &str, text: &str, found: &mut Findings) {
    if !DECIDE.iter().any(|folder| name.starts_with(folder)) {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or(line);
        let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| ENGINE.contains(word)) {
            found.error(format!(
                "{name}:{}: {word:?} is a word of the engine: code that decides returns what is to happen",
                number + 1
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(name: &str, text: &str) -> Vec<String> {
        let mut found = Findings::default();
        check(name, text, &mut found);
        found.errors
    }

    #[test]
    fn code_that_decides_names_nothing_of_the_engine() {
        let name = "services/router/src/domain/room/state.rs";
        let text = "// its slot\nlet home = 1;\nuse crate::worker::core::Core;\nlet slot = 1;\n";
        let found = errors(name, text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("state.rs:3: \"worker\""), "{found:?}");
        assert!(errors("services/router/src/worker/core.rs", text).is_empty());
    }
}
