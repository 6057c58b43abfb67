//! The storage processes behind the configured addresses, as they were last found.
//!
//! Names with several addresses are looked up again now and then, and when all replicas fail. While a
//! replica is known, the lookup runs in the background and requests use that replica: a name service
//! that hangs must not delay the renewal of a lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use sestina_certs::Role;
use tokio::time::Instant;

use crate::channel::Dialer;
use crate::storage_client::Replica;
use crate::target::Target;

/// Names with several addresses are looked up again after this time, or when all replicas fail.
const REFRESH: Duration = Duration::from_secs(15);
/// But not more often than this.
const REFRESH_MIN: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Replicas {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) targets: Vec<Target>,
    found: ArcSwap<Vec<Arc<Replica>>>,
    /// When they were looked up; also keeps lookups from running twice at once.
    refreshed: tokio::sync::Mutex<Option<Instant>>,
    /// A lookup runs in the background.
    looking: AtomicBool,
}

impl Replicas {
    /// None found yet.
    pub(crate) fn new(dialer: Arc<Dialer>, targets: Vec<Target>) -> Arc<Replicas> {
        Arc::new(Replicas {
            dialer,
            targets,
            found: ArcSwap::from_pointee(Vec::new()),
            refreshed: tokio::sync::Mutex::new(None),
            looking: AtomicBool::new(false),
        })
    }

    /// The replicas of the last lookup.
    pub(crate) fn known(&self) -> Arc<Vec<Arc<Replica>>> {
        self.found.load_full()
    }

    /// Looks the addresses up if that is due (`failed`: or if all known replicas failed). Waits only
    /// where none is known.
    pub(crate) async fn refresh(self: &Arc<Self>, failed: bool) {
        if self.found.load().is_empty() {
            return self.look_up(failed).await;
        }
        let fixed = self.targets.iter().all(|target| !target.many);
        if fixed || self.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        self.dialer.tasks.spawn(async move {
            let stop = this.dialer.stop.clone();
            stop.run_until_cancelled(this.look_up(failed)).await;
            this.looking.store(false, Ordering::Release);
        });
    }

    async fn look_up(&self, failed: bool) {
        let mut refreshed = self.refreshed.lock().await;
        let wait = if failed || self.found.load().is_empty() {
            REFRESH_MIN
        } else {
            REFRESH
        };
        if refreshed.is_some_and(|at| at.elapsed() < wait) {
            return;
        }
        let old = self.known();
        let mut found: Vec<Arc<Replica>> = Vec::new();
        for (index, target) in self.targets.iter().enumerate() {
            match self.dialer.expand(target, Role::Storage).await {
                Ok(peers) => {
                    for peer in peers {
                        if found.iter().any(|r| r.peer.label == peer.label) {
                            continue;
                        }
                        match old.iter().find(|r| r.peer.label == peer.label) {
                            Some(replica) => found.push(Arc::clone(replica)),
                            None => match Replica::new(&self.dialer, index, peer) {
                                Ok(replica) => found.push(Arc::new(replica)),
                                Err(error) => {
                                    tracing::warn!(%target, %error, "unusable storage address");
                                }
                            },
                        }
                    }
                }
                Err(reason) => {
                    // Its replicas of the last lookup are better than none.
                    tracing::warn!(%target, %reason, "no storage behind this address");
                    found.extend(old.iter().filter(|r| r.target == index).cloned());
                }
            }
        }
        self.found.store(Arc::new(found));
        *refreshed = Some(Instant::now());
    }
}
