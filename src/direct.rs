//! Lanes by direct calls: the receiver takes a frame before the sender's call returns. Nothing is
//! queued here; each side has its own bounded queues behind its sinks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use parking_lot::Mutex;
use sestina_api::link::{
    EdgeLane, EdgeSink, LinkError, RouterAcceptor, RouterConnector, RouterPort, RouterSink, Unsent,
};
use sestina_api::peer::{PeerConnector, PeerPort, PeerSink};
use sestina_proto as proto;

/// The routers of this process, found by incarnation.
#[derive(Clone, Default)]
pub struct DirectConnector {
    routers: Arc<Mutex<HashMap<u64, Entry>>>,
}

struct Entry {
    node: proto::Node,
    acceptor: Arc<dyn RouterAcceptor>,
    /// Lanes that are closed when the router is removed.
    lanes: Vec<Weak<dyn Lane>>,
}

/// A lane that can be closed from outside.
trait Lane: Send + Sync {
    fn cut(&self);
}

impl DirectConnector {
    /// A connector without routers.
    pub fn new() -> DirectConnector {
        DirectConnector::default()
    }

    /// Makes a router reachable.
    pub fn add(&self, node: proto::Node, acceptor: Arc<dyn RouterAcceptor>) {
        let lanes = Vec::new();
        self.routers.lock().insert(
            node.incarnation,
            Entry {
                node,
                acceptor,
                lanes,
            },
        );
    }

    /// Removes a router: its lanes are closed, and it cannot be reached any more.
    pub fn remove(&self, incarnation: u64) {
        let entry = self.routers.lock().remove(&incarnation);
        for lane in entry.into_iter().flat_map(|entry| entry.lanes) {
            if let Some(lane) = lane.upgrade() {
                lane.cut();
            }
        }
    }

    fn acceptor(&self, node: &proto::Node) -> Result<Arc<dyn RouterAcceptor>, LinkError> {
        let routers = self.routers.lock();
        let found = routers.get(&node.incarnation);
        found
            .map(|entry| entry.acceptor.clone())
            .ok_or_else(|| gone(node))
    }

    /// Notes that the lane ends with this router. False if the router is gone already.
    fn keep(&self, incarnation: u64, lane: &Arc<dyn Lane>) -> bool {
        let mut routers = self.routers.lock();
        let Some(entry) = routers.get_mut(&incarnation) else {
            return false;
        };
        entry.lanes.retain(|lane| lane.strong_count() > 0);
        entry.lanes.push(Arc::downgrade(lane));
        true
    }
}

fn gone(node: &proto::Node) -> LinkError {
    LinkError::Unavailable {
        peer: node.name.clone(),
        reason: "it has ended".to_owned(),
    }
}

#[async_trait]
impl RouterConnector for DirectConnector {
    async fn seeds(&self) -> Vec<Arc<dyn RouterPort>> {
        let routers = self.routers.lock();
        routers
            .values()
            .map(|entry| self.port(&entry.node) as Arc<dyn RouterPort>)
            .collect()
    }

    fn connect(&self, router: &proto::Node) -> Arc<dyn RouterPort> {
        self.port(router)
    }
}

impl PeerConnector for DirectConnector {
    fn connect(&self, router: &proto::Node) -> Arc<dyn PeerPort> {
        self.port(router)
    }
}

impl DirectConnector {
    fn port(&self, router: &proto::Node) -> Arc<Port> {
        Arc::new(Port {
            routers: self.clone(),
            node: router.clone(),
        })
    }
}

struct Port {
    routers: DirectConnector,
    node: proto::Node,
}

#[async_trait]
impl RouterPort for Port {
    async fn open_lane(
        &self,
        hello: proto::Hello,
        edge: Arc<dyn EdgeSink>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        let acceptor = self.routers.acceptor(&self.node)?;
        let lane = Arc::new(DirectLane::new(edge));
        let sink = acceptor.accept_edge(hello, lane.clone())?;
        if lane.router.set(sink.clone()).is_err() || lane.ended.load(Ordering::Acquire) {
            // The router closed the lane while it was opening.
            sink.close();
            return Err(gone(&self.node));
        }
        let watched: Arc<dyn Lane> = lane.clone();
        if !self.routers.keep(self.node.incarnation, &watched) {
            lane.cut();
            return Err(gone(&self.node));
        }
        Ok(Arc::new(EdgeSide { lane, sink }))
    }

    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        self.routers
            .acceptor(&self.node)?
            .credentials(request)
            .await
    }

    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        self.routers
            .acceptor(&self.node)?
            .renew_lease(request)
            .await
    }
}

/// The router's side of a lane over the edge's sink.
pub struct DirectLane {
    edge: Arc<dyn EdgeSink>,
    router: OnceLock<Arc<dyn RouterSink>>,
    ended: AtomicBool,
}

impl DirectLane {
    /// A lane that passes its batches to `edge`.
    pub fn new(edge: Arc<dyn EdgeSink>) -> DirectLane {
        DirectLane {
            edge,
            router: OnceLock::new(),
            ended: AtomicBool::new(false),
        }
    }
}

impl EdgeLane for DirectLane {
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), Unsent<proto::ToEdgeBatch>> {
        if self.ended.load(Ordering::Acquire) {
            return Err(Unsent::Closed);
        }
        self.edge.deliver(batch);
        Ok(())
    }

    fn close(&self) {
        self.cut();
    }
}

impl Lane for DirectLane {
    fn cut(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.edge.closed();
            if let Some(router) = self.router.get() {
                router.close();
            }
        }
    }
}

/// The edge's side of a lane over the router's sink.
struct EdgeSide {
    lane: Arc<DirectLane>,
    sink: Arc<dyn RouterSink>,
}

#[async_trait]
impl RouterSink for EdgeSide {
    fn send(&self, frame: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        if self.lane.ended.load(Ordering::Acquire) {
            return Err(Unsent::Closed);
        }
        self.sink.send(frame)
    }

    fn waiting(&self) -> usize {
        self.sink.waiting()
    }

    async fn room(&self) {
        self.sink.room().await;
    }

    fn close(&self) {
        if !self.lane.ended.swap(true, Ordering::AcqRel) {
            self.sink.close();
        }
    }
}

#[async_trait]
impl PeerPort for Port {
    async fn open_lane(
        &self,
        hello: proto::PeerHello,
        receive: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        let acceptor = self.routers.acceptor(&self.node)?;
        let opener = hello.router.as_ref().map_or(0, |router| router.incarnation);
        let lane = Arc::new(PeerLane {
            opener: receive,
            acceptor: OnceLock::new(),
            ended: AtomicBool::new(false),
        });
        let sink = acceptor.accept_peer(hello, lane.clone())?;
        if lane.acceptor.set(sink.clone()).is_err() || lane.ended.load(Ordering::Acquire) {
            sink.close();
            return Err(gone(&self.node));
        }
        let watched: Arc<dyn Lane> = lane.clone();
        if !self.routers.keep(self.node.incarnation, &watched) {
            lane.cut();
            return Err(gone(&self.node));
        }
        // The opener is missing here if a test drives one router by itself.
        self.routers.keep(opener, &watched);
        Ok(Arc::new(OpenerSide { lane, sink }))
    }
}

/// The accepting router's side of a lane between routers.
struct PeerLane {
    opener: Arc<dyn PeerSink>,
    acceptor: OnceLock<Arc<dyn PeerSink>>,
    ended: AtomicBool,
}

#[async_trait]
impl PeerSink for PeerLane {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        if self.ended.load(Ordering::Acquire) {
            return Err(Unsent::Closed);
        }
        self.opener.send(frame)
    }

    fn waiting(&self) -> usize {
        self.opener.waiting()
    }

    async fn room(&self) {
        self.opener.room().await;
    }

    fn close(&self) {
        self.cut();
    }
}

impl Lane for PeerLane {
    fn cut(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.opener.close();
            if let Some(acceptor) = self.acceptor.get() {
                acceptor.close();
            }
        }
    }
}

struct OpenerSide {
    lane: Arc<PeerLane>,
    sink: Arc<dyn PeerSink>,
}

#[async_trait]
impl PeerSink for OpenerSide {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        if self.lane.ended.load(Ordering::Acquire) {
            return Err(Unsent::Closed);
        }
        self.sink.send(frame)
    }

    fn waiting(&self) -> usize {
        self.sink.waiting()
    }

    async fn room(&self) {
        self.sink.room().await;
    }

    fn close(&self) {
        self.lane.cut();
    }
}

#[cfg(test)]
#[path = "direct_tests.rs"]
mod tests;
