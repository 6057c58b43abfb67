//! Lanes that edges and other routers open to this router, and their questions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sestina_api::identity::{Holder, Secret};
use sestina_api::lease::{LeaseAuthority, Renewal};
use sestina_api::link::{EdgeLane, LinkError, RouterAcceptor, RouterSink, Unsent};
use sestina_api::peer::PeerSink;
use sestina_cluster::slot_map::newer;
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::versions::Range;
use sestina_runtime::guard;
use sestina_telemetry::Lane;

use super::Shared;
use super::table::with_routers;
use super::worker_task::now_us;
use crate::worker::core::{LaneRef, PeerRef};
use crate::worker::input::{Command, Input};
use crate::worker::trace_context::{edge_entering, edge_refused, entering, leaving};

pub(super) struct Acceptor {
    pub(super) shared: Arc<Shared>,
}

/// Takes an edge's frames to the workers.
struct FromEdge {
    shared: Arc<Shared>,
    lane: LaneRef,
    instance: u64,
}

#[async_trait]
impl RouterSink for FromEdge {
    fn send(&self, mut frame: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        let now = now_us();
        edge_entering(&mut frame, now);
        let worker = match &frame.body {
            Some(proto::to_router::Body::LaneAck(ack)) => ack.worker,
            _ => frame.slot % self.shared.mailboxes.len(),
        };
        if worker >= self.shared.mailboxes.len() {
            // Acknowledges a batch that the process sent, not a worker.
            return Ok(());
        }
        let taken = self.shared.mailboxes.offer_edge(worker, self.lane, frame);
        taken.map_err(|unsent| match unsent {
            Unsent::Full(mut frame) => {
                edge_refused(&mut frame, now);
                Unsent::Full(frame)
            }
            Unsent::Closed => Unsent::Closed,
        })
    }

    async fn room(&self) {
        self.shared.mailboxes.room().await;
    }

    fn close(&self) {
        self.shared.edge_lane_closed((self.lane, self.instance));
        self.shared.mailboxes.tell_all(|| Input::EdgeLaneClosed {
            lane: self.lane,
            instance: self.instance,
        });
    }
}

/// Takes another router's frames to the workers.
struct FromPeer {
    shared: Arc<Shared>,
    peer: PeerRef,
    /// Answers go over the lane that this router opens; dropping this one would end it.
    _back: Arc<dyn PeerSink>,
    /// Counted among the open lanes.
    open: AtomicBool,
}

impl FromPeer {
    fn take(&self, mut frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        let now = now_us();
        entering(&mut frame, now);
        let taken = self.shared.mailboxes.offer_peer(self.peer, frame);
        taken.map_err(|unsent| match unsent {
            Unsent::Full(mut frame) => {
                leaving(&mut frame, now);
                Unsent::Full(frame)
            }
            Unsent::Closed => Unsent::Closed,
        })
    }
}

impl Drop for FromPeer {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl PeerSink for FromPeer {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        match frame.body {
            Some(PeerBody::SlotMap(map)) => {
                self.shared.told(map.position());
                if let Err(error) = self.shared.ports.table.offer(map) {
                    tracing::warn!(%error, "another router sent a broken slot table");
                }
                Ok(())
            }
            Some(PeerBody::HandOver(order)) => {
                self.shared.order_hand_over(order);
                Ok(())
            }
            // One of its workers can answer now: questions to it are sent again.
            Some(PeerBody::Hello(_)) => {
                let peer = self.peer;
                self.shared
                    .mailboxes
                    .tell_all(|| Input::PeerReturned { peer });
                Ok(())
            }
            Some(PeerBody::UserChanged(ref changed)) => {
                self.shared.credentials.forget(&changed.bare);
                self.take(frame)
            }
            _ => self.take(frame),
        }
    }

    async fn room(&self) {
        self.shared.mailboxes.room().await;
    }

    fn close(&self) {
        if self.open.swap(false, Ordering::AcqRel) {
            self.shared.metrics.lanes[Lane::Peer].dec();
            self.shared.metrics.lanes_closed[Lane::Peer].inc();
        }
    }
}

impl Shared {
    /// Freezes slots of this process for another router.
    pub(super) fn order_hand_over(&self, order: proto::HandOver) {
        let Some(to) = order.to else { return };
        for index in 0..self.mailboxes.len() {
            let slots: Vec<u16> = order
                .slots
                .iter()
                .filter_map(|s| u16::try_from(*s).ok())
                .filter(|s| self.mailboxes.worker_of(*s) == index)
                .collect();
            if !slots.is_empty() {
                let command = Command::HandOver {
                    slots,
                    to: to.clone(),
                };
                self.mailboxes.tell(index, Input::Command(command));
            }
        }
    }

    /// Whether a lane is for this process. For a while, edges and routers still look for the
    /// process that had this address before, and a lane for that process would take the place of
    /// the right one.
    fn is_meant(&self, incarnation: u64) -> Result<(), LinkError> {
        if incarnation == 0 || incarnation == self.node.incarnation {
            return Ok(());
        }
        Err(LinkError::Refused {
            peer: self.node.name.clone(),
            reason: "this router is another incarnation than the one that is meant".to_owned(),
        })
    }

    /// Notes whether the process at the other end of a lane is configured like this one.
    fn compare(&self, who: &proto::Node, hash: u64) {
        let differs = hash != self.config.config_hash;
        if differs {
            tracing::warn!(
                peer = who.name,
                "configured with other hosts, services of rooms or modules than this router"
            );
        }
        self.note_mismatch(who.incarnation, differs);
    }

    /// Notes whether a process is configured differently from this one; a process that is gone is
    /// not.
    pub(super) fn note_mismatch(&self, incarnation: u64, differs: bool) {
        let mut all = self.mismatches.lock();
        let changed = if differs {
            all.insert(incarnation)
        } else {
            all.remove(&incarnation)
        };
        if changed {
            let count = i64::try_from(all.len()).unwrap_or(i64::MAX);
            self.metrics.config_mismatches.set(count);
        }
    }

    /// A lane of an edge is open.
    fn edge_lane_opened(&self, lane: (LaneRef, u64), sink: Arc<dyn EdgeLane>) {
        self.edge_lanes.lock().insert(lane, sink);
        self.metrics.lanes[Lane::EdgeRouter].inc();
        self.metrics.lanes_opened[Lane::EdgeRouter].inc();
    }

    /// It is not (any more).
    fn edge_lane_closed(&self, lane: (LaneRef, u64)) {
        if self.edge_lanes.lock().remove(&lane).is_some() {
            self.metrics.lanes[Lane::EdgeRouter].dec();
            self.metrics.lanes_closed[Lane::EdgeRouter].inc();
        }
    }

    /// This process ends: all lanes of edges do.
    pub(super) fn close_edge_lanes(&self) {
        let lanes: Vec<_> = self.edge_lanes.lock().drain().collect();
        for (_, lane) in lanes {
            self.metrics.lanes[Lane::EdgeRouter].dec();
            self.metrics.lanes_closed[Lane::EdgeRouter].inc();
            lane.close();
        }
    }
}

impl Acceptor {
    fn wrong_secret(&self, holder: &Holder) -> LinkError {
        tracing::warn!(
            name = holder.node.name,
            "refused a renewal: the secret is not that of this incarnation"
        );
        self.refusal("the secret is not that of this incarnation")
    }

    fn refusal(&self, reason: &str) -> LinkError {
        LinkError::Refused {
            peer: self.shared.node.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

#[async_trait]
impl RouterAcceptor for Acceptor {
    async fn admit(&self, holder: Holder) -> Result<(), LinkError> {
        self.shared.admit(holder).await
    }

    fn accept_edge(
        &self,
        hello: proto::Hello,
        lane: Arc<dyn EdgeLane>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        let shared = &self.shared;
        let node = hello.edge.unwrap_or_default();
        shared.is_meant(hello.to)?;
        let version = shared.lane_version(&node, Range::told(hello.oldest, hello.newest))?;
        shared.compare(&node, hello.config_hash);
        let lane_ref = LaneRef {
            edge: node.incarnation,
            lane: hello.lane,
        };
        let instance = shared.instances.fetch_add(1, Ordering::Relaxed);
        let workers = shared.mailboxes.len();
        let welcome = proto::Welcome {
            router: Some(shared.node.clone()),
            version,
            sm_key: shared.config.sm_key.clone().into(),
            workers,
        };
        let mut frames = vec![
            process_frame(proto::to_edge::Body::Welcome(welcome)),
            process_frame(proto::to_edge::Body::SlotMap(with_routers(
                shared.ports.table.load().as_proto().clone(),
                shared.routers(),
            ))),
        ];
        frames.extend(shared.ticket_keys.frame());
        let away = |_: Unsent<_>| LinkError::Unavailable {
            peer: node.name.clone(),
            reason: "the lane closed".into(),
        };
        lane.send(proto::ToEdgeBatch {
            worker: workers,
            seq: 0,
            frames,
        })
        .map_err(away)?;
        shared.edge_lane_opened((lane_ref, instance), lane.clone());
        shared.mailboxes.tell_all(|| Input::EdgeLane {
            lane: lane_ref,
            instance,
            lanes: hello.lanes.max(1),
            sink: lane.clone(),
        });
        Ok(Arc::new(FromEdge {
            shared: shared.clone(),
            lane: lane_ref,
            instance,
        }))
    }

    fn accept_peer(
        &self,
        hello: proto::PeerHello,
        lane: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        let node = hello.router.unwrap_or_default();
        self.shared.is_meant(hello.to)?;
        self.shared
            .lane_version(&node, Range::told(hello.oldest, hello.newest))?;
        self.shared.compare(&node, hello.config_hash);
        self.shared.metrics.lanes[Lane::Peer].inc();
        self.shared.metrics.lanes_opened[Lane::Peer].inc();
        Ok(Arc::new(FromPeer {
            shared: self.shared.clone(),
            open: AtomicBool::new(true),
            peer: PeerRef(node.incarnation),
            _back: lane,
        }))
    }

    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        self.shared.credentials(request).await
    }

    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        let node = request.node.unwrap_or_default();
        // A router renews its own lease with the authorities itself.
        if node.role() != proto::NodeRole::Edge && guard!("roles") {
            return Err(self.refusal("a router passes on the leases of edges only"));
        }
        let secret = Secret::from_wire(request.secret);
        let holder = Holder { node, secret };
        let ttl = Duration::from_millis(u64::from(request.ttl_ms));
        let ports = &self.shared.ports;
        if self.shared.is_stranger(&holder).await {
            return Err(self.wrong_secret(&holder));
        }
        if ttl.is_zero() {
            let (redis, storage) = tokio::join!(
                end(&*ports.state_store_leases, &holder),
                end(&*ports.storage_leases, &holder)
            );
            return Ok(proto::RenewLeaseReply {
                redis,
                storage,
                ..proto::RenewLeaseReply::default()
            });
        }
        self.shared.admits(&holder.node)?;
        let (redis, storage) = tokio::join!(
            renew(&*ports.state_store_leases, &holder, ttl),
            renew(&*ports.storage_leases, &holder, ttl)
        );
        for refused in [&redis, &storage] {
            match refused {
                Some(Renewal::Refused(why)) => return Err(self.refusal(why)),
                Some(Renewal::Lost) => {
                    return Err(
                        self.refusal("the lease was ended; start over with a new incarnation")
                    );
                }
                Some(Renewal::WrongSecret) => return Err(self.wrong_secret(&holder)),
                Some(Renewal::Renewed) | None => {}
            }
        }
        self.shared.live.heard_of(&holder.node);
        let table = ports.table.load();
        // An edge that knows no table has to open a lane first, at least to this router, even if
        // this router owns nothing yet.
        let known = request.known.unwrap_or_default();
        let slot_map = match known.timeline {
            0 => {
                let mut routers = self.shared.routers();
                routers.push(self.shared.node.clone());
                Some(with_routers(table.as_proto().clone(), routers))
            }
            _ => newer(table.position(), known)
                .then(|| with_routers(table.as_proto().clone(), self.shared.routers())),
        };
        Ok(proto::RenewLeaseReply {
            redis: redis.is_some(),
            storage: storage.is_some(),
            slot_map,
            speaks: self.shared.speaks(),
        })
    }
}

/// How long one authority may take: an edge waits a second for both.
const AUTHORITY: Duration = Duration::from_millis(700);

/// Ends a lease; false if the authority did not answer, and it will run out.
async fn end(authority: &dyn LeaseAuthority, holder: &Holder) -> bool {
    let ended = tokio::time::timeout(AUTHORITY, authority.release(holder)).await;
    matches!(ended, Ok(Ok(())))
}

/// One authority, which must not hold up the other.
async fn renew(authority: &dyn LeaseAuthority, holder: &Holder, ttl: Duration) -> Option<Renewal> {
    match tokio::time::timeout(AUTHORITY, authority.renew(holder, ttl)).await {
        Ok(Ok(renewal)) => Some(renewal),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// A frame that concerns no slot.
pub(super) fn process_frame(body: proto::to_edge::Body) -> proto::ToEdge {
    proto::ToEdge {
        slot: 0,
        epoch: 0,
        body: Some(body),
    }
}
