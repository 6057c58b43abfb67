//! Edge and router: lanes of frames, and the few unary questions.

use std::sync::Arc;

use async_trait::async_trait;
use sestina_proto as proto;

use crate::identity::Holder;

/// Frames that go in bulk (reports, and all frames that are sent again after a lane broke) are
/// added to a lane only while less than this many bytes wait on it, so that there is room for new
/// frames.
pub const BULK: usize = 1 << 20;

/// A lane is gone: the peer died, or the connection broke.
/// Nothing sent on it since its last acknowledgement may be assumed to have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lane is closed")]
pub struct LaneClosed;

/// A batch or frame that a lane did not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[must_use = "a frame that a full lane refused has to be sent again when there is room"]
pub enum Unsent<T> {
    /// Too much waits for the lane; the frame is handed back. The lane goes on: the sender keeps the
    /// frame where it is bounded (a session's queue, a report that goes in parts) and sends it again
    /// when there is room.
    #[error("the lane is full")]
    Full(Box<T>),
    /// The lane is gone.
    #[error("the lane is closed")]
    Closed,
}

impl<T> Unsent<T> {
    /// A full lane.
    pub fn full(item: T) -> Unsent<T> {
        Unsent::Full(Box::new(item))
    }
}

impl<T> From<LaneClosed> for Unsent<T> {
    fn from(LaneClosed: LaneClosed) -> Unsent<T> {
        Unsent::Closed
    }
}

/// Why a unary question had no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer cannot be reached or did not answer in time; asking again is safe.
    #[error("{peer} is out of reach: {reason}")]
    Unavailable {
        /// Which process.
        peer: String,
        /// What the transport said.
        reason: String,
    },
    /// The peer refused (version, certificate, configuration).
    #[error("{peer} refused: {reason}")]
    Refused {
        /// Which process.
        peer: String,
        /// Why.
        reason: String,
    },
}

/// Takes the edge's frames. Never blocks: a full lane refuses those of
/// [`proto::ToRouter::is_refusable`].
#[async_trait]
pub trait RouterSink: Send + Sync + 'static {
    /// Hands over one frame. Order is kept on one sink.
    fn send(&self, frame: proto::ToRouter) -> Result<(), Unsent<proto::ToRouter>>;
    /// Bytes that wait to be taken; see [`BULK`]. None, where nothing waits.
    fn waiting(&self) -> usize {
        0
    }
    /// Returns when a frame that was refused may be taken, or the lane is gone. Never, where nothing
    /// is refused.
    async fn room(&self) {
        std::future::pending().await
    }
    /// Ends the lane.
    fn close(&self);
}

/// Takes the router's frames at the edge. Never blocks (a lane's reader never waits for a session).
pub trait EdgeSink: Send + Sync + 'static {
    /// Hands over one batch; the edge acknowledges `seq` with a LaneAck on the same lane.
    fn deliver(&self, batch: proto::ToEdgeBatch);
    /// Less waits on the lane again than [`BULK`].
    fn room(&self) {}
    /// The lane ended; no more batches come.
    fn closed(&self);
}

/// One router, as an edge sees it.
#[async_trait]
pub trait RouterPort: Send + Sync + 'static {
    /// Opens a lane: the first batch delivered to `edge` holds the Welcome.
    async fn open_lane(
        &self,
        hello: proto::Hello,
        edge: Arc<dyn EdgeSink>,
    ) -> Result<Arc<dyn RouterSink>, LinkError>;

    /// SCRAM keys of a user, from the owner of the user's slot.
    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError>;

    /// Renews the edge's lease with both authorities, or ends it (a term of 0).
    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError>;
}

/// Takes the frames that a router sends to one edge on one lane (the router's side of a lane).
/// Never blocks: a full lane refuses.
pub trait EdgeLane: Send + Sync + 'static {
    /// Hands over one batch.
    fn send(&self, batch: proto::ToEdgeBatch) -> Result<(), Unsent<proto::ToEdgeBatch>>;
    /// Ends the lane.
    fn close(&self);
}

/// The router's acceptor: what the gRPC server (or the direct call) hands new lanes to.
#[async_trait]
pub trait RouterAcceptor: Send + Sync + 'static {
    /// Whether a process that wants to open a lane is the incarnation that it says: asked before
    /// [`RouterAcceptor::accept_edge`] and [`RouterAcceptor::accept_peer`] for what comes from
    /// outside this process.
    async fn admit(&self, holder: Holder) -> Result<(), LinkError>;

    /// A lane was opened by an edge. Frames go to the returned sink.
    fn accept_edge(
        &self,
        hello: proto::Hello,
        lane: Arc<dyn EdgeLane>,
    ) -> Result<Arc<dyn RouterSink>, LinkError>;

    /// A lane was opened by another router. Frames go to the returned sink.
    fn accept_peer(
        &self,
        hello: proto::PeerHello,
        lane: Arc<dyn super::peer::PeerSink>,
    ) -> Result<Arc<dyn super::peer::PeerSink>, LinkError>;

    /// See [`RouterPort::credentials`].
    async fn credentials(
        &self,
        request: proto::CredentialsRequest,
    ) -> Result<proto::CredentialsReply, LinkError>;

    /// See [`RouterPort::renew_lease`].
    async fn renew_lease(
        &self,
        request: proto::RenewLeaseRequest,
    ) -> Result<proto::RenewLeaseReply, LinkError>;
}

/// Finds routers: those to ask first, and those that the slot map names.
#[async_trait]
pub trait RouterConnector: Send + Sync + 'static {
    /// Routers to ask when no slot map is known (configured addresses, resolved anew each time).
    async fn seeds(&self) -> Vec<Arc<dyn RouterPort>>;
    /// A port to the router that the slot map names; connects when first used.
    fn connect(&self, router: &proto::Node) -> Arc<dyn RouterPort>;
}
