//! What a client is sent: written by the thread that reads the lane, held until acknowledged.
//!
//! A delivery is a splice into the wire's buffer under two short locks. Each touched wire is
//! flushed once, at the end of the batch, and an `<r/>` that is due leaves in the same write.

use std::sync::Arc;

use sestina_proto as proto;
use sestina_proto::to_router::Body;

use super::hands::{Hands, Lock as _, Say, Socket as _};
use super::state::{HeldOut, Phase, Session, State};
use super::turn::Payload;
use crate::metrics::Count;
use crate::transport::{Flush, TraceContext};

/// Deliveries after which what was written or acknowledged is reported at once.
const REPORT_STANZAS: u64 = 25;
/// The same in bytes.
const REPORT_BYTES: usize = 64 << 10;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is held (and on the wire, if there is one).
    Held,
    /// It was there already.
    Repeated,
    /// Numbers before it are missing.
    Gap,
}

/// How often a session in which little is sent is asked at once, in the time of `ask_after`.
const ASKS_AT_ONCE: u8 = 4;
/// Little: at most so many deliveries in that time.
const LITTLE: u64 = 8;

impl<H: Hands> Session<H> {
    /// Takes one delivery. The caller holds the slot, so that nothing of an older owner comes in
    /// after the report to a new one.
    pub fn deliver(
        &self,
        hands: &H,
        state: &mut State<H>,
        number: u64,
        payload: &Payload,
    ) -> Taken {
        let stanza = &payload.stanza;
        if number <= state.outgoing.last {
            return Taken::Repeated;
        }
        if number != state.outgoing.last + 1 {
            return Taken::Gap;
        }
        state.outgoing.last = number;
        state.outgoing.held.push_back(HeldOut {
            number,
            key: payload.key,
            stanza: Some(Arc::clone(stanza)),
            at_ms: payload.at_ms,
        });
        state.outgoing.unacked_bytes += payload.weight;
        state.outgoing.unreported_bytes += payload.weight;
        if state.phase == Phase::Open {
            let trace_context = TraceContext::new(payload.read, &payload.span);
            let written = self
                .wire
                .deliver(self.framing, number, trace_context, stanza, &self.jid);
            if !written {
                if self.wire.overflowed() {
                    hands.metrics().count(Count::SlowReader, 1);
                }
                self.lose_locked(hands, state);
            }
        }
        Taken::Held
    }

    /// The end of a turn in which the session was touched: asks, flushes and reports.
    pub fn finish_turn(self: &Arc<Self>, hands: &H) {
        {
            let mut state = self.state.lock();
            state.touched = false;
            if state.phase != Phase::Open {
                return;
            }
            self.ask_if_due(hands, &mut state);
        }
        let flush = self.wire.flush();
        let mut state = self.state.lock();
        if flush == Flush::Closed {
            self.lose_locked(hands, &mut state);
            return;
        }
        self.report_if_due(hands, &mut state, false);
    }

    /// Writes `<r/>`: at once where little is sent, so that a client which goes soon after has told
    /// what it got; else when enough was sent since the last one, or when a timer says so.
    pub fn ask_if_due(self: &Arc<Self>, hands: &H, state: &mut State<H>) {
        let unasked = state.unasked();
        if unasked == 0 {
            return;
        }
        if !std::mem::replace(&mut state.asking.timer, true) {
            state.asking.window = state.outgoing.last;
            state.asking.at_once = ASKS_AT_ONCE;
            hands.attachments().timers.ask(hands, self);
        }
        let half = state.outgoing.unacked_bytes >= hands.limits().session_credit / 2;
        let enough = unasked >= hands.limits().ask_stanzas
            || (half && !std::mem::replace(&mut state.outgoing.half_asked, true));
        if enough {
            self.write_request(state);
            state.asking.enough = true;
        } else if state.outgoing.asked_at <= state.outgoing.acked {
            self.ask_at_once(state);
        }
    }

    /// Nothing is asked for that was not answered: asks for what came since, if little is sent.
    pub fn ask_at_once(&self, state: &mut State<H>) {
        if state.asking.at_once > 0 && state.unasked() > 0 {
            state.asking.at_once -= 1;
            self.write_request(state);
        }
    }

    /// A while has passed, and what was sent meanwhile tells how it goes on: true if it has to be
    /// looked at again.
    pub fn ask_late(&self, state: &mut State<H>) -> bool {
        let busy = std::mem::take(&mut state.asking.enough);
        let waits = state.unasked() > 0;
        if waits && !busy {
            self.write_request(state);
        }
        let sent = state.outgoing.last - state.asking.window;
        state.asking.window = state.outgoing.last;
        state.asking.at_once = if sent <= LITTLE { ASKS_AT_ONCE } else { 0 };
        state.asking.timer = busy || waits || sent > 0;
        state.asking.timer
    }

    /// Writes `<r/>`.
    pub fn write_request(&self, state: &mut State<H>) {
        self.wire.say(self.framing, Say::Request);
        state.outgoing.asked_at = state.outgoing.last;
    }

    /// Tells the owner what was written and acknowledged if that is enough to tell, or if `late`
    /// says that time is up. Otherwise a timer will.
    pub fn report_if_due(self: &Arc<Self>, hands: &H, state: &mut State<H>, late: bool) {
        if !state.managed() {
            // Without XEP-0198 the promise is "written to its socket".
            let written = self.wire.written();
            state.prune_out(written);
        }
        let written = self.wire.written().max(state.outgoing.acked);
        let stanzas = (written - state.outgoing.reported_written.min(written))
            .max(state.outgoing.acked - state.outgoing.reported_acked.min(state.outgoing.acked));
        let enough = stanzas >= REPORT_STANZAS
            || (stanzas > 0 && state.outgoing.unreported_bytes >= REPORT_BYTES);
        if stanzas > 0 && (late || enough) {
            self.report_acked(hands, state, written);
        }
        let outstanding = state.outgoing.last > state.outgoing.reported_written;
        if outstanding && !std::mem::replace(&mut state.report_timer, true) {
            hands.attachments().timers.report(hands, self);
        }
    }

    /// Sends one Acked.
    pub fn report_acked(&self, hands: &H, state: &mut State<H>, written: u64) {
        state.outgoing.reported_acked = state.outgoing.acked;
        state.outgoing.reported_written = written;
        state.outgoing.unreported_bytes = 0;
        let acked = proto::Acked {
            handle: self.handle,
            generation: self.generation,
            number: state.outgoing.acked,
            written,
        };
        self.send(hands, state, Body::Acked(acked));
    }
}
