//! The slots as this edge knows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sestina_proto as proto;
use sestina_proto::to_router::Body;

use super::hands::{Hands, Lock as _, Sent};
use super::pending::Pending;
use super::report::Parts;
use super::state::{Link, Session};

/// When frames that an owner did not take are sent again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// When that is.
    pub at: Instant,
    /// How many times it was tried.
    pub tries: u32,
}

/// One slot. Its lock is held while a frame of it is worked, so that no frame of an older owner is
/// worked after a new owner was told what this edge holds. Order of locks: slot, session, wire.
pub struct Slot<H: Hands> {
    /// The highest epoch known.
    pub epoch: u64,
    /// The epoch whose owner has been told what is held here.
    pub reported: u64,
    /// Of a report under way, what its lane has not taken.
    pub parts: Option<Parts<H>>,
    /// Lanes to the owner.
    pub route: Option<H::Route>,
    /// When to try again what waits in this slot, if anything does.
    pub retry: Option<Retry>,
    /// By handle; those without a socket too, until the owner has taken them over.
    pub sessions: BTreeMap<u64, Arc<Session<H>>>,
    /// By handle.
    pub pending: BTreeMap<u64, Box<Pending<H>>>,
}

impl<H: Hands> Default for Slot<H> {
    fn default() -> Slot<H> {
        Slot {
            epoch: 0,
            reported: 0,
            parts: None,
            route: None,
            retry: None,
            sessions: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }
}

impl<H: Hands> Slot<H> {
    /// A higher epoch is known: the sessions wait for their new owner to install it.
    pub fn raise(&mut self, hands: &H, epoch: u64, route: Option<H::Route>) {
        self.epoch = epoch;
        self.route = route;
        self.parts = None;
        for session in self.sessions.values() {
            let mut state = session.state.lock();
            state.link = Link::Restoring;
            state.waiting_since.get_or_insert_with(|| hands.now());
        }
    }

    /// A newer slot map: the slot follows its owner.
    pub fn follow(&mut self, hands: &H, number: u16, epoch: u64, owner: Option<&H::Route>) {
        if epoch < self.epoch {
            // An InstallEpoch was faster than the map.
            return;
        }
        let same = match (&self.route, owner) {
            (Some(route), Some(owner)) => hands.is_same(route, owner),
            (None, None) => true,
            _ => false,
        };
        if epoch > self.epoch {
            self.raise(hands, epoch, owner.cloned());
        } else if same {
            return;
        } else {
            self.route = owner.cloned();
        }
        self.resend(hands, number);
    }

    /// Sends a frame that a full lane takes too to the owner, if its lane is open.
    pub fn send(&self, hands: &H, number: u16, body: Body) {
        let route = self.route.as_ref();
        if let Some(lane) = route.and_then(|route| hands.lane(route, number)) {
            let frame = proto::ToRouter {
                slot: number.into(),
                epoch: self.epoch,
                body: Some(body),
            };
            let sent = hands.send(&lane, frame);
            debug_assert!(!matches!(sent, Sent::Full(_)), "it may be refused");
        }
    }

    /// Whether something of the slot waits to be sent again.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
            || self
                .sessions
                .values()
                .any(|s| matches!(s.state.lock().link, Link::Waiting))
    }

    /// Sends again the frames of sessions that wait. The other sessions are left alone: repeating
    /// their frames again and again could keep those of the waiting ones out of the lane.
    pub fn resend_waiting(&mut self, hands: &H, number: u16) {
        for session in self.sessions.values() {
            let mut state = session.state.lock();
            if matches!(state.link, Link::Waiting) {
                session.relink(hands, self, &mut state);
            }
        }
        self.resend_pending(hands, number);
    }

    /// Sends again all that the owner has not answered.
    pub fn resend(&mut self, hands: &H, number: u16) {
        for session in self.sessions.values() {
            session.relink(hands, self, &mut session.state.lock());
        }
        self.resend_pending(hands, number);
    }

    /// The binds and resumptions alone. What a lane does not take is tried again.
    pub fn resend_pending(&mut self, hands: &H, number: u16) {
        let mut pending = self.pending.values();
        if !pending.all(|pending| pending.send(hands, number, self)) {
            hands.attachments().wait_for_owner(hands, number, self);
        }
    }
}
