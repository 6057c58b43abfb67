//! The slots as this edge knows them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::lanes::lane::LaneSet;
use crate::session::pending::Pending;
use crate::session::state::{Link, Session};

/// When frames that an owner did not take are sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    pub(crate) at: Instant,
    /// How many times it was tried.
    pub(crate) tries: u32,
}

/// One slot. Its lock is held while a frame of it is worked, so that nothing of an older owner
/// comes in after a new one was told what this edge holds. Order of locks: slot, session, wire.
#[derive(Default)]
pub(crate) struct Slot {
    /// The highest epoch known.
    pub(crate) epoch: u64,
    /// The epoch whose owner has been told what is held here.
    pub(crate) reported: u64,
    /// Lanes to the owner.
    pub(crate) route: Option<Arc<LaneSet>>,
    pub(crate) retry: Option<Retry>,
    /// By handle; those without a socket too, until the owner has taken them over.
    pub(crate) sessions: HashMap<u64, Arc<Session>>,
    /// By handle.
    pub(crate) pending: HashMap<u64, Box<Pending>>,
}

impl Slot {
    /// A higher epoch is known: the sessions wait for their new owner to install it.
    pub(crate) fn raise(&mut self, epoch: u64, route: Option<Arc<LaneSet>>) {
        self.epoch = epoch;
        self.route = route;
        for session in self.sessions.values() {
            let mut state = session.state.lock();
            state.link = Link::Restoring;
            state.waiting_since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether something of the slot waits to be sent again.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
            || self
                .sessions
                .values()
                .any(|s| matches!(s.state.lock().link, Link::Waiting))
    }

    /// Sends again all that the owner has not answered.
    pub(crate) fn resend(&self, number: u16) {
        for session in self.sessions.values() {
            session.relink(self, &mut session.state.lock());
        }
        self.resend_pending(number);
    }

    /// The binds and resumptions alone.
    pub(crate) fn resend_pending(&self, number: u16) {
        for pending in self.pending.values() {
            pending.send(number, self);
        }
    }
}
