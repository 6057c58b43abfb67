//! Lanes at the router: what edges and other routers open.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use prost::Message;
use sestina_api::identity::{Holder, Secret};
use sestina_api::link::{EdgeLane, RouterAcceptor, Unsent};
use sestina_api::peer::PeerSink;
use sestina_proto as proto;
use sestina_proto::NodeRole;
use sestina_runtime::coalesce::CoalescingTimer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::identity::PeerInfo;
use crate::lane::{BATCH, LaneLimits, Once, farewell, receive};
use crate::queue::{ByteQueue, End, LANES, Level, Outgoing, PEER_LANES};
use crate::{access, status};

/// The first frame of a lane must come within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Implements the services `EdgeLink` and `PeerLink` over one acceptor.
#[derive(Clone)]
pub struct LaneServer {
    acceptor: Arc<dyn RouterAcceptor>,
    limits: LaneLimits,
    stop: CancellationToken,
    tasks: TaskTracker,
    coalesce: Arc<CoalescingTimer>,
}

impl LaneServer {
    /// `stop` closes all lanes; their readers run under `tasks`.
    pub fn new(
        acceptor: Arc<dyn RouterAcceptor>,
        limits: LaneLimits,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> LaneServer {
        LaneServer {
            acceptor,
            limits,
            stop,
            tasks,
            coalesce: CoalescingTimer::new(),
        }
    }

    /// Whether a process is the incarnation that it says it is.
    async fn admit(&self, node: proto::Node, secret: &Bytes) -> Result<(), Status> {
        let secret = Secret::from_wire(secret.clone());
        let admitted = self.acceptor.admit(Holder { node, secret }).await;
        admitted.map_err(status::from_link)
    }

    fn queue<T>(&self, bound: usize, level: &'static Level) -> Result<Arc<ByteQueue<T>>, Status> {
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("this router is stopping"));
        }
        Ok(ByteQueue::new(bound, self.stop.child_token(), level))
    }
}

type Replies<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// The queue as the answer of the call; an error at its end tells the peer that the lane broke.
fn replies<T: Send + 'static, M: Send + 'static>(outgoing: Outgoing<T, M>) -> Replies<M> {
    Box::pin(outgoing.filter_map(|item| {
        std::future::ready(match item {
            Ok(message) => Some(Ok(message)),
            Err(End::Finished) => None,
            Err(End::Broken) => Some(Err(Status::aborted("the lane broke"))),
        })
    }))
}

async fn first<M>(inbound: &mut Streaming<M>) -> Result<M, Status> {
    match tokio::time::timeout(HELLO_TIMEOUT, inbound.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(Status::invalid_argument("the lane ended before its Hello")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no Hello came")),
    }
}

#[tonic::async_trait]
impl proto::edge_link_server::EdgeLink for LaneServer {
    type LaneStream = Replies<proto::ToEdgeBatch>;

    async fn lane(
        &self,
        request: Request<Streaming<proto::ToRouterBatch>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let mut inbound = request.into_inner();
        let mut frames = first(&mut inbound).await?.frames.into_iter();
        let Some(proto::to_router::Body::Hello(hello)) = frames.next().and_then(|f| f.body) else {
            return Err(Status::invalid_argument(
                "the first frame of a lane must be Hello",
            ));
        };
        let node = access::speaks_as(peer.as_ref(), hello.edge.as_ref(), NodeRole::Edge)?;
        self.admit(node, &hello.secret).await?;
        let queue = self.queue(self.limits.to_edge, &LANES)?;
        let lane = Arc::new(EdgeLaneHandle(Arc::clone(&queue)));
        let outgoing = Outgoing::new(Arc::clone(&queue), 0, one_batch);
        let sink = self
            .acceptor
            .accept_edge(hello, lane)
            .map_err(status::from_link)?;
        self.tasks.spawn(async move {
            {
                let (ender, closer) = (Arc::clone(&queue), Arc::clone(&sink));
                let _once = Once::new(move || {
                    ender.end(End::Finished);
                    closer.close();
                });
                let send = |frame| match access::edge_sends(&frame) {
                    true => sink.send(frame),
                    false => Err(Unsent::Closed),
                };
                let (ended, room) = (queue.token(), || sink.room());
                receive(
                    &mut inbound,
                    ended,
                    frames,
                    |batch| batch.frames,
                    send,
                    room,
                )
                .await;
            }
            farewell(&mut inbound).await;
        });
        Ok(Response::new(replies(outgoing)))
    }

    async fn credentials(
        &self,
        request: Request<proto::CredentialsRequest>,
    ) -> Result<Response<proto::CredentialsReply>, Status> {
        let span = crate::trace::server_span(request.metadata(), "credentials");
        let call = self
            .acceptor
            .credentials(request.into_inner())
            .instrument(span);
        call.await.map(Response::new).map_err(status::from_link)
    }

    async fn renew_lease(
        &self,
        request: Request<proto::RenewLeaseRequest>,
    ) -> Result<Response<proto::RenewLeaseReply>, Status> {
        let node = request.get_ref().node.as_ref();
        access::speaks_as(request.extensions().get(), node, NodeRole::Edge)?;
        let span = crate::trace::server_span(request.metadata(), "renew_lease");
        let call = self
            .acceptor
            .renew_lease(request.into_inner())
            .instrument(span);
        call.await.map(Response::new).map_err(status::from_link)
    }
}

#[tonic::async_trait]
impl proto::peer_link_server::PeerLink for LaneServer {
    type LaneStream = Replies<proto::PeerBatch>;

    async fn lane(
        &self,
        request: Request<Streaming<proto::PeerBatch>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let mut inbound = request.into_inner();
        let mut frames = first(&mut inbound).await?.frames.into_iter();
        let Some(proto::peer_frame::Body::Hello(hello)) = frames.next().and_then(|f| f.body) else {
            return Err(Status::invalid_argument(
                "the first frame of a lane must be Hello",
            ));
        };
        let node = access::speaks_as(peer.as_ref(), hello.router.as_ref(), NodeRole::Router)?;
        self.admit(node.clone(), &hello.secret).await?;
        let queue = self.queue(self.limits.to_peer, &PEER_LANES)?;
        let lane = Arc::new(PeerLaneHandle(Arc::clone(&queue), self.coalesce.clone()));
        let outgoing = Outgoing::new(Arc::clone(&queue), BATCH, peer_batch);
        let sink = self
            .acceptor
            .accept_peer(hello, lane)
            .map_err(status::from_link)?;
        self.tasks.spawn(async move {
            {
                let (ender, closer) = (Arc::clone(&queue), Arc::clone(&sink));
                let _once = Once::new(move || {
                    ender.end(End::Finished);
                    closer.close();
                });
                let send = |frame| match access::router_sends(&node, &frame) {
                    true => sink.send(frame),
                    false => Err(Unsent::Closed),
                };
                let (ended, room) = (queue.token(), || sink.room());
                receive(
                    &mut inbound,
                    ended,
                    frames,
                    |batch| batch.frames,
                    send,
                    room,
                )
                .await;
            }
            farewell(&mut inbound).await;
        });
        Ok(Response::new(replies(outgoing)))
    }
}

/// A queue of batches gives them one by one: each names its own worker and number.
fn one_batch(mut batch: Vec<proto::ToEdgeBatch>) -> proto::ToEdgeBatch {
    batch.pop().unwrap_or_default()
}

pub(crate) fn peer_batch(frames: Vec<proto::PeerFrame>) -> proto::PeerBatch {
    proto::PeerBatch { frames }
}

struct EdgeLaneHandle(Arc<ByteQueue<proto::ToEdgeBatch>>);

impl EdgeLane for EdgeLaneHandle {
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), Unsent<proto::ToEdgeBatch>> {
        self.0.push(batch.encoded_len(), batch)
    }

    fn close(&self) {
        self.0.end(End::Finished);
    }
}

impl Drop for EdgeLaneHandle {
    fn drop(&mut self) {
        self.close();
    }
}

/// One's own end of a lane between routers, at either side.
pub(crate) struct PeerLaneHandle(
    pub(crate) Arc<ByteQueue<proto::PeerFrame>>,
    pub(crate) Arc<CoalescingTimer>,
);

#[tonic::async_trait]
impl PeerSink for PeerLaneHandle {
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>> {
        let bytes = frame.encoded_len();
        if frame.is_trailing() {
            self.0.push_trailing(bytes, frame, &self.1)
        } else {
            self.0.push(bytes, frame)
        }
    }

    fn waiting(&self) -> usize {
        self.0.bytes()
    }

    async fn room(&self) {
        self.0.room().await;
    }

    fn close(&self) {
        self.0.end(End::Finished);
    }
}

impl Drop for PeerLaneHandle {
    fn drop(&mut self) {
        self.close();
    }
}
