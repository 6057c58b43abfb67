//! The notes of sessions beside messages: connections, resumptions, presence, archives.

use serde_json::json;

use super::history::Absence;
use super::world::{ABSENCE_MARGIN_US, World};

impl World {
    /// Notes that a session has a socket on the edge of that number.
    pub fn connected(&self, session: usize, edge: usize) {
        let mut state = self.state();
        state.connected[session] = true;
        state.edges[session] = edge;
    }

    /// Notes that a session is bound and, if it has a room, has joined it with all others.
    pub fn ready(&self, session: usize) {
        self.state().ready[session] = true;
    }

    /// How many sessions are ready.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.state().ready.iter().filter(|ready| **ready).count()
    }

    /// Notes that all sessions may join a room.
    pub fn room_open(&self, conversation: usize) {
        self.state().rooms_open.insert(conversation);
    }

    /// How many rooms may be joined.
    #[must_use]
    pub fn rooms_open(&self) -> usize {
        self.state().rooms_open.len()
    }

    /// Notes that a session lost its socket.
    pub fn disconnected(&self, session: usize, edge: &str, why: &str) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.connected[session] = false;
        let touched = state.touched.contains(edge);
        for window in [&mut state.total, &mut state.current] {
            window.disconnects += 1;
            window.untouched_disconnects += u64::from(!touched);
        }
        drop(guard);
        self.event(
            &json!({"event": "disconnected", "session": session, "edge": edge,
            "why": why, "touched": touched}),
        );
    }

    /// Notes that an attempt to connect failed.
    pub fn attempt_failed(&self, session: usize, edge: &str, why: &str) {
        let mut state = self.state();
        state.total.failed_attempts += 1;
        state.current.failed_attempts += 1;
        drop(state);
        self.note(
            &json!({"event": "attempt_failed", "session": session, "edge": edge,
            "why": why}),
        );
    }

    /// Notes that a session was resumed.
    pub fn resumed(&self, session: usize, edge: usize, lost_at: u64, connect_at: u64) {
        let now = self.now();
        self.connected(session, edge);
        let mut guard = self.state();
        let state = &mut *guard;
        for window in [&mut state.total, &mut state.current] {
            window.resumes_ok += 1;
            window.recoveries.push(now - lost_at);
            window.resumptions.push(now - connect_at);
        }
        drop(guard);
        self.event(
            &json!({"event": "resumed", "session": session, "edge": self.config.edges[edge],
            "recovery_ms": (now - lost_at) as f64 / 1e3,
            "connect_to_resumed_ms": (now - connect_at) as f64 / 1e3}),
        );
    }

    /// Notes that the server refused to resume; unacknowledged messages are given up.
    pub fn refused(&self, session: usize, edge: &str, lost_at: u64, reason: &str) {
        let mut guard = self.state();
        let state = &mut *guard;
        for window in [&mut state.total, &mut state.current] {
            window.resumes_refused += 1;
        }
        *state.refusals.entry(reason.to_owned()).or_default() += 1;
        let from = lost_at.saturating_sub(ABSENCE_MARGIN_US);
        state.history.absences[session].push(Absence { from, to: u64::MAX });
        let given_up = std::mem::take(&mut state.unacked[session]).len() as i64;
        state.outstanding -= given_up * state.receivers(session);
        drop(guard);
        self.event(
            &json!({"event": "resume_refused", "session": session, "edge": edge,
            "reason": reason}),
        );
    }

    /// Notes that the new session after a refusal is complete; messages sent from `at` on are
    /// expected again.
    pub fn present_again(&self, session: usize, at: u64) {
        if let Some(absence) = self.state().history.absences[session].last_mut()
            && absence.to == u64::MAX
        {
            absence.to = at;
        }
    }

    /// Notes an unavailable presence of an occupant that never left.
    pub fn leave_seen(&self, session: usize, who: &str) {
        self.state().leaves_seen += 1;
        self.event(&json!({"event": "leave_seen", "session": session, "who": who}));
    }

    /// Notes that a session was removed from its room.
    pub fn evicted(&self, session: usize) {
        self.state().evictions += 1;
        self.event(&json!({"event": "evicted", "session": session}));
    }

    /// Notes the end of a read of an archive during the run.
    pub fn archive_read(&self, failure: Option<&str>) {
        let mut state = self.state();
        match failure {
            None => state.archive_reads += 1,
            Some(why) => {
                *state
                    .archive_read_failures
                    .entry(why.to_owned())
                    .or_default() += 1
            }
        }
    }
}
