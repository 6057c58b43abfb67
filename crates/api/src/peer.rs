//! Router and router: effects, room events, epochs.

use std::sync::Arc;

use async_trait::async_trait;
use sestina_proto as proto;

use crate::link::{LaneClosed, LinkError};

/// Takes frames for a router. Never blocks; a full queue closes the lane.
pub trait PeerSink: Send + Sync + 'static {
    /// Hands over one frame. Order is kept on one sink.
    fn send(&self, frame: proto::PeerFrame) -> Result<(), LaneClosed>;
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
