//! What the process around an edge gives it.

use std::sync::Arc;

use sestina_runtime::pressure::Pressure;
use tokio::runtime::Handle;

/// What is shared with the rest of the process.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// The runtime on which the lease is renewed; none: the one that the edge is started on.
    pub leases: Option<Handle>,
    /// Whether the process has more to do than it can.
    pub pressure: Arc<Pressure>,
}
