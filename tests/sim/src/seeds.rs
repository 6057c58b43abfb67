//! Runs of many seeds, on as many threads as there are cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::rounds::run;

/// How many seeds are run by default.
pub const SEEDS: u64 = 160;

/// The guards ([`sestina_runtime::mutation`]) that the simulation proves: with one of them switched off, some
/// seed fails.
pub const GUARDS: &[&str] = &[
    "epoch",
    "generation",
    "event-log",
    "dedupe",
    "stored",
    "write-order",
    "lost-writes",
    "timeline",
    "room-members",
    "lane-refuses",
    "report-parts",
    "second-holder",
    "spare-copies",
    "predecessor-accepted",
    "stream-order",
    "data-doubt",
];

/// Which seeds to run, and how. The default is what the environment says (`SESTINA_SIM_*`).
#[derive(Clone, Debug)]
pub struct Plan {
    /// The first seed.
    pub first: u64,
    /// How many seeds.
    pub seeds: u64,
    /// Whether to stop at the first seed that fails.
    pub enough: bool,
    /// How many threads; 0: one for each core.
    pub threads: usize,
    /// Whether to take faults of the network and of leases instead of the others.
    pub network: bool,
}

/// A seed that fails, and everything that is wrong with it.
pub type Failed = (u64, Vec<String>);

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            first: number("SESTINA_SIM_FIRST").unwrap_or(0),
            seeds: number("SESTINA_SIM_SEEDS").unwrap_or(SEEDS),
            enough: number("SESTINA_SIM_ENOUGH").is_some(),
            threads: 0,
            network: network(),
        }
    }
}

/// The seed that `SESTINA_SIM_SEED` names, if it names one.
pub fn chosen() -> Option<u64> {
    number("SESTINA_SIM_SEED")
}

/// Whether `SESTINA_SIM_NETWORK` asks for faults of the network.
pub fn network() -> bool {
    std::env::var_os("SESTINA_SIM_NETWORK").is_some_and(|value| value == "true")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one seed and prints its trace. Returns everything that is wrong with it.
pub fn replay(seed: u64, network: bool) -> Vec<String> {
    let (wrong, trace) = wrong_with(seed, true, network);
    for line in &trace {
        println!("{line}");
    }
    wrong
}

/// Runs one seed. Returns everything that is wrong with it, a panic too, and its trace if it is to be
/// `traced`.
fn wrong_with(seed: u64, traced: bool, network: bool) -> (Vec<String>, Vec<String>) {
    std::panic::catch_unwind(|| run(seed, traced, network)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default();
        (vec![format!("panicked: {text}")], Vec::new())
    })
}

/// Runs the seeds of a plan, and prints what is wrong with those that fail. Returns these in order.
pub fn failing(plan: &Plan) -> Vec<Failed> {
    let threads = match plan.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let next = AtomicU64::new(plan.first);
    let enough = AtomicBool::new(false);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= plan.first + plan.seeds {
                return;
            }
            let (wrong, _) = wrong_with(seed, false, plan.network);
            if !wrong.is_empty() {
                println!("seed {seed}: {}", wrong.join("\n    "));
                failed.lock().push((seed, wrong));
                enough.store(plan.enough, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut failed = failed.into_inner();
    failed.sort();
    failed
}
