//! The traits of one process, but with every frame, batch and request encoded and decoded on its
//! way: what the tests call "embedded through the wire codec". A field that the wire does not
//! carry shows at once, without a network.

use std::sync::Arc;

use async_trait::async_trait;
use prost::Message;
use sestina_api::identity::Holder;
use sestina_api::link::{
    EdgeLane, EdgeSink, LaneClosed, LinkError, RouterAcceptor, RouterConnector, RouterPort,
    RouterSink, Unsent,
};
use sestina_api::peer::{PeerConnector, PeerPort, PeerSink};
use sestina_api::store::{StoreError, Stores};
use sestina_proto as proto;
use tonic::Status;

use crate::status;
use crate::storage_server::for_each_store;

/// What the other side would have decoded.
fn through<M: Message + Default>(message: &M) -> Result<M, String> {
    M::decode(message.encode_to_vec().as_slice()).map_err(|e| e.to_string())
}

fn frame<M: Message + Default>(message: &M) -> Result<M, LaneClosed> {
    through(message).map_err(|error| {
        tracing::error!(%error, "a frame does not survive the wire codec");
        LaneClosed
    })
}

fn question<M: Message + Default>(message: &M) -> Result<M, LinkError> {
    through(message).map_err(|reason| LinkError::Refused {
        peer: "codec".to_owned(),
        reason,
    })
}

fn over_the_wire(status: &Status) -> Status {
    let headers = status.clone().into_http::<()>().into_parts().0.headers;
    Status::from_header_map(&headers).unwrap_or_else(|| status.clone())
}

struct CodecRouterSink(Arc<dyn RouterSink>);

#[async_trait]
impl RouterSink for CodecRouterSink {
    fn send(&self, message: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>> {
        let batch = frame(&proto::ToRouterBatch {
            frames: vec![message],
        })?;
        batch
            .frames
            .into_iter()
            .try_for_each(|frame| self.0.send(frame))
    }

    fn waiting(&self) -> usize {
        self.0.waiting()
    }

    async fn room(&self) {
        self.0.room().await;
    }

    fn close(&self) {
        self.0.close();
    }
}

struct CodecEdgeSink(Arc<dyn EdgeSink>);

impl EdgeSink for CodecEdgeSink {
    fn deliver(&self, batch: proto::ToEdgeBatch) {
        if let Ok(batch) = frame(&batch) {
            self.0.deliver(batch);
        }
    }

    fn room(&self) {
        self.0.room();
    }

    fn closed(&self) {
        self.0.closed();
    }
}

struct CodecEdgeLane(Arc<dyn EdgeLane>);

impl EdgeLane for CodecEdgeLane {
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), Unsent<proto::ToEdgeBatch>> {
        self.0.send(frame(&batch)?)
    }

    fn close(&self) {
        self.0.close();
    }
}

struct CodecPeerSink(Arc<dyn PeerSink>);

#[async_trait]
impl PeerSink for CodecPeerSink {
    fn send(&self, message: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        let batch = frame(&proto::PeerBatch {
            frames: vec![message],
        })?;
        batch
            .frames
            .into_iter()
            .try_for_each(|frame| self.0.send(frame))
    }

    fn waiting(&self) -> usize {
        self.0.waiting()
    }

    async fn room(&self) {
        self.0.room().await;
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Wraps the way from an edge to its routers.
pub struct CodecRouterConnector(pub Arc<dyn RouterConnector>);

#[async_trait]
impl RouterConnector for CodecRouterConnector {
    async fn seeds(&self) -> Vec<Arc<dyn RouterPort>> {
        let seeds = self.0.seeds().await;
        seeds
            .into_iter()
            .map(|port| Arc::new(CodecRouterPort(port)) as Arc<dyn RouterPort>)
            .collect()
    }

    fn connect(&self, router: &proto::Node) -> Arc<dyn RouterPort> {
        Arc::new(CodecRouterPort(self.0.connect(router)))
    }
}

/// Wraps one router, as an edge sees it.
pub struct CodecRouterPort(pub Arc<dyn RouterPort>);

#[async_trait]
impl RouterPort for CodecRouterPort {
    async fn open_lane(
        &self,
        hello: proto::Hello,
        edge: Arc<dyn EdgeSink>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        let hello = question(&hello)?;
        let sink = self
            .0
            .open_lane(hello, Arc::new(CodecEdgeSink(edge)))
            .await?;
        Ok(Arc::new(CodecRouterSink(sink)))
    }

    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        question(&self.0.credentials(question(&request)?).await?)
    }

    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        question(&self.0.renew_lease(question(&request)?).await?)
    }
}

/// Wraps a router's acceptor: the same as [`CodecRouterConnector`] and [`CodecPeerConnector`],
/// seen from the other side.
pub struct CodecAcceptor(pub Arc<dyn RouterAcceptor>);

#[async_trait]
impl RouterAcceptor for CodecAcceptor {
    async fn admit(&self, holder: Holder) -> Result<(), LinkError> {
        self.0.admit(holder).await
    }

    fn accept_edge(
        &self,
        hello: proto::Hello,
        lane: Arc<dyn EdgeLane>,
    ) -> Result<Arc<dyn RouterSink>, LinkError> {
        let sink = self
            .0
            .accept_edge(question(&hello)?, Arc::new(CodecEdgeLane(lane)))?;
        Ok(Arc::new(CodecRouterSink(sink)))
    }

    fn accept_peer(
        &self,
        hello: proto::PeerHello,
        lane: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        let sink = self
            .0
            .accept_peer(question(&hello)?, Arc::new(CodecPeerSink(lane)))?;
        Ok(Arc::new(CodecPeerSink(sink)))
    }

    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError> {
        question(&self.0.credentials(question(&request)?).await?)
    }

    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError> {
        question(&self.0.renew_lease(question(&request)?).await?)
    }
}

/// Wraps the way from a router to others.
pub struct CodecPeerConnector(pub Arc<dyn PeerConnector>);

impl PeerConnector for CodecPeerConnector {
    fn connect(&self, router: &proto::Node) -> Arc<dyn PeerPort> {
        Arc::new(CodecPeerPort(self.0.connect(router)))
    }
}

struct CodecPeerPort(Arc<dyn PeerPort>);

#[async_trait]
impl PeerPort for CodecPeerPort {
    async fn open_lane(
        &self,
        hello: proto::PeerHello,
        receive: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError> {
        let hello = question(&hello)?;
        let sink = self
            .0
            .open_lane(hello, Arc::new(CodecPeerSink(receive)))
            .await?;
        Ok(Arc::new(CodecPeerSink(sink)))
    }
}

/// Wraps the stores; errors go through their status too.
pub struct CodecStores(pub Arc<dyn Stores>);

macro_rules! stores {
    ($($name:ident($request:ident) -> $reply:ident, $class:ident;)*) => {
        #[async_trait]
        impl Stores for CodecStores {
            $(async fn $name(
                &self,
                message: proto::$request,
            ) -> Result<proto::$reply, StoreError> {
                let message = through(&message).map_err(StoreError::Invalid)?;
                match self.0.$name(message).await {
                    Ok(reply) => through(&reply).map_err(StoreError::Internal),
                    Err(error) => {
                        Err(status::to_store(&over_the_wire(&status::from_store(error))))
                    }
                }
            })*
        }
    };
}
for_each_store!(stores);
