//! The router that is at work now; it may be replaced when its lease was lost.

use std::sync::Arc;

use parking_lot::RwLock;
use sestina_api::lease::LeaseAuthority;
use sestina_proto as proto;
use sestina_router::Router;

/// A router and who it is.
#[derive(Clone)]
pub struct Running {
    /// The router.
    pub router: Arc<Router>,
    /// Its name, incarnation and address.
    pub node: proto::Node,
    /// Redis (or memory), as a lease authority.
    pub shadow_leases: Arc<dyn LeaseAuthority>,
    /// Storage, as a lease authority.
    pub storage_leases: Arc<dyn LeaseAuthority>,
}

/// Where those who ask find the router of the moment.
#[derive(Clone, Default)]
pub struct RouterCell(Arc<RwLock<Option<Running>>>);

impl RouterCell {
    /// No router yet.
    pub fn new() -> RouterCell {
        RouterCell::default()
    }

    /// This one from now on.
    pub fn set(&self, running: Running) {
        *self.0.write() = Some(running);
    }

    /// Takes it away.
    pub fn take(&self) -> Option<Running> {
        self.0.write().take()
    }

    /// The router of the moment; none while one is being replaced.
    pub fn get(&self) -> Option<Running> {
        self.0.read().clone()
    }

    /// Whether it can do its work.
    pub fn ready(&self) -> Result<(), String> {
        let Some(running) = self.get() else {
            return Err("the router is starting".to_owned());
        };
        if !running.router.is_ready() {
            return Err("the lease is not fresh".to_owned());
        }
        if running.router.table().version() == 0 {
            return Err("the slot table is not known yet".to_owned());
        }
        Ok(())
    }
}
