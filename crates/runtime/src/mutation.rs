//! Guards that a test switches off to prove that a test notices it.
//!
//! A safety check is tested only if some test fails without it. Each guard of the fencing and
//! replay rules is written `guard!("epoch") && …`; with `SESTINA_MUTATIONS=epoch` the guard is off,
//! and the fault-injection suite must fail. Nothing else switches a guard off: no configuration key
//! and no administrator's call.

use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable that switches guards off: names separated by commas.
pub const ENV: &str = "SESTINA_MUTATIONS";

/// Every guard: its name, and the rule that holds no more when it is off.
pub const NAMES: &[(&str, &str)] = &[
    (
        "epoch",
        "frames, writes to the state store and storage writes of an older epoch are refused",
    ),
    (
        "generation",
        "frames of an older generation of a session are refused",
    ),
    (
        "event-log",
        "a new owner re-sends the event log of a room before anything else",
    ),
    ("dedupe", "an item that has come before is dropped"),
    (
        "stored",
        "a stored message counts as delivered only when a client has taken it from its session's queue",
    ),
    (
        "two-authorities",
        "a slot moves only when both authorities say that the lease has ended",
    ),
    (
        "reached",
        "a slot in use moves only to a router that every live edge and owner of slots reaches",
    ),
    (
        "write-order",
        "a write to the state store that is not newer than the last one of its epoch is refused",
    ),
    (
        "lost-writes",
        "an owner that finds an older write than the store had acknowledged rewrites the slot",
    ),
    (
        "load-in-parts",
        "a load during which the store changed begins anew",
    ),
    (
        "timeline",
        "a table of a database that has lost commits is a new one, on which owners assert their slots",
    ),
    (
        "room-sequence",
        "a new owner numbers the events of a room above all that an earlier one can have numbered",
    ),
    (
        "room-members",
        "a new owner of a room learns from sessions who is in it",
    ),
    (
        "lane-refuses",
        "a frame that a full lane refused is sent again when there is room",
    ),
    (
        "written-ends",
        "a session that its owner ends leaves its rooms when the state store knows of the end",
    ),
    (
        "report-parts",
        "a new owner waits for all parts of an edge's report",
    ),
    (
        "lease-margin",
        "a process stops serving some time before its lease has ended",
    ),
    ("newer-table", "a slot table replaces an older one only"),
    (
        "sole",
        "a cluster of which one process alone holds something of a session is not redundant",
    ),
    (
        "roles",
        "a process does only what its tier needs, under a name of its certificate",
    ),
    (
        "incarnation-secret",
        "nothing is done for an incarnation without its secret",
    ),
    (
        "base-version",
        "the state store refuses a change of an object that it does not have as the owner knows it",
    ),
    (
        "second-holder",
        "a stanza is settled when a second process holds the stanzas that were delivered because of it",
    ),
    (
        "edge-knowledge",
        "an edge counts as a holder of a session when it has taken that it has the session",
    ),
    (
        "spare-copies",
        "copies of a session's stanzas at an earlier attachment or in the state store stay until its edge has them",
    ),
    (
        "predecessor-accepted",
        "a session goes on when its edge has sent again the stanzas that an earlier owner had accepted",
    ),
    (
        "refused-slots",
        "a stanza that an edge has refused does not count as held by it",
    ),
    (
        "stream-order",
        "stanzas from one slot to another are taken in the order of their stream",
    ),
    (
        "data-doubt",
        "a write of data that storage has not answered is cancelled before the next request, and changes nothing after it",
    ),
];

const _: () = assert!(NAMES.len() <= 32, "the mask of guards has 32 bits");

/// Bit n is set when `NAMES[n]` is off.
static OFF: AtomicU32 = AtomicU32::new(0);

/// The name in [`ENV`] that is no guard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guard is named {0:?}; the guards are {names}", names = names())]
pub struct UnknownGuard(pub String);

fn names() -> String {
    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// The place of a name in [`NAMES`].
pub const fn index_of(name: &str) -> Option<usize> {
    let mut i = 0;
    while i < NAMES.len() {
        if crate::same(NAMES[i].0, name) {
            return Some(i);
        }
        i += 1;
    }
    None
}

/// Whether the guard with this index is on; use the macro [`guard!`](crate::guard!).
#[inline]
pub fn is_on(index: usize) -> bool {
    OFF.load(Ordering::Relaxed) & (1 << index) == 0
}

/// Starts this test program once more, for one test and with a guard off, and returns its output.
/// The test fails there if it notices that the guard is missing.
///
/// # Errors
///
/// If the test program cannot be started.
pub fn test_without(guard: &str, test: &str) -> std::io::Result<String> {
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", test])
        .env(ENV, guard)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The guards that are off, for the status page.
pub fn off() -> Vec<&'static str> {
    NAMES
        .iter()
        .enumerate()
        .filter(|(i, _)| !is_on(*i))
        .map(|(_, (name, _))| *name)
        .collect()
}

fn parse(list: &str) -> Result<u32, UnknownGuard> {
    let mut mask = 0;
    for name in list
        .split([',', ';'])
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        mask |= 1 << index_of(name).ok_or_else(|| UnknownGuard(name.to_owned()))?;
    }
    Ok(mask)
}

/// Switches off the guards that [`ENV`] names.
pub(crate) fn init_from_env() -> Result<(), UnknownGuard> {
    let Ok(list) = std::env::var(ENV) else {
        return Ok(());
    };
    OFF.store(parse(&list)?, Ordering::Relaxed);
    for guard in off() {
        tracing::error!(
            guard,
            "SAFETY GUARD SWITCHED OFF by {ENV}: this process may corrupt and lose data; \
             unset the variable unless this is a test"
        );
    }
    Ok(())
}

/// True unless a test has switched this guard off. The name is checked at compile time.
#[macro_export]
macro_rules! guard {
    ($name:literal) => {{
        const INDEX: usize = match $crate::mutation::index_of($name) {
            Some(index) => index,
            None => panic!("unknown guard: add it to sestina_runtime::mutation::NAMES"),
        };
        $crate::mutation::is_on(INDEX)
    }};
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stdout)]
    use std::process::Command;

    use super::*;

    #[test]
    fn lists_are_read_and_unknown_names_refused() {
        assert_eq!(parse(""), Ok(0));
        assert_eq!(parse("epoch, dedupe"), Ok(0b1001));
        let error = parse("epoch,epochs").unwrap_err().to_string();
        assert!(error.starts_with("no guard is named \"epochs\""), "{error}");
        for (name, _) in NAMES {
            assert!(error.contains(name), "the message lists {name}");
        }
    }

    /// Also run as the child of the next test, with the variable set.
    #[test]
    fn guards_are_on_unless_the_environment_says_otherwise() {
        let mutated = std::env::var(ENV).is_ok();
        crate::faults_from_env().unwrap();
        assert_eq!(crate::guard!("event-log"), !mutated);
        assert!(crate::guard!("epoch"));
        assert_eq!(off(), if mutated { vec!["event-log"] } else { vec![] });
        println!(
            "tail is {}",
            if crate::guard!("event-log") {
                "on"
            } else {
                "off"
            }
        );
    }

    #[test]
    fn the_environment_switches_a_guard_off() {
        let name = "mutation::tests::guards_are_on_unless_the_environment_says_otherwise";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ENV, "event-log")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("tail is off"), "{text}");
    }
}
