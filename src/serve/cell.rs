//! The router that runs now; it may be replaced after its lease was lost.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use sestina_api::lease::LeaseAuthority;
use sestina_proto as proto;
use sestina_router::Router;

/// A router and its incarnation.
#[derive(Clone)]
pub struct Running {
    /// The router.
    pub router: Arc<Router>,
    /// Its name, incarnation and address.
    pub node: proto::Node,
    /// Redis (or memory), as a lease authority.
    pub state_store_leases: Arc<dyn LeaseAuthority>,
    /// Storage, as a lease authority.
    pub storage_leases: Arc<dyn LeaseAuthority>,
}

/// Gives requests the router that runs now.
#[derive(Clone, Default)]
pub struct RouterCell(Arc<Inner>);

#[derive(Default)]
struct Inner {
    running: RwLock<Option<Running>>,
    /// Why there is no router yet; empty: no known reason.
    waits: Mutex<String>,
}

impl RouterCell {
    /// No router yet.
    pub fn new() -> RouterCell {
        RouterCell::default()
    }

    /// Puts this router in place.
    pub fn set(&self, running: Running) {
        self.0.waits.lock().clear();
        *self.0.running.write() = Some(running);
    }

    /// Notes why there is no router yet. True if the reason is new.
    pub fn waits(&self, why: String) -> bool {
        let mut waits = self.0.waits.lock();
        let new = *waits != why;
        *waits = why;
        new
    }

    /// Removes the router.
    pub fn take(&self) -> Option<Running> {
        self.0.running.write().take()
    }

    /// The router that runs now; none while it is being replaced.
    pub fn get(&self) -> Option<Running> {
        self.0.running.read().clone()
    }

    /// Whether the router can serve.
    pub fn ready(&self) -> Result<(), String> {
        let Some(running) = self.get() else {
            let waits = self.0.waits.lock().clone();
            return Err(match waits.is_empty() {
                true => "the router is starting".to_owned(),
                false => waits,
            });
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
