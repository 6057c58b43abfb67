//! The router that is at work now; it may be replaced when its lease was lost.

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
    pub shadow_leases: Arc<dyn LeaseAuthority>,
    /// Storage, as a lease authority.
    pub storage_leases: Arc<dyn LeaseAuthority>,
}

/// Where requests find the router that runs at the moment.
#[derive(Clone, Default)]
pub struct RouterCell(Arc<Inner>);

#[derive(Default)]
struct Inner {
    running: RwLock<Option<Running>>,
    /// What the next router waits for; empty: nothing in particular.
    waits: Mutex<String>,
}

impl RouterCell {
    /// No router yet.
    pub fn new() -> RouterCell {
        RouterCell::default()
    }

    /// This one from now on.
    pub fn set(&self, running: Running) {
        self.0.waits.lock().clear();
        *self.0.running.write() = Some(running);
    }

    /// There is no router yet, because of that. True if it was not so before.
    pub fn waits(&self, why: String) -> bool {
        let mut waits = self.0.waits.lock();
        let new = *waits != why;
        *waits = why;
        new
    }

    /// Takes it away.
    pub fn take(&self) -> Option<Running> {
        self.0.running.write().take()
    }

    /// The router of the moment; none while one is being replaced.
    pub fn get(&self) -> Option<Running> {
        self.0.running.read().clone()
    }

    /// Whether it can do its work.
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
