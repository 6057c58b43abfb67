//! The time until which a process may serve, by its own count of its lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sestina_runtime::clock::{BootInstant, Clock};
use sestina_runtime::guard;
use tokio::sync::watch;

use crate::lease::{Authority, LeaseTerms};

/// The lease is lost for good: the process must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is lost: {0}")]
pub struct LeaseLost(pub String);

/// The time until which this process may serve. A check costs two atomic loads and a reading of the
/// clock.
pub struct LeaseDeadline {
    clock: Arc<dyn Clock>,
    terms: LeaseTerms,
    /// End of the last renewed term with each authority, as nanoseconds; 0: none yet.
    until: [AtomicU64; 2],
    /// The lease is lost or given back: it is not renewed any more.
    over: AtomicBool,
    /// Notified at each renewal; holds the reason once the lease is lost.
    changes: watch::Sender<Option<LeaseLost>>,
}

impl LeaseDeadline {
    /// No lease yet.
    pub fn new(clock: Arc<dyn Clock>, terms: LeaseTerms) -> LeaseDeadline {
        LeaseDeadline {
            clock,
            terms,
            until: [AtomicU64::new(0), AtomicU64::new(0)],
            over: AtomicBool::new(false),
            changes: watch::Sender::new(None),
        }
    }

    /// Notes that an authority renewed the lease by a request that began at `started`.
    pub fn renewed(&self, authority: Authority, started: BootInstant) {
        if let Some(until) = started.checked_add(self.terms.ttl) {
            self.until[authority as usize].fetch_max(until.as_nanos(), Ordering::AcqRel);
            self.changes.send_modify(|_| {});
        }
    }

    /// Ends the lease for good.
    pub fn lose(&self, why: impl Into<String>) {
        self.over.store(true, Ordering::Release);
        let why = LeaseLost(why.into());
        self.changes.send_modify(|lost| {
            lost.get_or_insert(why);
        });
    }

    /// Ends serving before the lease is given back; not an error.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Whether this process may serve now.
    pub fn serving(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| self.clock.now() < deadline)
    }

    /// When the process must stop serving if nothing is renewed; `None` without a lease.
    pub fn deadline(&self) -> Option<BootInstant> {
        if self.over.load(Ordering::Acquire) {
            return None;
        }
        let until = self
            .until
            .each_ref()
            .map(|until| until.load(Ordering::Acquire));
        let last = until[0].max(until[1]);
        let margin = match guard!("lease-margin") {
            true => self.terms.margin,
            false => Duration::ZERO,
        };
        let margin = BootInstant::from_nanos(last)
            .as_nanos()
            .checked_sub(nanos(margin));
        margin.filter(|_| last > 0).map(BootInstant::from_nanos)
    }

    /// Whether that authority's lease is fresh by this process's count.
    pub fn fresh(&self, authority: Authority) -> bool {
        let until = self.until[authority as usize].load(Ordering::Acquire);
        self.clock.now() < BootInstant::from_nanos(until)
    }

    /// Whether that authority has ever granted the lease.
    pub fn held(&self, authority: Authority) -> bool {
        self.until[authority as usize].load(Ordering::Acquire) > 0
    }

    /// Waits until the process may serve.
    pub async fn wait_serving(&self) -> Result<(), LeaseLost> {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(lost) = changes.borrow_and_update().clone() {
                return Err(lost);
            }
            if self.serving() {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                // Impossible: `self` holds the sender.
                return Err(LeaseLost("the keeper has ended".into()));
            }
        }
    }

    /// Waits until the lease is lost for good, and returns the reason.
    pub async fn lost(&self) -> LeaseLost {
        let mut changes = self.changes.subscribe();
        match changes.wait_for(Option::is_some).await {
            Ok(lost) => lost.clone().unwrap_or(LeaseLost("no reason".into())),
            Err(_) => LeaseLost("the keeper has ended".into()),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
