//! The right of this edge to hold sessions: a lease, renewed through any router.
//!
//! Whoever cannot renew it in time must stop before others may think that it is gone. The check
//! comes before everything that writes to a socket, on a clock that runs while the machine is
//! suspended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sestina_api::identity::Holder;
use sestina_api::link::{LinkError, RouterPort};
use sestina_proto as proto;
use sestina_runtime::clock::BootInstant;
use sestina_runtime::failpoint;
use tokio::task::JoinSet;

use crate::metrics::Count;
use crate::shared::Shared;

/// How long a router may take to end a lease.
const LAST_WORD: Duration = Duration::from_millis(500);

/// The lease.
#[derive(Default)]
pub(crate) struct Lease {
    /// Serving ends then, unless it was renewed.
    until: Mutex<Option<BootInstant>>,
    /// Someone noticed that it ran out, and is cutting everything.
    lapsing: AtomicBool,
    /// An incarnation whose lease ran out, and that holds nothing any more.
    over: Mutex<Option<Holder>>,
}

impl Lease {
    /// Whether this edge may serve.
    pub(crate) fn holds(&self) -> bool {
        self.until
            .lock()
            .is_some_and(|until| BootInstant::now() < until)
    }
}

impl Shared {
    /// Whether this edge may serve. If its lease has just run out, everything it holds is cut,
    /// before this returns to the one who asked.
    pub(crate) fn check_lease(&self) -> bool {
        if self.lease.holds() {
            return true;
        }
        self.lapse();
        false
    }

    /// Nobody may be written to any more: sockets are cut without a word, so that clients resume
    /// elsewhere, and this edge starts over as another incarnation.
    fn lapse(&self) {
        if self.lease.until.lock().is_none() || self.lease.lapsing.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(
            "the lease of this edge ran out; all sockets are cut so that clients resume elsewhere"
        );
        self.metrics.count(Count::LeaseLost, 1);
        let over = self.holder();
        self.cut_everything();
        *self.lease.over.lock() = Some(over);
        *self.lease.until.lock() = None;
        self.lease.lapsing.store(false, Ordering::Release);
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
}

/// The task that renews.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.config.lease_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut favourite: Option<Arc<dyn RouterPort>> = None;
    let mut reported = Vec::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = shared.reach_changed.notified() => if shared.directory.reached() == reported {
                continue;
            }
        }
        reported = shared.directory.reached();
        shared.check_lease();
        if failpoint!("edge.lease_renew") {
            continue;
        }
        let over = shared.lease.over.lock().take();
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = async {
                if let Some(holder) = over {
                    let mut ports: Vec<_> = favourite.iter().cloned().collect();
                    ports.extend(shared.connector.seeds().await);
                    if !end(&ports, &holder).await {
                        shared.lease.over.lock().get_or_insert(holder);
                    }
                }
                renew(&shared, &mut favourite).await;
            } => {}
        }
    }
}

/// Ends the lease of an incarnation that holds nothing any more, so that nobody waits for it: a
/// slot that moves is served only once every edge that lives has heard of it. Where no router
/// answers (false) it runs out.
pub(crate) async fn end(ports: &[Arc<dyn RouterPort>], holder: &Holder) -> bool {
    for port in ports {
        let request = proto::RenewLeaseRequest {
            node: Some(holder.node.clone()),
            ttl_ms: 0,
            known: None,
            secret: holder.secret.to_wire(),
        };
        let asked = tokio::time::timeout(LAST_WORD, port.renew_lease(request)).await;
        if matches!(asked, Ok(Ok(reply)) if reply.redis || reply.storage) {
            return true;
        }
    }
    false
}

/// Asks one router after the other, each a little later than the one before, and takes the first
/// answer: a router that hangs must not cost the lease.
async fn renew(shared: &Arc<Shared>, favourite: &mut Option<Arc<dyn RouterPort>>) {
    let patience = shared.config.lease_every;
    let mut ports: Vec<Arc<dyn RouterPort>> = favourite.take().into_iter().collect();
    ports.extend(shared.directory.ports());
    let mut asked = JoinSet::new();
    let mut seeded = false;
    let mut next = 0;
    loop {
        if let Some(port) = ports.get(next).cloned() {
            next += 1;
            let request = request(shared);
            asked.spawn(async move {
                let before = BootInstant::now();
                let incarnation = request.node.as_ref().map_or(0, |node| node.incarnation);
                let reply = tokio::time::timeout(patience, port.renew_lease(request)).await;
                (port, before, incarnation, reply)
            });
        } else if !std::mem::replace(&mut seeded, true) {
            ports.extend(shared.connector.seeds().await);
            if ports.is_empty() {
                tracing::warn!(
                    "no router is known to renew the lease with; check the routers' addresses"
                );
                return;
            }
            continue;
        } else if asked.is_empty() {
            shared.metrics.count(Count::RedisAway, 1);
            shared.metrics.count(Count::StorageAway, 1);
            return;
        }
        let answer = if next < ports.len() || !seeded {
            tokio::time::timeout(patience / 4, asked.join_next())
                .await
                .ok()
                .flatten()
        } else {
            asked.join_next().await
        };
        let Some(Ok((port, before, incarnation, reply))) = answer else {
            continue;
        };
        let reply = match reply {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                log_failure(&error);
                continue;
            }
            Err(_) => continue,
        };
        if !(reply.redis || reply.storage) || incarnation != shared.node().incarnation {
            continue;
        }
        return renewed(shared, favourite, port, before, reply);
    }
}

fn request(shared: &Shared) -> proto::RenewLeaseRequest {
    let me = shared.holder();
    proto::RenewLeaseRequest {
        node: Some(proto::Node {
            reaches: shared.directory.reached(),
            installed: Some(shared.directory.installed()),
            ..me.node
        }),
        secret: me.secret.to_wire(),
        ttl_ms: u32::try_from(shared.config.lease_ttl.as_millis()).unwrap_or(u32::MAX),
        known: Some(shared.directory.position()),
    }
}

fn renewed(
    shared: &Arc<Shared>,
    favourite: &mut Option<Arc<dyn RouterPort>>,
    port: Arc<dyn RouterPort>,
    before: BootInstant,
    reply: proto::RenewLeaseReply,
) {
    let term = shared
        .config
        .lease_ttl
        .saturating_sub(shared.config.lease_margin);
    if !shared.extend_lease(before, term) {
        return;
    }
    let redis = if reply.redis {
        Count::RedisRenewed
    } else {
        Count::RedisAway
    };
    let storage = if reply.storage {
        Count::StorageRenewed
    } else {
        Count::StorageAway
    };
    shared.metrics.count(redis, 1);
    shared.metrics.count(storage, 1);
    if let Some(map) = reply.slot_map {
        shared.learn(map);
    }
    *favourite = Some(port);
}

fn log_failure(error: &LinkError) {
    tracing::debug!(%error, "the lease was not renewed there");
}

impl Shared {
    /// The lease was renewed at `before` for `term`. False if it ran out meanwhile.
    fn extend_lease(&self, before: BootInstant, term: Duration) -> bool {
        let Some(until) = before.checked_add(term) else {
            return false;
        };
        let mut held = self.lease.until.lock();
        if held.is_some_and(|held| BootInstant::now() >= held) {
            drop(held);
            self.lapse();
            return false;
        }
        *held = Some(until);
        true
    }
}
