//! A session: who it is, and the counters of both directions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sestina_proto as proto;
use sestina_telemetry::trace;
use sestina_xmpp::stanza::Kind;
use sestina_xmpp::stream::Framing;
use tracing::Span;

use super::hands::Hands;
use super::held::Delivery;
use crate::metrics::Level;

/// One attachment of a session to a socket of this edge. Its handle is never used again.
pub struct Session<H: Hands> {
    /// Names it on lanes.
    pub handle: u64,
    /// Each attachment of a session has a higher one.
    pub generation: u32,
    /// Slot of its user.
    pub slot: u16,
    /// The session's 128-bit nonce, the same through all its attachments.
    pub nonce: u128,
    /// Full JID.
    pub jid: Box<str>,
    /// Of its stream.
    pub framing: Framing,
    /// Its socket.
    pub wire: Arc<H::Socket>,
    /// How the client came.
    pub transport: &'static str,
    /// Where it came from.
    pub remote: Box<str>,
    /// Wakes the reader that was paused because too much was unsettled.
    pub room: H::Reader,
    /// What changes.
    pub state: H::Lock<State<H>>,
}

/// What the socket is to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
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
pub enum Link<H: Hands> {
    /// Into that opening of a lane. If the opening is over, all is sent again on the next.
    Live(H::Lane),
    /// Nowhere: the owner redirected, or there is no open lane. Sent again when there is one.
    Waiting,
    /// Nowhere: a new owner has been told of the session and has not answered.
    Restoring,
}

/// XEP-0198 of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Management {
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
        /// How often it was asked for since.
        again: u8,
    },
    /// Enabled.
    On {
        /// The session can be resumed.
        resumable: bool,
    },
}

/// A stanza of the client that is not settled.
pub struct HeldIn {
    /// Its number.
    pub n: u64,
    /// As it came.
    pub stanza: proto::Stanza,
    /// The error that its owner must answer it with; empty if there is none.
    pub refused: &'static str,
    /// Its bytes.
    pub weight: u32,
    /// When it was read.
    pub read: Instant,
    /// Of a sampled stanza.
    pub traced: Option<Box<Traced>>,
}

/// The root of a sampled stanza's trace: it ends when the stanza is settled.
pub struct Traced {
    /// The trace context.
    pub parent: String,
    _span: Span,
}

impl Traced {
    /// Draws whether a stanza is sampled.
    pub fn draw(kind: Kind) -> Option<Box<Traced>> {
        let span = trace::stanza_span(kind.name());
        let parent = trace::traceparent(&span)?;
        Some(Box::new(Traced {
            parent,
            _span: span,
        }))
    }
}

/// A delivery that is not both acknowledged and released.
pub struct HeldOut {
    /// Its number.
    pub number: u64,
    /// The key of its slot message.
    pub key: Option<proto::Key>,
    /// Dropped once the client acknowledged it; shared by all sessions that got it.
    pub stanza: Option<Arc<Delivery>>,
    /// When it came, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Stanzas of the client.
#[derive(Default)]
pub struct Incoming {
    /// Number of the client's last stanza.
    pub last: u64,
    /// The owner holds all up to here.
    pub accepted: u64,
    /// The present lane was given all up to here.
    pub forwarded: u64,
    /// And an `<enable/>` that the owner has not answered.
    pub enable_forwarded: bool,
    /// Its lane was full: listed to go on when there is room.
    pub behind: bool,
    /// All up to here is settled.
    pub settled: u64,
    /// What came before it was resumed here is held elsewhere.
    pub began: u64,
    /// Where the count of `h` began.
    pub base: u64,
    /// The client asked when this was its last stanza: it hears until all up to here is accepted.
    pub answer_until: u64,
    /// The client asked for a count and was told less than it had sent. Once all is accepted, it is
    /// told the rest as well, because some clients ask a moment before they send their last stanza.
    pub answer_all: bool,
    /// The highest count told to the client; it never goes back.
    pub told: u64,
    /// What is not settled, in order.
    pub held: VecDeque<HeldIn>,
    /// Its bytes.
    pub held_bytes: usize,
}

/// Deliveries to the client.
#[derive(Default)]
pub struct Outgoing {
    /// Number of the last delivery.
    pub last: u64,
    /// The client acknowledged up to here.
    pub acked: u64,
    /// The owner needs nothing up to here.
    pub released: u64,
    /// Where the count of the client began.
    pub base: u64,
    /// What is not both acknowledged and released, in order.
    pub held: VecDeque<HeldOut>,
    /// Bytes that are not acknowledged.
    pub unacked_bytes: usize,
    /// The last delivery when `<r/>` was written last.
    pub asked_at: u64,
    /// `<r/>` was written because half the credit was used; not again until it is given back.
    pub half_asked: bool,
    /// The last acknowledged delivery that was reported to the owner.
    pub reported_acked: u64,
    /// The last written delivery that was reported to the owner.
    pub reported_written: u64,
    /// Bytes that came since then.
    pub unreported_bytes: usize,
}

/// When the client is asked to acknowledge.
#[derive(Default)]
pub struct Asking {
    /// What is sent is looked at for a while.
    pub timer: bool,
    /// The last delivery when that while began.
    pub window: u64,
    /// `<r/>` was written in it because much was sent.
    pub enough: bool,
    /// How often it may still be written at once.
    pub at_once: u8,
}

/// What changes.
pub struct State<H: Hands> {
    /// What the socket is.
    pub phase: Phase,
    /// Where its frames go.
    pub link: Link<H>,
    /// Epoch of the slot's owner that knows this session.
    pub epoch: u64,
    /// Since when no owner has taken frames.
    pub waiting_since: Option<Instant>,
    /// When it was linked to its present lane.
    pub linked_at: Option<Instant>,
    /// XEP-0198.
    pub management: Management,
    /// Stanzas of the client.
    pub incoming: Incoming,
    /// Deliveries to the client.
    pub outgoing: Outgoing,
    /// When the client is asked to acknowledge.
    pub asking: Asking,
    /// In the list of the turn under way.
    pub touched: bool,
    /// A timer will report.
    pub report_timer: bool,
    /// When a silent client was asked whether it is there, and when it had been heard last.
    pub keepalive_asked: Option<(Instant, Instant)>,
    /// Unsettled stanzas and bytes that the gauges know of.
    unsettled_told: (usize, usize),
    /// The registry record that the owner last gave (KeepState).
    pub record: Bytes,
}

impl<H: Hands> State<H> {
    /// A session as it is at bind.
    pub fn new(epoch: u64) -> State<H> {
        State {
            phase: Phase::Open,
            link: Link::Waiting,
            epoch,
            waiting_since: None,
            linked_at: None,
            management: Management::Off,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            asking: Asking::default(),
            touched: false,
            report_timer: false,
            keepalive_asked: None,
            unsettled_told: (0, 0),
            record: Bytes::new(),
        }
    }

    /// Deliveries that the client has neither acknowledged nor been asked for.
    pub fn unasked(&self) -> u64 {
        if !self.managed() || self.phase != Phase::Open {
            return 0;
        }
        self.outgoing
            .last
            .saturating_sub(self.outgoing.asked_at.max(self.outgoing.acked))
    }

    /// Whether XEP-0198 is enabled.
    pub fn managed(&self) -> bool {
        matches!(self.management, Management::On { .. })
    }

    /// Whether the client may resume the session.
    pub fn resumable(&self) -> bool {
        matches!(self.management, Management::On { resumable: true })
    }

    /// Drops deliveries that are acknowledged and released; of those only acknowledged, the
    /// stanza (the key stays, so that a new owner knows what was delivered).
    pub fn prune_out(&mut self, acked: u64) {
        let acked = acked.min(self.outgoing.last);
        if acked > self.outgoing.acked {
            let first = self
                .outgoing
                .held
                .partition_point(|h| h.number <= self.outgoing.acked);
            for held in self.outgoing.held.iter_mut().skip(first) {
                if held.number > acked {
                    break;
                }
                if let Some(stanza) = &held.stanza {
                    self.outgoing.unacked_bytes =
                        self.outgoing.unacked_bytes.saturating_sub(stanza.weight());
                    if stanza.kind != Kind::Message {
                        held.stanza = None;
                    }
                    // A message stays until it is released: if its owner dies before the archive
                    // has it, the next owner archives it from here, in this order.
                }
            }
            self.outgoing.acked = acked;
        }
        let gone = self.outgoing.acked.min(self.outgoing.released);
        while self.outgoing.held.front().is_some_and(|h| h.number <= gone) {
            self.outgoing.held.pop_front();
        }
        if self.outgoing.held.is_empty() && self.outgoing.held.capacity() > 32 {
            self.outgoing.held = VecDeque::new();
        }
    }

    /// Whether nothing is left to forward. What was settled meanwhile is held no more, and need not be.
    pub fn all_forwarded(&self) -> bool {
        let last = self.incoming.held.back();
        last.is_none_or(|held| held.n <= self.incoming.forwarded)
    }

    /// Updates the gauges and the count of what the edge holds when the unsettled stanzas have
    /// changed.
    pub fn tell_unsettled(&mut self, hands: &H) {
        let (items, bytes) = (self.incoming.held.len(), self.incoming.held_bytes);
        let before = std::mem::replace(&mut self.unsettled_told, (items, bytes));
        if before != (items, bytes) {
            let metrics = hands.metrics();
            hands.attachments().held.change(before.1, bytes);
            metrics.level(Level::Unsettled, items as i64 - before.0 as i64);
            metrics.level(Level::UnsettledBytes, bytes as i64 - before.1 as i64);
        }
    }

    /// Drops the client's stanzas that are settled.
    pub fn prune_in(&mut self) {
        while let Some(held) = self.incoming.held.front()
            && held.n <= self.incoming.settled
        {
            self.incoming.held_bytes = self
                .incoming
                .held_bytes
                .saturating_sub(held.weight as usize);
            self.incoming.held.pop_front();
        }
        // Most sessions are idle most of the time.
        if self.incoming.held.is_empty() {
            self.incoming.held = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sestina_xmpp::stanza::Stanza;

    use super::*;
    use crate::attachment::held::Held;
    use crate::shared::Shared;

    fn delivered(count: u64) -> State<Shared> {
        let (held, mut state) = (Arc::<Held>::default(), State::new(1));
        for number in 1..=count {
            // Messages stay longer: the archive may need them.
            let stanza = held.delivery(Stanza::new(Kind::Presence));
            state.outgoing.unacked_bytes += stanza.weight();
            state.outgoing.held.push_back(HeldOut {
                number,
                key: None,
                stanza: Some(stanza),
                at_ms: 0,
            });
            state.outgoing.last = number;
        }
        state
    }

    #[test]
    fn an_idle_session_is_small() {
        assert!(
            size_of::<Session<Shared>>() <= 640,
            "{}",
            size_of::<Session<Shared>>()
        );
    }

    #[test]
    fn keys_stay_until_they_are_released_and_stanzas_until_acknowledged() {
        let mut state = delivered(4);
        state.prune_out(3);
        assert_eq!(state.outgoing.acked, 3);
        let held = |s: &State<Shared>| -> Vec<_> {
            s.outgoing
                .held
                .iter()
                .map(|h| (h.number, h.stanza.is_some()))
                .collect()
        };
        assert_eq!(
            held(&state),
            [(1, false), (2, false), (3, false), (4, true)]
        );
        state.outgoing.released = 2;
        state.prune_out(1);
        assert_eq!(
            state.outgoing.acked, 3,
            "an acknowledgement is not taken back"
        );
        assert_eq!(held(&state), [(3, false), (4, true)]);
        state.outgoing.released = 4;
        state.prune_out(9);
        assert_eq!((state.outgoing.acked, state.outgoing.unacked_bytes), (4, 0));
        assert!(state.outgoing.held.is_empty());
    }
}
