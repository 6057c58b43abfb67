//! Router and router: slot messages, room events, epochs.

use std::sync::Arc;

use async_trait::async_trait;
use sestina_proto as proto;

use crate::link::{LinkError, Unsent};

/// Takes frames for a router. Never blocks: a full lane refuses.
#[async_trait]
pub trait PeerSink: Send + Sync + 'static {
    /// Hands over one frame. Order is kept on one sink.
    fn send(&self, frame: proto::PeerFrame) -> Result<(), Unsent<proto::PeerFrame>>;
    /// Bytes that wait to be taken; see [`crate::link::BULK`]. None, where nothing waits.
    fn waiting(&self) -> usize {
        0
    }
    /// Returns when a frame that was refused may be taken, or the lane is gone. Never, where nothing
    /// is refused.
    async fn room(&self) {
        std::future::pending().await
    }
    /// The lane ended (called by either side).
    fn close(&self);
}

/// Another router, as a router sees it.
#[async_trait]
pub trait PeerPort: Send + Sync + 'static {
    /// Opens a lane; the other router's frames on it go to `receive`.
    async fn open_lane(
        &self,
        hello: proto::PeerHello,
        receive: Arc<dyn PeerSink>,
    ) -> Result<Arc<dyn PeerSink>, LinkError>;
}

/// Makes ports to routers from their published address.
pub trait PeerConnector: Send + Sync + 'static {
    /// A port to that router; connects when first used.
    fn connect(&self, router: &proto::Node) -> Arc<dyn PeerPort>;
}
