//! Tiers of one process joined by direct calls.

use std::sync::Arc;

use async_trait::async_trait;
use sestina_api::link::{
    EdgeLane, EdgeSink, LaneClosed, LinkError, RouterAcceptor, RouterConnector, RouterPort,
    RouterSink,
};
use sestina_api::peer::{PeerConnector, PeerPort, PeerSink};
use sestina_proto as proto;

/// The one router of the process, as its edges see it.
pub(super) struct OneRouter(pub(super) Arc<dyn RouterAcceptor>);

struct Port(Arc<dyn RouterAcceptor>);

/// What the router sends goes straight to the edge.
struct Lane(Arc<dyn EdgeSink>);

impl EdgeLane for Lane {
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), LaneClosed> {
        self.0.deliver(batch);
        Ok(())
    }

    fn close(&self) {
        self.0.closed();
    }
}

#[async_trait]
impl RouterPort for Port {
    async fn open_lane(
        &self,
        hello: proto::Hello,
        edge: Arc<dyn EdgeSink>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        self.0.accept_edge(hello, Arc::new(Lane(edge)))
    }

    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        self.0.credentials(request).await
    }

    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        self.0.renew_lease(request).await
    }
}

#[async_trait]
impl RouterConnector for OneRouter {
    async fn seeds(&self) -> Vec<Arc<dyn RouterPort>> {
        vec![Arc::new(Port(Arc::clone(&self.0)))]
    }

    fn connect(&self, _router: &proto::Node) -> Arc<dyn RouterPort> {
        Arc::new(Port(Arc::clone(&self.0)))
    }
}

/// There is no other router.
pub(super) struct NoPeers;

struct NoPeer(String);

impl PeerConnector for NoPeers {
    fn connect(&self, router: &proto::Node) -> Arc<dyn PeerPort> {
        Arc::new(NoPeer(router.name.clone()))
    }
}

#[async_trait]
impl PeerPort for NoPeer {
    async fn open_lane(
        &self,
        _hello: proto::PeerHello,
        _receive: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        Err(LinkError::Refused {
            peer: self.0.clone(),
            reason: "this process has one router".to_owned(),
        })
    }
}
