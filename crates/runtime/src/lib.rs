//! Small tools that every tier uses: owned tasks, shutdown, bounded queues, back-off, the clock
//! that goes on while suspended, and the switches by which tests make a process fail at a chosen
//! place.
//!
//! - [`spawn`]: task groups that end together; tasks that did not end are named
//! - [`shutdown`]: signals become tokens
//! - [`backoff`]: jittered exponential waits
//! - [`coalesce`]: coalesces items for which no caller waits
//! - [`logged`]: log lines that are written once for each cause
//! - [`mailbox`]: a queue bounded by count and bytes; a push never waits, the reader takes all
//!   items at once
//! - [`clock`]: the clock that leases are counted on
//! - [`memory`]: how much memory this process can use
//! - [`lease_thread`]: a thread for renewals, which must not wait for the process's work
//! - [`pressure`]: whether the process is overloaded
//! - [`mod@failpoint`]: named places where a test may kill, stop, delay or fail the process
//! - [`mutation`]: guards that a test may switch off to prove that a test notices it

pub mod backoff;
pub mod clock;
pub mod coalesce;
pub mod failpoint;
pub mod lease_thread;
pub mod logged;
pub mod mailbox;
pub mod memory;
pub mod mutation;
pub mod pressure;
pub mod shutdown;
pub mod spawn;

pub use tokio_util::sync::CancellationToken;

/// Reads the fault switches of both kinds (`SESTINA_FAILPOINTS`, `SESTINA_MUTATIONS`) from the
/// environment, and logs each as a warning. To be called once, after logging is set up and before
/// any other work.
pub fn faults_from_env() -> Result<(), FaultsError> {
    failpoint::init_from_env()?;
    mutation::init_from_env()?;
    Ok(())
}

/// A fault switch in the environment that names no point, action or guard.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    /// In `SESTINA_FAILPOINTS`.
    #[error("SESTINA_FAILPOINTS: {0}")]
    Failpoint(#[from] failpoint::FailpointError),
    /// In `SESTINA_MUTATIONS`.
    #[error("SESTINA_MUTATIONS: {0}")]
    Mutation(#[from] mutation::UnknownGuard),
}

/// Compares strings in a constant: names of points and guards are checked at compile time.
pub(crate) const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}
