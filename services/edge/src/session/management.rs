//! XEP-0198 on a bound stream: `<enable/>`, `<r/>` and `<a/>`.

use std::sync::Arc;

use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::failpoint;
use sestina_xmpp::stream::{StreamCondition, sm};

use super::inbound::Flow;
use super::state::{Management, Phase, Session, State};
use crate::shared::Shared;

impl Session {
    /// §3: counting begins here. A second `<enable/>` is refused.
    pub(crate) fn enable(&self, resume: bool, max_s: u32) -> Flow {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        if state.management != Management::Off {
            self.wire
                .append(|out| sm::write_failed(out, "unexpected-request", None));
            return Flow::Continue;
        }
        let n = state.in_last;
        state.management = Management::Asked { n, resume, max_s };
        state.in_base = n;
        state.told = n;
        state.answer_until = n;
        self.send(
            &mut state,
            Body::EnableSm(self.enable_frame(n, resume, max_s)),
        );
        Flow::Continue
    }

    /// The frame of an `<enable/>`.
    pub(crate) fn enable_frame(&self, n: u64, resume: bool, max_s: u32) -> proto::EnableSm {
        proto::EnableSm {
            handle: self.handle,
            generation: self.generation,
            n,
            resume,
            max_s,
        }
    }

    /// The owner's answer to `<enable/>`, in order with its deliveries. True if written.
    pub(crate) fn enabled(&self, state: &mut State, enabled: &proto::SmEnabled) -> bool {
        if !matches!(state.management, Management::Asked { .. }) {
            return false;
        }
        let resumable = !enabled.id.is_empty();
        state.management = Management::On { resumable };
        state.out_base = enabled.out_base;
        // What went before is not counted: the socket took it.
        state.prune_out(enabled.out_base);
        state.asked_at = state.asked_at.max(enabled.out_base);
        if state.phase != Phase::Open {
            return false;
        }
        let id = resumable.then_some(enabled.id.as_str());
        self.wire
            .append(|out| sm::write_enabled(out, id, resumable, enabled.max_s));
        if state.answer_until > state.told {
            self.write_ack(state);
        }
        true
    }

    /// §4: the client asks; it is answered at once with what is accepted.
    pub(crate) fn asked(&self) -> Flow {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        match state.management {
            Management::Off => {
                self.wire
                    .append(|out| sm::write_failed(out, "unexpected-request", None));
            }
            // Answered after <enabled/>.
            Management::Asked { .. } => state.answer_until = state.in_last,
            Management::On { .. } => {
                state.answer_until = state.in_last;
                self.write_ack(&mut state);
                if state.accepted < state.in_last {
                    state.answer_all = true;
                    let asked = proto::Asked {
                        handle: self.handle,
                        generation: self.generation,
                        n: state.in_last,
                    };
                    self.send(&mut state, Body::Asked(asked));
                }
            }
        }
        Flow::Continue
    }

    /// Writes `<a/>` with what is accepted, never less than was told before.
    pub(crate) fn write_ack(&self, state: &mut State) -> bool {
        if state.phase != Phase::Open {
            return false;
        }
        state.told = state.told.max(state.accepted);
        let h = state.told.saturating_sub(state.in_base) as u32;
        let written = self.wire.append(|out| sm::write_ack(out, h));
        failpoint!("edge.acked");
        written
    }

    /// §4: the client acknowledges. `h` counts from `out_base`, modulo 2^32.
    pub(crate) fn acknowledged(&self, shared: &Shared, h: u32) -> Flow {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Flow::Stop;
        }
        if !state.managed() {
            return Flow::Continue;
        }
        let acked_h = state.acked.saturating_sub(state.out_base) as u32;
        let ahead = h.wrapping_sub(acked_h);
        if ahead > u32::MAX / 2 {
            // Lower than an earlier one: says nothing new.
            return Flow::Continue;
        }
        let acked = state.acked.max(state.out_base) + u64::from(ahead);
        if acked > state.out_last {
            let sent = state.out_last.saturating_sub(state.out_base) as u32;
            shared
                .metrics
                .stream_error(StreamCondition::UndefinedCondition);
            self.end_locked(shared, &mut state, |out, framing| {
                sm::write_handled_count_too_high(out, framing, h, sent);
            });
            return Flow::Stop;
        }
        state.prune_out(acked);
        if state.unacked_bytes < shared.config.session_credit / 2 {
            state.half_asked = false;
        }
        if state.asked_at <= state.acked {
            self.ask_at_once(&mut state);
        }
        Flow::Continue
    }

    /// The end of a turn of the reader: what it answered leaves, what was acknowledged is told.
    pub(crate) fn finish_reading(self: &Arc<Self>, shared: &Shared) {
        let _ = self.wire.flush();
        let mut state = self.state.lock();
        if state.managed() && state.acked > state.reported_acked {
            let written = self.wire.written().max(state.acked);
            self.report(&mut state, written);
        } else {
            self.report_if_due(shared, &mut state, false);
        }
    }
}
