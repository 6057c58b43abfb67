//! Named places where a test makes the process die, stop, wait or fail.
//!
//! Points are always compiled in, so that tests run the binary that is released. A point that is
//! not armed costs a relaxed load and a branch. Points are armed by `SESTINA_FAILPOINTS`, by an
//! administrator's call or by [`arm`]:
//!
//! ```text
//! SESTINA_FAILPOINTS="router.accepted=3*kill;edge.received=pause:200"
//! ```
//!
//! An action without a count happens at every hit. With a count, as in `3*kill`, it happens once,
//! at the third hit, and the point is disarmed.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The environment variable that arms points at start.
pub const ENV: &str = "SESTINA_FAILPOINTS";

#[path = "failpoint_names.rs"]
mod names;

pub use names::NAMES;

const _: () = assert!(NAMES.len() <= 64, "the mask of armed points has 64 bits");

/// Bit n is set while `NAMES[n]` is armed.
static ARMED: AtomicU64 = AtomicU64::new(0);
static TABLE: Mutex<Vec<Armed>> = Mutex::new(Vec::new());

struct Armed {
    index: usize,
    action: Action,
    hits: u64,
}

/// The effect of an armed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process dies as by `kill -9`.
    Kill,
    /// The process stops as by SIGSTOP, until it gets SIGCONT.
    Suspend,
    /// The hit returns true: the code at the point fails as its description says.
    Error,
    /// The thread (or, with [`hit_async`], the task) waits.
    Pause(Duration),
}

/// The effect of a point, and at which hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The effect.
    pub kind: Kind,
    /// `Some(n)`: once, at the n-th hit. `None`: at every hit.
    pub at: Option<u64>,
}

/// Why a point cannot be armed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailpointError {
    /// No such point.
    #[error("no fail point is named {0:?}; the known ones are {known}", known = known_names())]
    UnknownName(String),
    /// No such action.
    #[error("{0:?} is no action; use kill, suspend, error or pause:MS, with a count as in 3*kill")]
    BadAction(String),
    /// Not `name=action`.
    #[error("{0:?} is not of the form name=action")]
    BadEntry(String),
}

impl FromStr for Action {
    type Err = FailpointError;

    fn from_str(text: &str) -> Result<Action, FailpointError> {
        let bad = || FailpointError::BadAction(text.to_owned());
        let (at, kind) = match text.split_once('*') {
            Some((count, kind)) => {
                let count = count
                    .trim()
                    .parse()
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(bad)?;
                (Some(count), kind)
            }
            None => (None, text),
        };
        let kind = match kind.trim() {
            "kill" => Kind::Kill,
            "suspend" => Kind::Suspend,
            "error" => Kind::Error,
            other => {
                let ms = other
                    .strip_prefix("pause:")
                    .and_then(|ms| ms.trim().parse().ok());
                Kind::Pause(Duration::from_millis(ms.ok_or_else(bad)?))
            }
        };
        Ok(Action { kind, at })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{at}*")?;
        }
        match self.kind {
            Kind::Kill => f.write_str("kill"),
            Kind::Suspend => f.write_str("suspend"),
            Kind::Error => f.write_str("error"),
            Kind::Pause(time) => write!(f, "pause:{}", time.as_millis()),
        }
    }
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

fn known_names() -> String {
    NAMES
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn known(name: &str) -> Result<usize, FailpointError> {
    index_of(name).ok_or_else(|| FailpointError::UnknownName(name.to_owned()))
}

/// Arms a point (again, counting from zero, if it was armed before).
pub fn arm(name: &str, action: Action) -> Result<(), FailpointError> {
    let index = known(name)?;
    let mut table = TABLE.lock();
    table.retain(|armed| armed.index != index);
    table.push(Armed {
        index,
        action,
        hits: 0,
    });
    ARMED.fetch_or(1 << index, Ordering::Relaxed);
    drop(table);
    tracing::warn!(point = name, %action, "fail point armed");
    Ok(())
}

/// Disarms a point.
pub fn disarm(name: &str) -> Result<(), FailpointError> {
    let index = known(name)?;
    let mut table = TABLE.lock();
    table.retain(|armed| armed.index != index);
    ARMED.fetch_and(!(1 << index), Ordering::Relaxed);
    Ok(())
}

/// Arms all points of a list of the form `name=action;name=action`; nothing is armed if one of
/// them is wrong.
pub fn arm_all(list: &str) -> Result<(), FailpointError> {
    let mut actions = Vec::new();
    for entry in list
        .split(';')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        let (name, action) = entry
            .split_once('=')
            .ok_or_else(|| FailpointError::BadEntry(entry.to_owned()))?;
        known(name.trim())?;
        actions.push((name.trim(), action.trim().parse()?));
    }
    actions
        .into_iter()
        .try_for_each(|(name, action)| arm(name, action))
}

/// The armed points with their actions and hits so far, for the administrator.
pub fn armed() -> Vec<(&'static str, Action, u64)> {
    TABLE
        .lock()
        .iter()
        .map(|armed| (NAMES[armed.index].0, armed.action, armed.hits))
        .collect()
}

/// Arms the points that [`ENV`] names.
pub(crate) fn init_from_env() -> Result<(), FailpointError> {
    match std::env::var(ENV) {
        Ok(list) => arm_all(&list),
        Err(_) => Ok(()),
    }
}

/// Called where a point is reached, by the macro [`failpoint!`](crate::failpoint!). True if the
/// caller must fail.
#[inline]
pub fn reach(index: usize) -> bool {
    is_armed(index) && hit_armed(index)
}

#[inline]
fn is_armed(index: usize) -> bool {
    ARMED.load(Ordering::Relaxed) & (1 << index) != 0
}

/// Counts a hit of an armed point and returns the effect that is due now.
fn due(index: usize) -> Option<Kind> {
    let mut table = TABLE.lock();
    let at = table.iter().position(|armed| armed.index == index)?;
    table[at].hits += 1;
    let Armed { action, hits, .. } = table[at];
    match action.at {
        Some(n) if hits < n => return None,
        Some(_) => {
            table.remove(at);
            ARMED.fetch_and(!(1 << index), Ordering::Relaxed);
        }
        None => {}
    }
    drop(table);
    tracing::warn!(point = NAMES[index].0, %action, "fail point hit");
    Some(action.kind)
}

/// Sends a signal to this process. It cannot fail: a process may always signal itself.
fn signal_self(signal: rustix::process::Signal) {
    if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), signal) {
        tracing::error!(%error, "the fail point could not signal its own process");
    }
}

/// Performs the effect of an armed point. A pause blocks the thread, as in a worker that has
/// stalled.
#[cold]
fn hit_armed(index: usize) -> bool {
    match due(index) {
        Some(Kind::Kill) => signal_self(rustix::process::Signal::KILL),
        Some(Kind::Suspend) => signal_self(rustix::process::Signal::STOP),
        Some(Kind::Pause(time)) => std::thread::sleep(time),
        Some(Kind::Error) => return true,
        None => {}
    }
    false
}

/// A hit by a name that is known only at run time. False if there is no such point.
pub fn hit(name: &str) -> bool {
    index_of(name).is_some_and(reach)
}

/// Like [`hit`], but a pause suspends the task, not the thread.
pub async fn hit_async(name: &str) -> bool {
    let Some(index) = index_of(name).filter(|index| is_armed(*index)) else {
        return false;
    };
    match due(index) {
        Some(Kind::Kill) => signal_self(rustix::process::Signal::KILL),
        Some(Kind::Suspend) => signal_self(rustix::process::Signal::STOP),
        Some(Kind::Pause(time)) => tokio::time::sleep(time).await,
        Some(Kind::Error) => return true,
        None => {}
    }
    false
}

/// Marks a fail point; true if the code there must fail. The name is checked at compile time.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {{
        const INDEX: usize = match $crate::failpoint::index_of($name) {
            Some(index) => index,
            None => panic!("unknown fail point: add it to failpoint_names.rs of sestina-runtime"),
        };
        $crate::failpoint::reach(INDEX)
    }};
}

#[cfg(test)]
#[path = "failpoint_tests.rs"]
mod tests;
