//! What tiers and stores count, in the words of the telemetry.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sestina_api::lease::{AuthorityAway, LeaseAuthority, Renewal};
use sestina_api::store::Stores;
use sestina_edge::metrics::{Count, EdgeMetrics, Level, Timing};
use sestina_proto as proto;
use sestina_storage::Metered;
use sestina_telemetry::{
    AuthFailure, Authority, Fence, Lane, LeaseEvent, Limit, Lost, Metrics, Queue, StoreOp,
    Transport,
};

/// The edge's counts in the process's metrics.
pub struct EdgeCounts(pub Arc<Metrics>);

impl EdgeMetrics for EdgeCounts {
    fn count(&self, what: Count, by: u64) {
        let all = &self.0;
        match what {
            Count::LoginOk => all.auth_successes.add(by),
            Count::LoginFailed => all.auth_failures[AuthFailure::NotAuthorized].add(by),
            Count::PausedByBound => all.queue_full[Queue::Unsettled].add(by),
            Count::PausedByRate => all.limits[Limit::Rate].add(by),
            Count::SlowReader => {
                all.limits[Limit::OutputQueue].add(by);
                all.queue_full[Queue::Socket].add(by);
            }
            Count::RefusedEpoch => all.fenced[Fence::Epoch].add(by),
            Count::RefusedGeneration => all.fenced[Fence::Generation].add(by),
            Count::OwnerTimeout | Count::NotRestored => all.lost[Lost::Session].add(by),
            Count::LaneOpened => all.lanes_opened[Lane::EdgeRouter].add(by),
            Count::LaneLost => all.lanes_closed[Lane::EdgeRouter].add(by),
            Count::LeaseRenewed => {
                all.lease_events[(Authority::Storage, LeaseEvent::Renewed)].add(by);
            }
            Count::LeaseLost => all.lease_events[(Authority::Storage, LeaseEvent::Lost)].add(by),
            // Counted by the owner, or seen in what it leads to.
            Count::Connections
            | Count::Bound
            | Count::Resumed
            | Count::Refused
            | Count::StanzaIn
            | Count::StanzaOut
            | Count::StreamError
            | Count::SocketLost
            | Count::NumberGap
            | Count::Repeated
            | Count::Redirected
            | Count::EpochInstalled => {}
        }
    }

    fn level(&self, what: Level, change: i64) {
        match what {
            Level::Sockets => self.0.connections_unauthenticated.add(change),
            Level::Sessions => {
                // A session was a socket without one before.
                self.0.sessions[Transport::Tcp].add(change);
            }
            Level::Lanes => self.0.lanes[Lane::EdgeRouter].add(change),
        }
    }

    fn timing(&self, what: Timing, took: Duration) {
        match what {
            Timing::Accepted => self.0.accept_seconds.observe(took),
            Timing::OwnerAnswer => self.0.resume_seconds.observe(took),
            Timing::Login => {}
        }
    }
}

/// Stores whose operations are timed and whose failures are counted.
pub fn metered_stores(stores: Arc<dyn Stores>, metrics: Arc<Metrics>) -> Arc<dyn Stores> {
    Arc::new(Metered::new(stores, move |operation, took, ok| {
        let op = store_op(operation);
        metrics.store_seconds[op].observe(took);
        if !ok {
            metrics.store_errors[op].inc();
        }
    }))
}

fn store_op(operation: &str) -> StoreOp {
    match operation {
        "archive_append" => StoreOp::ArchiveAppend,
        "archive_query" => StoreOp::ArchiveQuery,
        "offline_append" => StoreOp::OfflineAppend,
        "offline_list" | "offline_remove" => StoreOp::OfflineRead,
        "outcome_put" => StoreOp::Outcome,
        "slot_table" => StoreOp::SlotTable,
        "slot_claim" => StoreOp::SlotClaim,
        "maintain" => StoreOp::Maintain,
        _ if operation.starts_with("account_") => StoreOp::Account,
        _ if operation.starts_with("lease_") => StoreOp::Lease,
        _ => StoreOp::Other,
    }
}

/// A lease authority that tells what became of this process's own lease.
pub struct MeteredLeases {
    inner: Arc<dyn LeaseAuthority>,
    authority: Authority,
    incarnation: u64,
    metrics: Arc<Metrics>,
}

impl MeteredLeases {
    /// Counts the renewals of `node`; those that it does for others are not counted.
    pub fn new(
        inner: Arc<dyn LeaseAuthority>,
        authority: Authority,
        node: &proto::Node,
        metrics: Arc<Metrics>,
    ) -> Arc<MeteredLeases> {
        Arc::new(MeteredLeases { inner, authority, incarnation: node.incarnation, metrics })
    }
}

#[async_trait]
impl LeaseAuthority for MeteredLeases {
    async fn renew(&self, node: &proto::Node, ttl: Duration) -> Result<Renewal, AuthorityAway> {
        let renewed = self.inner.renew(node, ttl).await;
        if node.incarnation == self.incarnation {
            let event = match &renewed {
                Ok(Renewal::Renewed) => LeaseEvent::Renewed,
                Ok(Renewal::Lost) => LeaseEvent::Lost,
                Err(_) => LeaseEvent::Away,
            };
            self.metrics.lease_events[(self.authority, event)].inc();
            let fresh = i64::from(event == LeaseEvent::Renewed);
            self.metrics.lease_fresh[self.authority].set(fresh);
        }
        renewed
    }

    async fn release(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        let released = self.inner.release(node).await;
        if node.incarnation == self.incarnation {
            self.metrics.lease_fresh[self.authority].set(0);
        }
        released
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityAway> {
        self.inner.fresh().await
    }

    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityAway> {
        self.inner.mark_ended(node).await
    }

    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityAway> {
        self.inner.unmark(node).await
    }
}
