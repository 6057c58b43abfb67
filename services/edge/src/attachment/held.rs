//! How much all sessions of an edge hold together, and which of them give way when it is too much.
//!
//! Two things are counted: stanzas for clients, each once however many sessions hold it, until the
//! last session drops it; and stanzas from clients that are not settled. The count changes once for
//! a delivery to many sessions, and is compared with the bound at a tick. Beyond the bound:
//!
//! - The sessions with the most unacknowledged stanzas lose their sockets, like a session whose own
//!   queue is full: the owner detaches such a session, or ends it and stores the rest. A session
//!   that holds little keeps its socket, so a client that acknowledges is not cut.
//! - Clients are read only while little of theirs is unsettled.
//! - Logins wait.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use sestina_xmpp::stanza::Stanza;

use super::Attachments;
use super::hands::{Hands, Lock as _};
use super::state::{Phase, Session};
use crate::metrics::{Count, Level};

/// So little a session may hold at any time.
pub const LITTLE: usize = 64 << 10;

/// A stanza for clients, shared by the sessions that hold it.
pub struct Delivery {
    stanza: Stanza,
    held: Arc<Held>,
}

impl Deref for Delivery {
    type Target = Stanza;

    fn deref(&self) -> &Stanza {
        &self.stanza
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.held.change(self.stanza.weight(), 0);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Held {
    bound: AtomicUsize,
    bytes: AtomicUsize,
    full: AtomicBool,
    /// What the gauge knows of.
    told: AtomicUsize,
}

impl Default for Held {
    fn default() -> Held {
        Held {
            bound: AtomicUsize::new(usize::MAX),
            bytes: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            told: AtomicUsize::new(0),
        }
    }
}

impl Held {
    /// Counts a stanza for clients until it is dropped.
    pub fn delivery(self: &Arc<Self>, stanza: Stanza) -> Arc<Delivery> {
        self.change(0, stanza.weight());
        Arc::new(Delivery {
            stanza,
            held: Arc::clone(self),
        })
    }

    /// Something that counted `before` counts `now`.
    pub fn change(&self, before: usize, now: usize) {
        // Wraps around in between at most.
        self.bytes.fetch_add(now.wrapping_sub(before), Relaxed);
    }

    /// The bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// From when more was held than the bound until there is some room.
    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// How much of one client may be unsettled, of `limit` while there is room.
    pub fn unsettled(&self, limit: usize) -> usize {
        if self.is_full() {
            limit.min(LITTLE)
        } else {
            limit
        }
    }

    /// Where there is room again.
    fn low(&self) -> usize {
        let bound = self.bound.load(Relaxed);
        bound - bound / 8
    }
}

/// A session that may lose its socket, and what its client has not acknowledged.
type Candidate<H> = (usize, Arc<Session<H>>);

impl<H: Hands> Attachments<H> {
    /// Bounds what all sessions hold together.
    pub fn bound(&self, bytes: usize) {
        self.held.bound.store(bytes, Relaxed);
    }

    /// Compares what is held with its bound, and makes room.
    pub fn relieve(&self, hands: &H) {
        let held = self.held.bytes();
        let before = self.held.told.swap(held, Relaxed);
        if held != before {
            hands
                .metrics()
                .level(Level::HeldBytes, held as i64 - before as i64);
        }
        let bound = self.held.bound.load(Relaxed);
        if held <= bound {
            if self.held.is_full() && held <= self.held.low() {
                self.held.full.store(false, Relaxed);
                tracing::info!(held, bound, "sessions do not hold too much any more");
            }
            return;
        }
        if !self.held.full.swap(true, Relaxed) {
            tracing::warn!(
                held,
                bound,
                "the sessions of this process hold more than `edge.limits.held`: those that hold most \
                 lose their sockets, and logins wait"
            );
        }
        let (leaving, mut candidates) = self.candidates();
        candidates.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut excess = (held - self.held.low()).saturating_sub(leaving);
        for (bytes, session) in candidates {
            if excess == 0 {
                break;
            }
            hands.metrics().count(Count::GaveWay, 1);
            session.lose(hands);
            excess = excess.saturating_sub(bytes);
        }
    }

    /// Sessions that hold more than a little for an open socket; and what those hold that wait for
    /// their owner to take it.
    fn candidates(&self) -> (usize, Vec<Candidate<H>>) {
        let (mut leaving, mut candidates) = (0, Vec::new());
        for cell in &self.slots {
            for session in cell.lock().sessions.values() {
                let state = session.state.lock();
                match state.phase {
                    Phase::Open if state.outgoing.unacked_bytes > LITTLE => {
                        candidates.push((state.outgoing.unacked_bytes, Arc::clone(session)));
                    }
                    Phase::Lost | Phase::Closed => leaving += state.outgoing.unacked_bytes,
                    Phase::Open | Phase::Gone => {}
                }
            }
        }
        (leaving, candidates)
    }
}

#[cfg(test)]
mod tests {
    use sestina_xmpp::stanza::Kind;

    use super::*;

    #[test]
    fn a_stanza_counts_once_until_the_last_session_drops_it() {
        let held = Arc::new(Held::default());
        let mut stanza = Stanza::new(Kind::Message);
        stanza.payload = vec![b'x'; 1000].into();
        let weight = stanza.weight();
        assert!(weight >= 1000, "{weight}");
        let first = held.delivery(stanza);
        let second = Arc::clone(&first);
        assert_eq!(held.bytes(), weight);
        drop(first);
        assert_eq!(held.bytes(), weight);
        drop(second);
        assert_eq!(held.bytes(), 0);
    }
}
