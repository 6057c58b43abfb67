//! A session: who it is, and the counters of both directions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use sestina_proto as proto;
use sestina_telemetry::trace;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::stream::Framing;
use tokio::sync::Notify;
use tracing::Span;

use crate::lanes::lane::Lane;
use crate::metrics::{EdgeMetrics, Level};
use crate::transport::WireWriter;

/// One attachment of a session to a socket of this edge. Its handle is never used again.
pub(crate) struct Session {
    pub(crate) handle: u64,
    pub(crate) generation: u32,
    pub(crate) slot: u16,
    /// The session's 128-bit nonce, the same through all its attachments.
    pub(crate) nonce: u128,
    /// Full JID.
    pub(crate) jid: Box<str>,
    pub(crate) framing: Framing,
    pub(crate) wire: Arc<WireWriter>,
    pub(crate) transport: &'static str,
    pub(crate) remote: Box<str>,
    /// Wakes the reader that was paused because too much was unsettled.
    pub(crate) room: Notify,
    pub(crate) state: Mutex<State>,
}

/// What the socket is to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Open: stanzas go both ways.
    Open,
    /// The socket was lost; the owner has been told, what is held stays until it detaches.
    Lost,
    /// The stream was closed; the owner has been told likewise.
    Closed,
    /// Nothing is held and nothing is sent any more.
    Gone,
}

/// Where the session's frames go.
#[derive(Clone)]
pub(crate) enum Link {
    /// Into that opening of that lane. If the opening is over, all is sent again on the next.
    Live {
        /// The lane.
        lane: Arc<Lane>,
        /// Which opening of it.
        attempt: u64,
    },
    /// Nowhere: the owner redirected, or there is no open lane. Sent again when there is one.
    Waiting,
    /// Nowhere: a new owner has been told of the session and has not answered.
    Restoring,
}

/// XEP-0198 of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Management {
    /// Not asked for.
    Off,
    /// `<enable/>` came after the n-th stanza; the owner has not answered.
    Asked {
        /// The client's last stanza before it.
        n: u64,
        /// Resumption was asked for.
        resume: bool,
        /// Wanted maximum in seconds.
        max_s: u32,
    },
    /// Enabled.
    On {
        /// The session can be resumed.
        resumable: bool,
    },
}

/// A stanza of the client that is not settled.
pub(crate) struct HeldIn {
    pub(crate) n: u64,
    pub(crate) stanza: proto::Stanza,
    /// The error that its owner must answer it with; empty if there is none.
    pub(crate) refused: &'static str,
    pub(crate) weight: u32,
    pub(crate) read: Instant,
    /// Of a sampled stanza.
    pub(crate) traced: Option<Box<Traced>>,
}

/// The root of a sampled stanza's trace: it ends when the stanza is settled.
pub(crate) struct Traced {
    pub(crate) parent: String,
    _span: Span,
}

impl Traced {
    /// Draws whether a stanza is sampled.
    pub(crate) fn draw(kind: Kind) -> Option<Box<Traced>> {
        let span = trace::stanza_span(kind.name());
        let parent = trace::traceparent(&span)?;
        Some(Box::new(Traced {
            parent,
            _span: span,
        }))
    }
}

/// A delivery that is not both acknowledged and released.
pub(crate) struct HeldOut {
    pub(crate) number: u64,
    pub(crate) key: Option<proto::Key>,
    /// Dropped once the client acknowledged it; shared by all who got it.
    pub(crate) stanza: Option<Arc<Stanza>>,
    /// When it came, in milliseconds since 1970.
    pub(crate) at_ms: i64,
}

/// What changes.
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) link: Link,
    /// Epoch of the slot's owner that knows this session.
    pub(crate) epoch: u64,
    /// Since when no owner has taken frames.
    pub(crate) waiting_since: Option<Instant>,
    /// When it was linked to its present lane.
    pub(crate) linked_at: Option<Instant>,
    pub(crate) management: Management,

    /// Number of the client's last stanza.
    pub(crate) in_last: u64,
    pub(crate) accepted: u64,
    pub(crate) settled: u64,
    /// What came before it was resumed here is held elsewhere.
    pub(crate) began: u64,
    /// Where the count of `h` began.
    pub(crate) in_base: u64,
    /// The client asked when this was its last stanza: it hears until all up to here is accepted.
    pub(crate) answer_until: u64,
    /// The client was told less than it had sent when it asked: once all is accepted, what it sent
    /// since then is told too. Some ask a moment before their last stanza leaves.
    pub(crate) answer_all: bool,
    /// The highest count told to the client; it never goes back.
    pub(crate) told: u64,
    pub(crate) held_in: VecDeque<HeldIn>,
    pub(crate) held_in_bytes: usize,

    /// Number of the last delivery.
    pub(crate) out_last: u64,
    pub(crate) acked: u64,
    pub(crate) released: u64,
    pub(crate) out_base: u64,
    pub(crate) held_out: VecDeque<HeldOut>,
    pub(crate) unacked_bytes: usize,
    /// The last delivery when `<r/>` was written last.
    pub(crate) asked_at: u64,
    /// `<r/>` was written because half the credit was used; not again until it is given back.
    pub(crate) half_asked: bool,
    pub(crate) reported_acked: u64,
    pub(crate) reported_written: u64,
    pub(crate) unreported_bytes: usize,

    /// In the list of the turn under way.
    pub(crate) touched: bool,
    /// What is sent is looked at for a while.
    pub(crate) ask_timer: bool,
    /// The last delivery when that while began.
    pub(crate) ask_window: u64,
    /// `<r/>` was written in it because much was sent.
    pub(crate) asked_enough: bool,
    /// How often it may still be written at once.
    pub(crate) asks_at_once: u8,
    pub(crate) report_timer: bool,
    /// When a silent client was asked whether it is there, and when it had been heard last.
    pub(crate) silence_asked: Option<(Instant, Instant)>,
    /// Unsettled stanzas and bytes that the gauges know of.
    unsettled_told: (usize, usize),
    /// The registry record that the owner last gave (KeepState).
    pub(crate) record: Bytes,
}

impl State {
    /// A session as it is at bind.
    pub(crate) fn new(epoch: u64) -> State {
        State {
            phase: Phase::Open,
            link: Link::Waiting,
            epoch,
            waiting_since: None,
            linked_at: None,
            management: Management::Off,
            in_last: 0,
            accepted: 0,
            settled: 0,
            began: 0,
            in_base: 0,
            answer_until: 0,
            answer_all: false,
            told: 0,
            held_in: VecDeque::new(),
            held_in_bytes: 0,
            out_last: 0,
            acked: 0,
            released: 0,
            out_base: 0,
            held_out: VecDeque::new(),
            unacked_bytes: 0,
            asked_at: 0,
            half_asked: false,
            reported_acked: 0,
            reported_written: 0,
            unreported_bytes: 0,
            touched: false,
            ask_timer: false,
            ask_window: 0,
            asked_enough: false,
            asks_at_once: 0,
            report_timer: false,
            silence_asked: None,
            unsettled_told: (0, 0),
            record: Bytes::new(),
        }
    }

    /// Deliveries that the client has neither acknowledged nor been asked for.
    pub(crate) fn unasked(&self) -> u64 {
        if !self.managed() || self.phase != Phase::Open {
            return 0;
        }
        self.out_last.saturating_sub(self.asked_at.max(self.acked))
    }

    /// Whether XEP-0198 is enabled.
    pub(crate) fn managed(&self) -> bool {
        matches!(self.management, Management::On { .. })
    }

    /// Whether the client may resume the session.
    pub(crate) fn resumable(&self) -> bool {
        matches!(self.management, Management::On { resumable: true })
    }

    /// Drops deliveries that are acknowledged and released; of those only acknowledged, the
    /// stanza (the key stays, so that a new owner knows what was delivered).
    pub(crate) fn prune_out(&mut self, acked: u64) {
        let acked = acked.min(self.out_last);
        if acked > self.acked {
            let first = self.held_out.partition_point(|h| h.number <= self.acked);
            for held in self.held_out.iter_mut().skip(first) {
                if held.number > acked {
                    break;
                }
                if let Some(stanza) = &held.stanza {
                    self.unacked_bytes = self.unacked_bytes.saturating_sub(stanza.weight());
                    if stanza.kind != Kind::Message {
                        held.stanza = None;
                    }
                    // A message stays until it is released: if its owner dies before the archive
                    // has it, the next owner archives it from here, in this order.
                }
            }
            self.acked = acked;
        }
        let gone = self.acked.min(self.released);
        while self.held_out.front().is_some_and(|h| h.number <= gone) {
            self.held_out.pop_front();
        }
        if self.held_out.is_empty() && self.held_out.capacity() > 32 {
            self.held_out = VecDeque::new();
        }
    }

    /// Tells the gauges what has changed of the unsettled.
    pub(crate) fn tell_unsettled(&mut self, metrics: &dyn EdgeMetrics) {
        let (items, bytes) = (self.held_in.len(), self.held_in_bytes);
        let before = std::mem::replace(&mut self.unsettled_told, (items, bytes));
        if before != (items, bytes) {
            metrics.level(Level::Unsettled, items as i64 - before.0 as i64);
            metrics.level(Level::UnsettledBytes, bytes as i64 - before.1 as i64);
        }
    }

    /// Drops the client's stanzas that are settled.
    pub(crate) fn prune_in(&mut self) {
        while let Some(held) = self.held_in.front()
            && held.n <= self.settled
        {
            self.held_in_bytes = self.held_in_bytes.saturating_sub(held.weight as usize);
            self.held_in.pop_front();
        }
        // Most sessions are idle most of the time.
        if self.held_in.is_empty() {
            self.held_in = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn delivered(count: u64) -> State {
        let mut state = State::new(1);
        for number in 1..=count {
            // Messages stay longer: the archive may need them.
            let stanza = Arc::new(Stanza::new(Kind::Presence));
            state.unacked_bytes += stanza.weight();
            state.held_out.push_back(HeldOut {
                number,
                key: None,
                stanza: Some(stanza),
                at_ms: 0,
            });
            state.out_last = number;
        }
        state
    }

    #[test]
    fn an_idle_session_is_small() {
        assert!(size_of::<Session>() <= 640, "{}", size_of::<Session>());
    }

    #[test]
    fn keys_stay_until_they_are_released_and_stanzas_until_acknowledged() {
        let mut state = delivered(4);
        state.prune_out(3);
        assert_eq!(state.acked, 3);
        let held = |s: &State| -> Vec<_> {
            s.held_out
                .iter()
                .map(|h| (h.number, h.stanza.is_some()))
                .collect()
        };
        assert_eq!(
            held(&state),
            [(1, false), (2, false), (3, false), (4, true)]
        );
        state.released = 2;
        state.prune_out(1);
        assert_eq!(state.acked, 3, "an acknowledgement is not taken back");
        assert_eq!(held(&state), [(3, false), (4, true)]);
        state.released = 4;
        state.prune_out(9);
        assert_eq!((state.acked, state.unacked_bytes), (4, 0));
        assert!(state.held_out.is_empty());
    }
}
