//! Sessions that are online and do nothing: their memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::open::Target;
use super::outcome::{Memory, Outcome, Start};
use super::spec::{IdleSpec, Timing};
use super::traffic::Readers;
use crate::floor::hello::{Hello, Role};
use crate::measure::process::{own, usage};

/// Measures idle sessions at one server.
///
/// # Errors
/// When sessions cannot be opened or do not stay.
pub async fn idle(target: &Target, timing: &Timing, spec: &IdleSpec) -> Result<Outcome> {
    let hello = |number: usize| Hello {
        group: 0,
        role: Role::Idle,
        number,
        incoming: 0,
        outgoing: 0,
        ask_every: timing.floor_ask_every,
    };
    let pids = &target.spec.pids;
    let start = Start {
        usage: usage(pids)?,
        own: own()?,
    };
    let begin = Instant::now();
    let mut readers = Readers::default();
    // In portions, so that sessions that are open answer the server while others log in.
    let mut opened = 0;
    while opened < spec.sessions {
        let end = (opened + 500).min(spec.sessions);
        readers.add_idle(
            target
                .open(opened..end, spec.concurrency, true, hello)
                .await?,
        );
        opened = end;
    }
    let wall_s = begin.elapsed().as_secs_f64();
    sleep(Duration::from_secs_f64(spec.rest_s)).await;
    readers.check()?;
    let end = Start {
        usage: usage(pids)?,
        own: own()?,
    };
    readers.close().await;
    sleep(Duration::from_secs_f64(spec.after_s)).await;
    let after = usage(pids)?;

    let sessions = spec.sessions.max(1) as f64;
    let mut outcome = start.outcome(&end, "session", spec.sessions as u64, wall_s);
    for (group, with_sessions) in &end.usage.resident {
        let of = |usage: &std::collections::BTreeMap<String, u64>| {
            usage.get(group).copied().unwrap_or_default()
        };
        let (before, after) = (of(&start.usage.resident), of(&after.resident));
        let memory = Memory {
            before,
            with_sessions: *with_sessions,
            after,
            per_session: (*with_sessions as f64 - before as f64) / sessions,
            kept_per_session: (after as f64 - before as f64) / sessions,
        };
        outcome.memory.insert(group.clone(), memory);
    }
    Ok(outcome)
}
