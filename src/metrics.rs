//! The counts of tiers and stores as metrics.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sestina_api::identity::{Holder, Proved};
use sestina_api::lease::{AuthorityUnavailable, LeaseAuthority, Renewal};
use sestina_api::store::Stores;
use sestina_edge::metrics::{Count, EdgeMetrics, Level, Timing};
use sestina_proto as proto;
use sestina_rpc::queue::{LANES, PEER_LANES};
use sestina_runtime::CancellationToken;
use sestina_runtime::pressure::Pressure;
use sestina_storage::Metered;
use sestina_telemetry::{
    AuthFailure, Authority, Direction, Fence, Handshake, Lane, LeaseEvent, Limit, Lost, Metrics,
    Queue, ResumeFailure, Shed, StoreOp, StreamError, Transport, trace,
};
use sestina_xmpp::sasl::SaslFailure;
use sestina_xmpp::stream::StreamCondition;

/// The edge's counts in the process's metrics.
pub struct EdgeCounts(pub Arc<Metrics>);

impl EdgeCounts {
    /// Counts the result of a renewal with one authority.
    fn lease(&self, authority: Authority, event: LeaseEvent, by: u64) {
        self.0.lease_events[(authority, event)].add(by);
        self.0.lease_fresh[authority].set(i64::from(event == LeaseEvent::Renewed));
    }

    /// Counts an event of the lease with both authorities.
    fn both(&self, event: LeaseEvent, by: u64) {
        for authority in [Authority::Redis, Authority::Storage] {
            self.0.lease_events[(authority, event)].add(by);
            if event != LeaseEvent::Resumed {
                self.0.lease_fresh[authority].set(0);
            }
        }
    }
}

impl EdgeMetrics for EdgeCounts {
    fn count(&self, what: Count, by: u64) {
        let all = &self.0;
        match what {
            Count::LoginOk => all.auth_successes.add(by),
            Count::BytesIn => all.bytes[Direction::In].add(by),
            Count::BytesOut => all.bytes[Direction::Out].add(by),
            Count::PausedByBound => all.queue_full[Queue::Unsettled].add(by),
            Count::ConnectionRefused => all.limits[Limit::Connections].add(by),
            Count::ConnectionShed => all.limits[Limit::Unauthenticated].add(by),
            Count::TlsFull => all.tls_handshakes[Handshake::Full].add(by),
            Count::TlsResumed => all.tls_handshakes[Handshake::Resumed].add(by),
            Count::TlsFailed => all.tls_handshakes[Handshake::Failed].add(by),
            Count::InputLost => all.lost[Lost::Input].add(by),
            Count::PausedByRate => all.limits[Limit::Rate].add(by),
            Count::SlowReader => {
                all.limits[Limit::OutputQueue].add(by);
                all.queue_full[Queue::Socket].add(by);
            }
            Count::GaveWay => all.queue_full[Queue::Edge].add(by),
            Count::RefusedEpoch => all.fenced[Fence::Epoch].add(by),
            Count::RefusedGeneration => all.fenced[Fence::Generation].add(by),
            Count::OwnerTimeout | Count::NotRestored => all.lost[Lost::Session].add(by),
            Count::Replayed => all.replays.add(by),
            Count::ResumeForged => all.resumption_failures[ResumeFailure::Forged].add(by),
            Count::ResumeUnanswered => {
                all.resumption_failures[ResumeFailure::OwnerUnavailable].add(by)
            }
            Count::LaneOpened => all.lanes_opened[Lane::EdgeRouter].add(by),
            Count::LaneLost => all.lanes_closed[Lane::EdgeRouter].add(by),
            Count::RedisRenewed => self.lease(Authority::Redis, LeaseEvent::Renewed, by),
            Count::RedisUnavailable => self.lease(Authority::Redis, LeaseEvent::Unavailable, by),
            Count::StorageRenewed => self.lease(Authority::Storage, LeaseEvent::Renewed, by),
            Count::StorageUnavailable => {
                self.lease(Authority::Storage, LeaseEvent::Unavailable, by)
            }
            Count::LeasePaused => self.both(LeaseEvent::Stopped, by),
            Count::LeaseResumed => self.both(LeaseEvent::Resumed, by),
            Count::LeaseLost => self.both(LeaseEvent::Lost, by),
            Count::AcceptDelayed => all.shed[Shed::Connection].add(by),
            Count::LoginDelayed => all.shed[Shed::Login].add(by),
            Count::LoginShed => all.shed[Shed::LoginRefused].add(by),
            Count::Unanswered => all.silent_sockets.add(by),
            Count::UnknownFrame => all.unknown_frames[Lane::EdgeRouter].add(by),
            // Counted by the owner, or by cause, or visible in other metrics.
            Count::Connections
            | Count::Bound
            | Count::Resumed
            | Count::Refused
            | Count::StanzaIn
            | Count::StanzaOut
            | Count::StreamError
            | Count::LoginFailed
            | Count::SocketLost
            | Count::NumberGap
            | Count::Repeated
            | Count::Redirected
            | Count::EpochInstalled => {}
        }
    }

    fn level(&self, what: Level, change: i64) {
        let all = &self.0;
        match what {
            // Visible as logins and sessions.
            Level::Sockets => {}
            Level::Logins => all.connections_unauthenticated.add(change),
            Level::Sessions => all.sessions[Transport::Tcp].add(change),
            // These sessions were counted as TCP before.
            Level::WebSocketSessions => {
                all.sessions[Transport::Tcp].add(-change);
                all.sessions[Transport::WebSocket].add(change);
            }
            Level::Unsettled => all.queue_items[Queue::Unsettled].add(change),
            Level::UnsettledBytes => all.queue_bytes[Queue::Unsettled].add(change),
            Level::Waiting => all.queue_items[Queue::Socket].add(change),
            Level::WaitingBytes => all.queue_bytes[Queue::Socket].add(change),
            Level::HeldBytes => all.queue_bytes[Queue::Edge].add(change),
            Level::Lanes => all.lanes[Lane::EdgeRouter].add(change),
        }
    }

    fn login_failed(&self, why: SaslFailure) {
        let reason = match why {
            SaslFailure::NotAuthorized | SaslFailure::CredentialsExpired => {
                AuthFailure::NotAuthorized
            }
            SaslFailure::InvalidMechanism | SaslFailure::MechanismTooWeak => AuthFailure::Mechanism,
            SaslFailure::Aborted
            | SaslFailure::IncorrectEncoding
            | SaslFailure::InvalidAuthzid
            | SaslFailure::MalformedRequest => AuthFailure::Malformed,
            SaslFailure::AccountDisabled => AuthFailure::Disabled,
            SaslFailure::EncryptionRequired => AuthFailure::EncryptionRequired,
            SaslFailure::TemporaryAuthFailure => AuthFailure::Temporary,
        };
        self.0.auth_failures[reason].inc();
    }

    fn login_late(&self) {
        self.0.auth_failures[AuthFailure::Timeout].inc();
    }

    fn stream_error(&self, condition: StreamCondition) {
        self.0.stream_errors[StreamError::named(condition.name())].inc();
    }

    fn certificate(&self, host: &str, seconds_left: i64) {
        self.0.certificate_seconds_left.set(host, seconds_left);
    }

    fn timing(&self, what: Timing, took: Duration) {
        match what {
            Timing::Accepted => self.0.accept_seconds.observe(took),
            Timing::Settled => self.0.settle_seconds.observe(took),
            Timing::Latency => self.0.stanza_latency_seconds.observe(took),
            Timing::Resumed => self.0.resume_seconds.observe(took),
            Timing::LeaseLate => self.0.lease_late_seconds.observe(took),
            Timing::LeaseRenewed => self.0.lease_renew_seconds.observe(took),
            Timing::LeaseLeft => self.0.lease_left_seconds.observe(took),
            // Logins are counted, not timed: most of their time is spent by the client.
            Timing::Login | Timing::OwnerAnswer => {}
        }
    }
}

/// Makes calls to other processes carry the current trace. To be called once per process.
pub fn trace_calls() {
    const HEADER: &str = "traceparent";
    let first = sestina_rpc::trace::set_inject(|metadata| {
        if let Some(parent) = trace::current_traceparent()
            && let Ok(value) = parent.parse()
        {
            metadata.insert(HEADER, value);
        }
    });
    let second = sestina_rpc::trace::set_extract(|metadata, call| {
        let parent = metadata.get(HEADER).and_then(|value| value.to_str().ok());
        trace::span_from_traceparent(call, parent.unwrap_or_default())
    });
    if !(first && second) {
        tracing::debug!("calls are traced already");
    }
}

/// Keeps the gauges of the lanes' queues up to date.
pub async fn watch_lanes(metrics: Arc<Metrics>, stop: CancellationToken) {
    const EVERY: Duration = Duration::from_secs(1);
    let mut refusals = [0; 2];
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let all = [(&LANES, Queue::Lane), (&PEER_LANES, Queue::PeerLane)];
        for ((level, queue), before) in all.into_iter().zip(&mut refusals) {
            metrics.queue_items[queue].set(level.items());
            metrics.queue_bytes[queue].set(level.bytes());
            let now = level.refusals();
            metrics.queue_full[queue].add(now - std::mem::replace(before, now));
        }
    }
}

/// Measures how late the timers of this process fire, and raises the pressure while they are too
/// late.
pub async fn watch_pressure(
    pressure: Arc<Pressure>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let told = |late, high| {
        metrics.timer_late_seconds.observe(late);
        metrics.overloaded.set(i64::from(high));
    };
    pressure.measure(stop, told).await;
    metrics.overloaded.set(0);
}

/// Times the operations of stores and counts their failures.
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
        "offline_list" | "offline_known" | "offline_remove" => StoreOp::OfflineRead,
        "entity_data_get" | "entity_data_put" => StoreOp::EntityData,
        "slot_table" => StoreOp::SlotTable,
        "slot_claim" | "slot_assert" => StoreOp::SlotClaim,
        "maintain" => StoreOp::Maintain,
        _ if operation.starts_with("account_") => StoreOp::Account,
        _ if operation.starts_with("lease_") => StoreOp::Lease,
        _ => StoreOp::Other,
    }
}

/// A lease authority that counts the results of renewals of this process's own lease.
pub struct MeteredLeases {
    inner: Arc<dyn LeaseAuthority>,
    authority: Authority,
    incarnation: u64,
    metrics: Arc<Metrics>,
}

impl MeteredLeases {
    /// Counts the renewals of `node`; renewals for other processes are not counted.
    pub fn new(
        inner: Arc<dyn LeaseAuthority>,
        authority: Authority,
        node: &proto::Node,
        metrics: Arc<Metrics>,
    ) -> Arc<MeteredLeases> {
        Arc::new(MeteredLeases {
            inner,
            authority,
            incarnation: node.incarnation,
            metrics,
        })
    }
}

#[async_trait]
impl LeaseAuthority for MeteredLeases {
    async fn renew(&self, holder: &Holder, ttl: Duration) -> Result<Renewal, AuthorityUnavailable> {
        let renewed = self.inner.renew(holder, ttl).await;
        if holder.node.incarnation == self.incarnation {
            let event = match &renewed {
                Ok(Renewal::Renewed) => LeaseEvent::Renewed,
                Ok(Renewal::Lost | Renewal::WrongSecret | Renewal::Refused(_)) => LeaseEvent::Lost,
                Err(_) => LeaseEvent::Unavailable,
            };
            self.metrics.lease_events[(self.authority, event)].inc();
            let fresh = i64::from(event == LeaseEvent::Renewed);
            self.metrics.lease_fresh[self.authority].set(fresh);
        }
        renewed
    }

    async fn release(&self, holder: &Holder) -> Result<(), AuthorityUnavailable> {
        let released = self.inner.release(holder).await;
        if holder.node.incarnation == self.incarnation {
            self.metrics.lease_fresh[self.authority].set(0);
        }
        released
    }

    async fn prove(&self, holder: &Holder) -> Result<Proved, AuthorityUnavailable> {
        self.inner.prove(holder).await
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable> {
        self.inner.fresh().await
    }

    async fn mark_ended(&self, node: &proto::Node) -> Result<bool, AuthorityUnavailable> {
        self.inner.mark_ended(node).await
    }

    async fn unmark(&self, node: &proto::Node) -> Result<(), AuthorityUnavailable> {
        self.inner.unmark(node).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_transport() {
        let counts = EdgeCounts(Metrics::new());
        counts.level(Level::Sessions, 1);
        counts.level(Level::Sessions, 1);
        counts.level(Level::WebSocketSessions, 1);
        let sessions = |transport| counts.0.sessions[transport].get();
        assert_eq!(
            (sessions(Transport::Tcp), sessions(Transport::WebSocket)),
            (1, 1)
        );
        counts.level(Level::WebSocketSessions, -1);
        counts.level(Level::Sessions, -1);
        assert_eq!(
            (sessions(Transport::Tcp), sessions(Transport::WebSocket)),
            (1, 0)
        );
    }

    #[test]
    fn a_lease_is_fresh_until_its_authority_is_away() {
        let counts = EdgeCounts(Metrics::new());
        counts.count(Count::StorageRenewed, 1);
        counts.count(Count::RedisRenewed, 1);
        counts.count(Count::StorageUnavailable, 1);
        assert_eq!(counts.0.lease_fresh[Authority::Storage].get(), 0);
        assert_eq!(counts.0.lease_fresh[Authority::Redis].get(), 1);
    }

    #[test]
    fn failed_logins_and_stream_errors_are_counted_by_cause() {
        let counts = EdgeCounts(Metrics::new());
        counts.login_failed(SaslFailure::NotAuthorized);
        counts.login_failed(SaslFailure::Aborted);
        counts.login_late();
        let failures = |reason| counts.0.auth_failures[reason].get();
        assert_eq!(failures(AuthFailure::NotAuthorized), 1);
        assert_eq!(failures(AuthFailure::Malformed), 1);
        assert_eq!(failures(AuthFailure::Timeout), 1);
        for condition in StreamCondition::ALL {
            counts.stream_error(*condition);
        }
        let errors = |condition| counts.0.stream_errors[condition].get();
        assert_eq!(errors(StreamError::NotWellFormed), 1);
        assert!(errors(StreamError::Other) > 0);
        counts.count(Count::tls(true), 1);
        assert_eq!(counts.0.tls_handshakes[Handshake::Resumed].get(), 1);
    }

    #[test]
    fn every_operation_of_the_stores_has_its_place() {
        assert_eq!(store_op("account_put"), StoreOp::Account);
        assert_eq!(store_op("lease_renew"), StoreOp::Lease);
        assert_eq!(store_op("archive_append"), StoreOp::ArchiveAppend);
        assert_eq!(store_op("entity_data_put"), StoreOp::EntityData);
        assert_eq!(store_op("cluster_secret"), StoreOp::Other);
    }
}
