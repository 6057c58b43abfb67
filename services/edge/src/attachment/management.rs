//! XEP-0198 on a bound stream: `<enable/>`, `<r/>` and `<a/>`.

use std::sync::Arc;

use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::failpoint;
use sestina_xmpp::stream::StreamCondition;

use super::hands::{Hands, Lock as _, Say, Socket as _};
use super::inbound::Flow;
use super::state::{Management, Phase, Session, State};

impl<H: Hands> Session<H> {
    /// §3: counting begins here. A second `<enable/>` is refused.
    pub fn enable(&self, hands: &H, resume: bool, max_s: u32) -> Flow {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        match &mut state.management {
            Management::Off => {}
            // Answered in order, after <enabled/>.
            Management::Asked { again, .. } => {
                *again = again.saturating_add(1);
                return Flow::Continue;
            }
            Management::On { .. } => {
                self.refuse_request();
                return Flow::Continue;
            }
        }
        let n = state.incoming.last;
        state.management = Management::Asked {
            n,
            resume,
            max_s,
            again: 0,
        };
        state.incoming.base = n;
        state.incoming.told = n;
        state.incoming.answer_until = n;
        state.incoming.enable_forwarded = false;
        if !state.incoming.behind {
            self.forward(hands, &mut state, false);
        }
        Flow::Continue
    }

    /// §3: something of XEP-0198 comes too early or too often.
    pub fn refuse_request(&self) {
        let failed = Say::Failed("unexpected-request");
        self.wire.say(self.framing, failed);
    }

    /// The frame of an `<enable/>`.
    pub fn enable_frame(&self, n: u64, resume: bool, max_s: u32) -> proto::EnableSm {
        proto::EnableSm {
            handle: self.handle,
            generation: self.generation,
            n,
            resume,
            max_s,
        }
    }

    /// The owner's answer to `<enable/>`, in order with its deliveries. True if written.
    pub fn enabled(&self, state: &mut State<H>, enabled: &proto::SmEnabled) -> bool {
        let Management::Asked { again, .. } = state.management else {
            return false;
        };
        let resumable = !enabled.id.is_empty();
        state.management = Management::On { resumable };
        state.outgoing.base = enabled.out_base;
        // What went before is not counted: the socket took it.
        state.prune_out(enabled.out_base);
        state.outgoing.asked_at = state.outgoing.asked_at.max(enabled.out_base);
        if state.phase != Phase::Open {
            return false;
        }
        let id = resumable.then_some(enabled.id.as_str());
        let max_s = enabled.max_s;
        self.wire.say(self.framing, Say::Enabled { id, max_s });
        (0..again).for_each(|_| self.refuse_request());
        if state.incoming.answer_until > state.incoming.told {
            self.write_ack(state);
        }
        true
    }

    /// §4: the client asks; it is answered at once with what is accepted.
    pub fn asked(&self, hands: &H) -> Flow {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        match state.management {
            Management::Off => self.refuse_request(),
            // Answered after <enabled/>.
            Management::Asked { .. } => state.incoming.answer_until = state.incoming.last,
            Management::On { .. } => {
                state.incoming.answer_until = state.incoming.last;
                self.write_ack(&mut state);
                if state.incoming.accepted < state.incoming.last {
                    state.incoming.answer_all = true;
                    let asked = proto::Asked {
                        handle: self.handle,
                        generation: self.generation,
                        n: state.incoming.last,
                    };
                    // Refused by a full lane: it is told all the same, a little later.
                    self.send(hands, &state, Body::Asked(asked));
                }
            }
        }
        Flow::Continue
    }

    /// Writes `<a/>` with what is accepted, never less than was told before.
    pub fn write_ack(&self, state: &mut State<H>) -> bool {
        if state.phase != Phase::Open {
            return false;
        }
        state.incoming.told = state.incoming.told.max(state.incoming.accepted);
        let h = state.incoming.told.saturating_sub(state.incoming.base) as u32;
        let written = self.wire.say(self.framing, Say::Ack(h));
        failpoint!("edge.acked");
        written
    }

    /// §4: the client acknowledges. `h` counts from `out_base`, modulo 2^32.
    pub fn acknowledged(&self, hands: &H, h: u32) -> Flow {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        if !state.managed() {
            return Flow::Continue;
        }
        let acked_h = state.outgoing.acked.saturating_sub(state.outgoing.base) as u32;
        let ahead = h.wrapping_sub(acked_h);
        if ahead > u32::MAX / 2 {
            // Lower than an earlier one: says nothing new.
            return Flow::Continue;
        }
        let acked = state.outgoing.acked.max(state.outgoing.base) + u64::from(ahead);
        if acked > state.outgoing.last {
            let sent = state.outgoing.last.saturating_sub(state.outgoing.base) as u32;
            hands
                .metrics()
                .stream_error(StreamCondition::UndefinedCondition);
            self.end_locked(hands, &mut state, Say::CountTooHigh { h, sent });
            return Flow::Stop;
        }
        state.prune_out(acked);
        if state.outgoing.unacked_bytes < hands.limits().session_credit / 2 {
            state.outgoing.half_asked = false;
        }
        if state.outgoing.asked_at <= state.outgoing.acked {
            self.ask_at_once(&mut state);
        }
        Flow::Continue
    }

    /// The end of a turn of the reader: what it answered leaves, what was acknowledged is told.
    pub fn finish_reading(self: &Arc<Self>, hands: &H) {
        let _ = self.wire.flush();
        let mut state = self.state.lock();
        if state.managed() && state.outgoing.acked > state.outgoing.reported_acked {
            let written = self.wire.written().max(state.outgoing.acked);
            self.report_acked(hands, &mut state, written);
        } else {
            self.report_if_due(hands, &mut state, false);
        }
    }
}
