//! The ways a session ends, and who is told.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_xmpp::stream::{Framing, StreamCondition};

use super::state::{Phase, Session, State};
use super::stream;
use crate::metrics::{Count, Level};
use crate::shared::Shared;
use crate::transport::CloseKind;

impl Session {
    /// The socket is gone without the stream having been closed: the owner detaches the session
    /// (or ends it, if it cannot be resumed). What is held stays until it has.
    pub(crate) fn lose(&self, shared: &Shared) {
        self.lose_locked(shared, &mut self.state.lock());
    }

    /// The same under the session's lock.
    pub(crate) fn lose_locked(&self, shared: &Shared, state: &mut State) {
        if state.phase != Phase::Open {
            return;
        }
        shared.metrics.count(Count::SocketLost, 1);
        self.leave(state, Phase::Lost);
        self.wire.close(CloseKind::Abort);
    }

    /// The client closed its stream (RFC 6120 §4.4): it is answered, and the session ends.
    pub(crate) fn closed_by_client(&self) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        self.leave(&mut state, Phase::Closed);
        self.wire
            .append(|out| stream::write_close(out, self.framing));
        self.wire.close(CloseKind::AfterFlush);
    }

    /// The stream ends with an error of ours, and the session with it.
    pub(crate) fn fail(&self, shared: &Shared, condition: StreamCondition, text: &str) {
        shared.metrics.stream_error(condition);
        self.end_locked(shared, &mut self.state.lock(), |out, framing| {
            stream::write_error(out, framing, condition, text);
        });
    }

    /// The same with an error of any form.
    pub(crate) fn end_locked(
        &self,
        _shared: &Shared,
        state: &mut State,
        error: impl FnOnce(&mut Vec<u8>, Framing),
    ) {
        if state.phase != Phase::Open {
            return;
        }
        self.leave(state, Phase::Closed);
        self.wire.append(|out| error(out, self.framing));
        self.wire
            .append(|out| stream::write_close(out, self.framing));
        self.wire.close(CloseKind::AfterFlush);
    }

    /// The transport ends and the stream stays open, so that the client resumes elsewhere; the
    /// owner is told first. The client learns with a last `<a/>` what need not be sent again, should
    /// it choose to log in anew (XEP-0198 §4).
    pub(crate) fn hand_off(&self, shared: &Shared) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        if state.resumable() {
            if state.accepted > state.told {
                self.write_ack(&mut state);
            }
            self.leave(&mut state, Phase::Lost);
            self.wire.close(stream::restart_kind(self.framing));
        } else {
            drop(state);
            self.fail(
                shared,
                StreamCondition::SystemShutdown,
                "this server is being shut down",
            );
        }
    }

    /// The owner ends it: the socket gets the stream error, and nothing is held any more.
    pub(crate) fn dismiss(&self, shared: &Shared, condition: &str, text: &str) {
        let mut state = self.state.lock();
        let open = state.phase == Phase::Open;
        self.forget(shared, &mut state);
        if !open {
            return;
        }
        self.last_words(shared, condition, text);
    }

    /// The stream error that the owner names, if it names one, and the end of the stream.
    fn last_words(&self, shared: &Shared, condition: &str, text: &str) {
        if !condition.is_empty() {
            let condition =
                StreamCondition::parse(condition).unwrap_or(StreamCondition::UndefinedCondition);
            shared.metrics.stream_error(condition);
            self.wire
                .append(|out| stream::write_error(out, self.framing, condition, text));
        }
        self.wire
            .append(|out| stream::write_close(out, self.framing));
        self.wire.close(CloseKind::AfterFlush);
    }

    /// The socket is over, but what came and went here is held until the owner needs it no more
    /// (Detached): another attachment goes on with the session and does not have it yet, or the
    /// session is `ended` and its rest is being stored.
    pub(crate) fn supersede(&self, shared: &Shared, condition: &str, text: &str, ended: bool) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        state.phase = if ended { Phase::Closed } else { Phase::Lost };
        state.waiting_since.get_or_insert_with(Instant::now);
        self.last_words(shared, condition, text);
        self.room.notify_one();
    }

    /// Nothing may be written any more and nobody is told: this edge has lost its lease.
    pub(crate) fn cut(&self, shared: &Shared) {
        self.forget(shared, &mut self.state.lock());
        self.wire.close(CloseKind::Abort);
    }

    /// The owner has taken over what was held.
    pub(crate) fn detached(&self, shared: &Shared) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            // The owner detached it by itself: the client has to resume.
            self.wire.close(CloseKind::Abort);
        }
        self.forget(shared, &mut state);
    }

    fn leave(&self, state: &mut State, phase: Phase) {
        let written = self.wire.written();
        if state.managed() {
            if state.acked > state.reported_acked {
                self.report(state, written.max(state.acked));
            }
        } else {
            state.prune_out(written);
            if written > state.reported_written {
                self.report(state, written);
            }
        }
        state.phase = phase;
        state.waiting_since.get_or_insert_with(Instant::now);
        if let Some(close) = self.close_frame(state) {
            self.send(state, Body::Close(close));
        }
        self.room.notify_one();
    }

    fn forget(&self, shared: &Shared, state: &mut State) {
        state.phase = Phase::Gone;
        state.held_in = Default::default();
        state.held_in_bytes = 0;
        state.held_out = Default::default();
        state.unacked_bytes = 0;
        state.tell_unsettled(&*shared.metrics);
        self.room.notify_one();
    }

    /// A Close for an attachment that this edge does not have (any more).
    pub(crate) fn stray_close(handle: u64, generation: u32, clean: bool) -> Body {
        Body::Close(proto::Close {
            handle,
            generation,
            clean,
        })
    }
}

impl Shared {
    /// Takes a session out of its slot's table, if it is over.
    pub(crate) fn remove_session(&self, slot: &mut crate::lanes::slots::Slot, handle: u64) {
        if let Some(session) = slot.sessions.remove(&handle) {
            self.count_session(&session, -1);
            let record = std::mem::take(&mut session.state.lock().record);
            self.record_changed(&session, &record, &Bytes::new());
        }
    }

    /// Remembers the rooms that a session is in.
    pub(crate) fn record_changed(&self, session: &Arc<Session>, before: &Bytes, now: &Bytes) {
        let slots = &self.config.slots;
        self.rooms
            .changed(session, before, now, |room| slots.slot_of_jid(room));
    }

    /// There is one session more or less.
    pub(crate) fn count_session(&self, session: &Session, change: i64) {
        self.metrics.level(Level::Sessions, change);
        if session.wire.is_websocket() {
            self.metrics.level(Level::WebSocketSessions, change);
        }
    }

    /// All sessions there are.
    pub(crate) fn all_sessions(&self) -> Vec<Arc<Session>> {
        self.slots
            .iter()
            .flat_map(|s| s.lock().sessions.values().cloned().collect::<Vec<_>>())
            .collect()
    }
}
