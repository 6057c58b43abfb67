//! The lease as this edge counts it.
//!
//! A renewal counts from before its request, on a clock that runs while the machine is suspended, so
//! the term of the authorities always ends later. There are three states:
//!
//! - *serving*, until the margin before the end of the term;
//! - *paused*, from then to the end: nothing is written to a socket and nothing is taken from lanes.
//!   Others cannot think yet that this edge is gone, so a renewal that is answered in this time was in
//!   time, and serving goes on with everything that is there;
//! - *over*, after the end: all sockets are cut, and this edge starts over as another incarnation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::identity::Holder;
use sestina_cluster::alone::FOREVER;
use sestina_cluster::lease_health::{LeaseHealth, LeaseSample};
use sestina_runtime::clock::BootInstant;
use tokio::sync::Notify;

use crate::config::EdgeConfig;
use crate::metrics::{Count, Timing};
use crate::shared::Shared;

/// How often to check whether a pause is over, if no notification comes.
const LOOK: Duration = Duration::from_millis(50);

/// A term of the lease.
#[derive(Clone, Copy, Debug)]
struct Term {
    /// Serving pauses then.
    serves_until: BootInstant,
    /// Everything is cut then.
    ends: BootInstant,
}

/// A renewal that is under way.
pub(super) struct Begun {
    late: Duration,
    at: BootInstant,
    /// Without it.
    serves_until: Option<BootInstant>,
}

/// Whether this edge may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Serving,
    Paused,
    /// There is no lease, or it has ended.
    Over,
}

/// The lease.
pub(crate) struct Lease {
    term: Mutex<Option<Term>>,
    /// Notified at each renewal, and when the lease is over.
    changed: Notify,
    /// Whether the pause is in the log.
    paused: AtomicBool,
    /// Whether a task has noticed that the lease ran out, and is cutting everything.
    lapsing: AtomicBool,
    /// An incarnation whose lease ran out, and that holds nothing any more.
    pub(super) over: Mutex<Option<Holder>>,
    /// Why a router did not renew it; empty: none has refused since it was renewed.
    pub(crate) refusal: Mutex<String>,
    health: LeaseHealth,
}

impl Lease {
    /// No lease yet. `time` gets the durations that renewals measure.
    pub(crate) fn new(
        config: &EdgeConfig,
        time: impl Fn(Timing, Duration) + Send + Sync + 'static,
    ) -> Lease {
        let serves = config.lease.ttl.saturating_sub(config.lease.margin);
        let pressure = config.around.pressure.clone();
        Lease {
            term: Mutex::default(),
            changed: Notify::new(),
            paused: AtomicBool::new(false),
            lapsing: AtomicBool::new(false),
            over: Mutex::default(),
            refusal: Mutex::default(),
            health: LeaseHealth::new(serves, pressure, move |sample| {
                time(Timing::LeaseLate, sample.late);
                time(Timing::LeaseRenewed, sample.took);
                if let Some(left) = sample.left {
                    time(Timing::LeaseLeft, left);
                }
            }),
        }
    }

    fn standing(&self) -> Standing {
        let Some(term) = *self.term.lock() else {
            return Standing::Over;
        };
        match BootInstant::now() {
            now if now < term.serves_until => Standing::Serving,
            now if now < term.ends => Standing::Paused,
            _ => Standing::Over,
        }
    }

    /// Whether it has to be renewed at once.
    pub(super) fn is_paused(&self) -> bool {
        self.standing() == Standing::Paused
    }

    /// Whether this edge may serve.
    pub(crate) fn holds(&self) -> bool {
        self.standing() == Standing::Serving
    }
}

impl Shared {
    /// Whether this edge may serve. If its lease has just run out, everything it holds is cut,
    /// before this returns.
    pub(crate) fn check_lease(&self) -> bool {
        self.standing() == Standing::Serving
    }

    fn standing(&self) -> Standing {
        let standing = self.lease.standing();
        match standing {
            Standing::Serving => {}
            Standing::Paused => self.pause(),
            Standing::Over => self.lapse(),
        }
        standing
    }

    /// The same for callers that can wait: it waits for the end of a pause, which is no longer than
    /// the margin.
    pub(crate) async fn await_lease(&self) -> bool {
        loop {
            let changed = self.lease.changed.notified();
            match self.standing() {
                Standing::Serving => return true,
                Standing::Over => return false,
                // Whether the time passed or a notification came, the standing is checked again.
                Standing::Paused => drop(tokio::time::timeout(LOOK, changed).await),
            }
        }
    }

    fn pause(&self) {
        if self.lease.paused.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(
            "the lease of this edge was not renewed in time; nothing is written to sockets until \
             it is"
        );
        self.metrics.count(Count::LeasePaused, 1);
    }

    /// Nothing may be written to clients any more: their sockets are cut without a stream error, so
    /// that they resume elsewhere, and this edge starts over as another incarnation.
    fn lapse(&self) {
        let lease = &self.lease;
        if lease.term.lock().is_none() || lease.lapsing.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(
            "the lease of this edge ran out; all sockets are cut so that clients resume elsewhere"
        );
        self.metrics.count(Count::LeaseLost, 1);
        let over = self.holder();
        self.cut_everything();
        *lease.over.lock() = Some(over);
        *lease.term.lock() = None;
        lease.paused.store(false, Ordering::Release);
        lease.lapsing.store(false, Ordering::Release);
        lease.changed.notify_waiters();
    }

    /// Ends all sockets and lanes at once, and takes a new incarnation.
    pub(crate) fn cut_everything(&self) {
        self.attachments.cut_everything(self);
        for (_, wire) in std::mem::take(&mut *self.logins.lock()) {
            wire.close(crate::transport::CloseKind::Abort);
        }
        self.directory.clear();
        self.renew_incarnation();
    }

    /// The lease was renewed by a request that was begun at `before`. False if it ran out meanwhile.
    pub(super) fn extend_lease(&self, before: BootInstant) -> bool {
        let (ttl, margin) = (self.config.lease.ttl, self.config.lease.margin);
        let serves_until = before.checked_add(ttl.saturating_sub(margin));
        let Some((serves_until, ends)) = serves_until.zip(before.checked_add(ttl)) else {
            return false;
        };
        {
            let mut term = self.lease.term.lock();
            if term.is_some_and(|term| BootInstant::now() >= term.ends) {
                drop(term);
                self.lapse();
                return false;
            }
            if term.is_none_or(|term| term.ends < ends) {
                *term = Some(Term { serves_until, ends });
            }
        }
        if self.lease.holds() && self.lease.paused.swap(false, Ordering::AcqRel) {
            tracing::info!("the lease of this edge is renewed; serving goes on");
            self.metrics.count(Count::LeaseResumed, 1);
        }
        self.lease.changed.notify_waiters();
        true
    }

    /// A renewal begins, `late` after its time.
    pub(super) fn begin_renewal(&self, late: Duration) -> Begun {
        let term = *self.lease.term.lock();
        let term = term.filter(|_| self.config.lease.ttl < FOREVER);
        Begun {
            late,
            at: BootInstant::now(),
            serves_until: term.map(|term| term.serves_until),
        }
    }

    /// It was answered or given up.
    pub(super) fn note_renewal(&self, renewal: &Begun) {
        let now = BootInstant::now();
        self.lease.health.note(LeaseSample {
            late: renewal.late,
            took: now.duration_since(renewal.at),
            left: renewal.serves_until.map(|until| until.duration_since(now)),
        });
    }
}
