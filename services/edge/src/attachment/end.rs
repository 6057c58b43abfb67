//! A session ends at its edge: which frame the router that owns it gets, and which stream error or
//! `</stream>` the client gets.

use bytes::Bytes;
use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_xmpp::stream::{Framing, StreamCondition};

use super::Attachments;
use super::hands::{Hands, Lock as _, Reader as _, Say, Socket as _};
use super::slots::Slot;
use super::state::{Phase, Session, State};
use crate::metrics::{Count, Level};
use crate::transport::CloseKind;

impl<H: Hands> Session<H> {
    /// The socket is gone although the stream was not closed. The owner detaches the session (or
    /// ends it, if it cannot be resumed); until it has, this edge keeps what it holds of the
    /// session.
    pub fn lose(&self, hands: &H) {
        self.lose_locked(hands, &mut self.state.lock());
    }

    /// The same under the session's lock.
    pub fn lose_locked(&self, hands: &H, state: &mut State<H>) {
        if state.phase != Phase::Open {
            return;
        }
        hands.metrics().count(Count::SocketLost, 1);
        self.leave(hands, state, Phase::Lost);
        self.wire.close(CloseKind::Abort);
    }

    /// The client closed its stream (RFC 6120 §4.4): it is answered, and the session ends.
    pub fn closed_by_client(&self, hands: &H) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        self.leave(hands, &mut state, Phase::Closed);
        self.close_stream();
    }

    /// The stream ends with an error of ours, and the session with it.
    pub fn fail(&self, hands: &H, condition: StreamCondition, text: &str) {
        hands.metrics().stream_error(condition);
        self.end_locked(hands, &mut self.state.lock(), Say::Error(condition, text));
    }

    /// The same with an error of any form.
    pub fn end_locked(&self, hands: &H, state: &mut State<H>, error: Say<'_>) {
        if state.phase != Phase::Open {
            return;
        }
        self.leave(hands, state, Phase::Closed);
        self.wire.say(self.framing, error);
        self.close_stream();
    }

    /// The transport ends and the stream stays open, so that the client resumes elsewhere; the
    /// owner is told first. The client learns with a last `<a/>` what need not be sent again, should
    /// it choose to log in anew (XEP-0198 §4).
    pub fn hand_off(&self, hands: &H) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        if state.resumable() {
            if state.incoming.accepted > state.incoming.told {
                self.write_ack(&mut state);
            }
            self.leave(hands, &mut state, Phase::Lost);
            self.wire.close(restart_kind(self.framing));
        } else {
            drop(state);
            self.fail(
                hands,
                StreamCondition::SystemShutdown,
                "this server is being shut down",
            );
        }
    }

    /// The owner ends it: the socket gets the stream error, and nothing is held any more.
    pub fn dismiss(&self, hands: &H, condition: &str, text: &str) {
        let mut state = self.state.lock();
        let open = state.phase == Phase::Open;
        self.forget(hands, &mut state);
        if !open {
            return;
        }
        self.last_words(hands, condition, text);
    }

    /// The stream error that the owner names, if it names one, and the end of the stream.
    fn last_words(&self, hands: &H, condition: &str, text: &str) {
        if !condition.is_empty() {
            let condition =
                StreamCondition::parse(condition).unwrap_or(StreamCondition::UndefinedCondition);
            hands.metrics().stream_error(condition);
            self.wire.say(self.framing, Say::Error(condition, text));
        }
        self.close_stream();
    }

    /// The last word on a socket.
    fn close_stream(&self) {
        self.wire.say(self.framing, Say::Close);
        self.wire.close(CloseKind::AfterFlush);
    }

    /// The socket is over, but what came and went here is held until the owner needs it no more
    /// (Detached): another attachment goes on with the session and does not have it yet, or the
    /// session is `ended` and its rest is being stored.
    pub fn supersede(&self, hands: &H, condition: &str, text: &str, ended: bool) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        state.phase = if ended { Phase::Closed } else { Phase::Lost };
        state.waiting_since.get_or_insert_with(|| hands.now());
        self.last_words(hands, condition, text);
        self.room.wake();
    }

    /// This edge has lost its lease: it may write nothing any more, so that it sends nothing to the
    /// client or to the owner.
    pub fn cut(&self, hands: &H) {
        self.forget(hands, &mut self.state.lock());
        self.wire.close(CloseKind::Abort);
    }

    /// The owner has taken over what was held.
    pub fn detached(&self, hands: &H) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            // The owner detached it by itself: the client has to resume.
            self.wire.close(CloseKind::Abort);
        }
        self.forget(hands, &mut state);
    }

    fn leave(&self, hands: &H, state: &mut State<H>, phase: Phase) {
        let written = self.wire.written();
        if state.managed() {
            if state.outgoing.acked > state.outgoing.reported_acked {
                self.report_acked(hands, state, written.max(state.outgoing.acked));
            }
        } else {
            state.prune_out(written);
            if written > state.outgoing.reported_written {
                self.report_acked(hands, state, written);
            }
        }
        state.phase = phase;
        state.waiting_since.get_or_insert_with(|| hands.now());
        // Behind what its lane has not taken yet, if there is something.
        if state.all_forwarded() {
            self.send_close(hands, state);
        }
        self.room.wake();
    }

    fn forget(&self, hands: &H, state: &mut State<H>) {
        state.phase = Phase::Gone;
        state.incoming.held = Default::default();
        state.incoming.held_bytes = 0;
        state.outgoing.held = Default::default();
        state.outgoing.unacked_bytes = 0;
        state.tell_unsettled(hands);
        self.room.wake();
    }

    /// A Close for an attachment that this edge does not have (any more).
    pub fn stray_close(handle: u64, generation: u32, clean: bool) -> Body {
        Body::Close(proto::Close {
            handle,
            generation,
            clean,
        })
    }
}

impl<H: Hands> Attachments<H> {
    /// Takes a session out of its slot's table, if it is over.
    pub fn remove_session(&self, hands: &H, slot: &mut Slot<H>, handle: u64) {
        if let Some(session) = slot.sessions.remove(&handle) {
            count_session(hands, &session, -1);
            let record = std::mem::take(&mut session.state.lock().record);
            self.rooms.changed(hands, &session, &record, &Bytes::new());
        }
    }

    /// Ends everything at once: sockets are cut without a stream error, and what was held is
    /// forgotten.
    pub fn cut_everything(&self, hands: &H) {
        for cell in &self.slots {
            let mut slot = cell.lock();
            for (_, session) in std::mem::take(&mut slot.sessions) {
                session.cut(hands);
                count_session(hands, &session, -1);
            }
            for (_, pending) in std::mem::take(&mut slot.pending) {
                pending.wire.close(CloseKind::Abort);
            }
            *slot = Slot::default();
        }
        self.rooms.clear();
        self.waiting.lock().clear();
    }
}

/// There is one session more or less.
pub(super) fn count_session<H: Hands>(hands: &H, session: &Session<H>, change: i64) {
    hands.metrics().level(Level::Sessions, change);
    if session.wire.is_websocket() {
        hands.metrics().level(Level::WebSocketSessions, change);
    }
}

/// How a transport ends so that the client sees a broken connection and resumes: "service
/// restart" on a WebSocket, otherwise FIN.
fn restart_kind(framing: Framing) -> CloseKind {
    match framing {
        Framing::WebSocket => CloseKind::WsCode(1012),
        Framing::Tcp => CloseKind::Fin,
    }
}
