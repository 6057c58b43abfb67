//! The memory that sessions hold, counted for the session, its user and its slot: one account cannot
//! take what others need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sestina_telemetry::Queue;

use super::core::Core;
use super::session::Session;
use super::slot::Slot;

/// Bytes in all queues of a user, or of a slot. One worker alone changes them.
pub(crate) type Total = Arc<AtomicUsize>;

/// Bytes in a session's queue, counted with those of its user and its slot.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: usize,
    user: Total,
    slot: Total,
}

impl Held {
    /// Bytes of the session.
    pub(crate) fn get(&self) -> usize {
        self.bytes
    }

    /// The bytes that are held for its user, and for its slot.
    #[cfg(feature = "simulation")]
    pub(crate) fn totals(&self) -> (usize, usize) {
        (self.user.load(Relaxed), self.slot.load(Relaxed))
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        // A load and a store: one worker alone writes, and a read-modify-write would lock the bus for
        // each delivery.
        for total in [&self.user, &self.slot] {
            total.store(total.load(Relaxed) + bytes, Relaxed);
        }
    }

    pub(crate) fn sub(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        for total in [&self.user, &self.slot] {
            total.store(total.load(Relaxed) - bytes, Relaxed);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.sub(self.bytes);
    }

    /// Counts with these from now on.
    fn join(&mut self, user: Total, slot: Total) {
        let bytes = self.bytes;
        self.clear();
        (self.user, self.slot) = (user, slot);
        self.add(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Slot {
    /// A session comes to the slot: what it holds counts here.
    pub(super) fn share(&self, session: &mut Session) {
        let bare = session.channel.jid.bare();
        let others = self.users.get(&bare).into_iter().flatten();
        let user = others
            .filter_map(|id| self.sessions.get(id))
            .map(|other| other.channel.outgoing.queue_bytes.user.clone())
            .next()
            .unwrap_or_default();
        session
            .channel
            .outgoing
            .queue_bytes
            .join(user, self.held.clone());
    }

    /// Ends the session that holds most, if the user of the session `id` or the whole slot holds more
    /// than it may: of the user, or of the user who holds most in the slot.
    pub(super) fn keep_shares(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let user = session.channel.outgoing.queue_bytes.user.load(Relaxed)
            > core.config.limits.user_queue_bytes;
        if user {
            let of_user = session.channel.outgoing.queue_bytes.user.clone();
            self.shed(core, Queue::User, |s| {
                Arc::ptr_eq(&s.channel.outgoing.queue_bytes.user, &of_user)
            });
        } else if self.held.load(Relaxed) > core.config.limits.slot_queue_bytes {
            let users = self.sessions.values().filter(|s| s.channel.is_live());
            let most = users
                .map(|s| &s.channel.outgoing.queue_bytes.user)
                .max_by_key(|user| user.load(Relaxed))
                .cloned();
            if let Some(most) = most {
                self.shed(core, Queue::Slot, |s| {
                    Arc::ptr_eq(&s.channel.outgoing.queue_bytes.user, &most)
                });
            }
        }
    }

    fn shed(&mut self, core: &mut Core, queue: Queue, of: impl Fn(&Session) -> bool) {
        let live = self
            .sessions
            .values()
            .filter(|s| s.channel.is_live() && of(s));
        let fullest = live.max_by_key(|s| (s.channel.outgoing.queue_bytes.get(), s.channel.id));
        if let Some(id) = fullest.map(|s| s.channel.id) {
            self.overflowed(core, id, queue);
        }
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
