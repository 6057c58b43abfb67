//! Processor time from the clocks of the processes; memory and context switches from `/proc`.
//!
//! A group names processes; their descendants count too, because PostgreSQL works in child
//! processes. The time of ended children is added to that of their parent, so the sum over a group
//! does not fall while the parents live.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The unit of times in `/proc` is 1/100 s on every architecture that runs this program.
const TICKS_PER_SECOND: f64 = 100.0;

/// Named groups of process ids, such as `server`, `redis`, `postgres`.
pub type Groups = BTreeMap<String, Vec<u32>>;

/// The use of all groups at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor seconds by group.
    pub cpu: BTreeMap<String, f64>,
    /// Resident bytes by group.
    pub resident: BTreeMap<String, u64>,
}

struct Stat {
    parent: u32,
    own_ticks: u64,
    reaped_ticks: u64,
}

/// Reads the usage of all groups.
///
/// # Errors
/// When a named process does not exist.
pub fn usage(groups: &Groups) -> Result<Usage> {
    let mut usage = Usage::default();
    if groups.is_empty() {
        return Ok(usage);
    }
    let all = all_processes()?;
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, stat) in &all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    for (name, roots) in groups {
        let mut pending = roots.clone();
        let mut counted = Vec::new();
        let (mut cpu, mut resident) = (0.0, 0);
        while let Some(pid) = pending.pop() {
            if counted.contains(&pid) {
                continue;
            }
            counted.push(pid);
            let stat = all
                .get(&pid)
                .with_context(|| format!("process {pid} of group '{name}' does not exist"))?;
            cpu += cpu_seconds(pid, stat) + stat.reaped_ticks as f64 / TICKS_PER_SECOND;
            resident += resident_bytes(pid);
            pending.extend(children.get(&pid).into_iter().flatten());
        }
        usage.cpu.insert(name.clone(), cpu);
        usage.resident.insert(name.clone(), resident);
    }
    Ok(usage)
}

fn all_processes() -> Result<HashMap<u32, Stat>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(stat) = parse_stat(&text) {
            found.insert(pid, stat);
        }
    }
    Ok(found)
}

/// The processor time of all threads of a process so far, including ended ones. Its clock counts
/// nanoseconds; the hundredths of a second in `/proc` are too coarse for a process that works one
/// percent of the time.
fn cpu_seconds(pid: u32, stat: &Stat) -> f64 {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.cast_signed()));
    match clock.and_then(ClockId::now) {
        Ok(time) => Duration::from(time).as_secs_f64(),
        // The process has ended meanwhile.
        Err(_) => stat.own_ticks as f64 / TICKS_PER_SECOND,
    }
}

/// Resident memory; 0 for a process that has ended meanwhile.
fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// See proc(5): fields 3 and on follow the name in parentheses, which may contain any character.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        own_ticks: number(14)? + number(15)?,
        reaped_ticks: number(16)? + number(17)?,
    })
}

/// The generator's own use of the machine.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Own {
    /// Processor seconds.
    pub cpu: f64,
    /// Voluntary and involuntary context switches of all threads.
    pub switches: u64,
}

/// Reads the generator's own use.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn own() -> Result<Own> {
    let stat = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let stat = parse_stat(&stat).context("cannot understand /proc/self/stat")?;
    let mut switches = 0;
    for task in fs::read_dir("/proc/self/task").context("cannot list own threads")? {
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        switches += status
            .lines()
            .filter_map(|line| line.split_once("ctxt_switches:"))
            .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(Own {
        cpu: cpu_seconds(std::process::id(), &stat),
        switches,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) R b) S 7 1 1 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 5 0 99 1000 250 1";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.parent, stat.own_ticks, stat.reaped_ticks),
            (7, 30, 70)
        );
    }

    #[test]
    fn work_of_less_than_a_tick_is_seen() {
        let me = Groups::from([("me".to_owned(), vec![std::process::id()])]);
        let looks: Vec<f64> = (0..5).map(|_| usage(&me).unwrap().cpu["me"]).collect();
        assert!(looks.is_sorted_by(|a, b| a < b), "{looks:?}");
    }

    #[test]
    fn own_memory_is_seen_and_a_missing_process_is_an_error() {
        let me = Groups::from([("me".to_owned(), vec![std::process::id()])]);
        assert!(usage(&me).unwrap().resident["me"] > 1_000_000);
        let nobody = Groups::from([("x".to_owned(), vec![u32::MAX])]);
        assert!(
            usage(&nobody)
                .unwrap_err()
                .to_string()
                .contains("does not exist")
        );
    }
}
