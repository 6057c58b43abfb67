//! Renews this edge's right to hold sessions, a lease, through any router.
//!
//! The task, and what it asks, run on the lease thread where there is one; what a new slot table leads
//! to does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sestina_api::identity::Holder;
use sestina_api::link::{LinkError, RouterPort};
use sestina_proto as proto;
use sestina_runtime::clock::BootInstant;
use sestina_runtime::failpoint;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep};

use crate::metrics::Count;
use crate::shared::Shared;

/// Between two tries while serving is paused: the end of the lease is near.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a router may take to end a lease.
const LAST_WORD: Duration = Duration::from_millis(500);

/// The task that renews.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.config.lease.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut favourite: Option<Arc<dyn RouterPort>> = None;
    let mut reported = Vec::new();
    loop {
        let mut late = Duration::ZERO;
        tokio::select! {
            () = shared.stop.cancelled() => return,
            due = ticks.tick() => late = Instant::now().saturating_duration_since(due),
            () = sleep(AGAIN), if shared.lease.is_paused() => {}
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
                    ports.extend(seeds(&shared).await);
                    if !end(&ports, &holder).await {
                        shared.lease.over.lock().get_or_insert(holder);
                    }
                }
                let renewal = shared.begin_renewal(late);
                renew(&shared, &mut favourite).await;
                shared.note_renewal(&renewal);
            } => {}
        }
    }
}

/// Ends the lease of an incarnation that holds nothing any more. Otherwise routers would wait for
/// it: a slot that moves is served only once every live edge has heard of the move. If no router
/// answers (false), the lease runs out.
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

/// The configured routers. Names that are looked up must not hold up what others have answered.
async fn seeds(shared: &Shared) -> Vec<Arc<dyn RouterPort>> {
    let looked_up = tokio::time::timeout(LAST_WORD, shared.connector.seeds());
    looked_up.await.unwrap_or_default()
}

/// Asks one router after the other, each a little later than the one before, and takes the first
/// answer: a router that hangs must not cost the lease.
async fn renew(shared: &Arc<Shared>, favourite: &mut Option<Arc<dyn RouterPort>>) {
    let patience = shared.config.lease.every;
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
            ports.extend(seeds(shared).await);
            if ports.is_empty() {
                tracing::warn!(
                    "no router is known to renew the lease with; check the routers' addresses"
                );
                return;
            }
            continue;
        } else if asked.is_empty() {
            shared.metrics.count(Count::RedisUnavailable, 1);
            shared.metrics.count(Count::StorageUnavailable, 1);
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
                shared.not_renewed(&error);
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
        ttl_ms: u32::try_from(shared.config.lease.ttl.as_millis()).unwrap_or(u32::MAX),
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
    if !shared.extend_lease(before) {
        return;
    }
    shared.lease.refusal.lock().clear();
    shared.note_speaks(reply.speaks);
    let redis = if reply.redis {
        Count::RedisRenewed
    } else {
        Count::RedisUnavailable
    };
    let storage = if reply.storage {
        Count::StorageRenewed
    } else {
        Count::StorageUnavailable
    };
    shared.metrics.count(redis, 1);
    shared.metrics.count(storage, 1);
    if let Some(map) = reply.slot_map {
        let learning = Arc::clone(shared);
        shared
            .tasks
            .spawn("slot-map", async move { learning.learn(map) });
    }
    *favourite = Some(port);
}

impl Shared {
    /// A router did not renew the lease. If it refuses, its reason is shown with readiness too, and
    /// is logged once for as long as it stays the same.
    fn not_renewed(&self, error: &LinkError) {
        tracing::debug!(%error, "the lease was not renewed there");
        let LinkError::Refused { .. } = error else {
            return;
        };
        let (text, mut refusal) = (error.to_string(), self.lease.refusal.lock());
        if *refusal != text {
            tracing::warn!(%error, "a router refuses this edge");
            *refusal = text;
        }
    }

    /// The version of the protocol between tiers that the cluster speaks, as a router says.
    fn note_speaks(&self, version: u32) {
        let before = self.speaks.swap(version, Ordering::AcqRel);
        // The first that is heard of is no news.
        if before != version && before != 0 {
            tracing::info!(
                before,
                version,
                "the cluster speaks another version between its tiers"
            );
        }
    }
}
