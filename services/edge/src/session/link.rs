//! Which lane a session speaks on, and what is sent again when that changes.

use std::time::{Duration, Instant};

use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::failpoint;

use super::state::{Link, Management, Phase, Session, State};
use crate::lanes::slots::Slot;

impl Session {
    /// Sends a frame to the owner, if it can be reached. If not, [`Session::relink`] sends all
    /// that matters again later.
    pub(crate) fn send(&self, state: &mut State, body: Body) {
        if let Link::Live { lane, attempt } = &state.link {
            let frame = proto::ToRouter {
                slot: self.slot.into(),
                epoch: state.epoch,
                body: Some(body),
            };
            lane.send(*attempt, frame);
        }
    }

    /// Stops sending: the owner did not take frames.
    pub(crate) fn wait(&self, state: &mut State) {
        const SETTLED: Duration = Duration::from_secs(5);
        if state
            .linked_at
            .take()
            .is_some_and(|at| at.elapsed() > SETTLED)
        {
            // That owner has served it for a while: this is a new wait.
            state.waiting_since = None;
        }
        state.link = Link::Waiting;
        state.waiting_since.get_or_insert_with(Instant::now);
    }

    /// The lane of the slot's owner is open (again): sends all it has not accepted, in order, and
    /// every request it has not answered. Harmless to repeat: an owner takes only what is next.
    pub(crate) fn relink(&self, slot: &Slot, state: &mut State) {
        if matches!(state.link, Link::Restoring) || state.epoch < slot.epoch {
            return;
        }
        self.connect(slot, state);
    }

    /// The new owner of the slot knows the session and has accepted up to `accepted`.
    pub(crate) fn restored(&self, slot: &Slot, state: &mut State, item: &proto::ProgressItem) {
        failpoint!("edge.replaying");
        state.epoch = slot.epoch;
        state.waiting_since = None;
        state.accepted = item.accepted.min(state.in_last);
        state.settled = state.settled.max(item.settled.min(state.in_last));
        state.released = state.released.max(item.released.min(state.out_last));
        state.prune_in();
        let acked = state.acked;
        state.prune_out(acked);
        self.connect(slot, state);
    }

    /// The owner has the report, and its answer will not come: only what is settled is certain.
    pub(crate) fn assume_restored(&self, slot: &Slot, state: &mut State) {
        if matches!(state.link, Link::Restoring) {
            state.epoch = slot.epoch;
            state.accepted = state.settled;
            state.link = Link::Waiting;
        }
        // Linked by the caller, with all others of the slot.
    }

    fn connect(&self, slot: &Slot, state: &mut State) {
        let Some(set) = &slot.route else {
            return self.wait(state);
        };
        let lane = set.lane(self.slot);
        let Some(attempt) = lane.attempt() else {
            return self.wait(state);
        };
        state.link = Link::Live {
            lane: lane.clone(),
            attempt,
        };
        state.linked_at = Some(Instant::now());
        self.resend(state);
    }

    fn resend(&self, state: &mut State) {
        let mut enable = match state.management {
            Management::Asked { n, resume, max_s } => Some(self.enable_frame(n, resume, max_s)),
            _ => None,
        };
        for index in 0..state.held_in.len() {
            let held = &state.held_in[index];
            let (n, refused, read) = (held.n, held.refused, held.read);
            if n <= state.accepted {
                continue;
            }
            let stanza = held.stanza.clone();
            let frame = self.inbound_frame(n, stanza, refused, read, held.traced.as_deref());
            if let Some(enable) = enable.take_if(|e| e.n < n) {
                self.send(state, Body::EnableSm(enable));
            }
            self.send(state, Body::Inbound(frame));
        }
        if let Some(enable) = enable {
            self.send(state, Body::EnableSm(enable));
        }
        let written = if state.phase == Phase::Open {
            self.wire.written().max(state.acked)
        } else {
            state.reported_written.max(state.acked)
        };
        if state.out_last > 0 {
            self.report(state, written);
        }
        if let Some(close) = self.close_frame(state) {
            self.send(state, Body::Close(close));
        }
    }

    /// What the owner must be told of the socket's end, until it answers.
    pub(crate) fn close_frame(&self, state: &State) -> Option<proto::Close> {
        let clean = match state.phase {
            Phase::Open | Phase::Gone => return None,
            Phase::Lost => false,
            Phase::Closed => true,
        };
        Some(proto::Close {
            handle: self.handle,
            generation: self.generation,
            clean,
        })
    }

    /// Everything that this edge holds of the session, for a new owner; from now on nothing is
    /// sent until that owner answers.
    pub(crate) fn report_epoch(&self, state: &mut State) -> proto::SessionReport {
        state.link = Link::Restoring;
        state.waiting_since.get_or_insert_with(Instant::now);
        if !state.managed() && state.phase == Phase::Open {
            let written = self.wire.written();
            state.prune_out(written);
        }
        let (session_hi, session_lo) = sestina_api::key::split(self.nonce);
        let floor = state.acked.min(state.released);
        let held = state
            .held_out
            .iter()
            .filter(|h| h.number > floor)
            .map(|h| proto::Outbound {
                at_ms: h.at_ms,
                number: h.number,
                key: h.key,
                stanza: h
                    .stanza
                    .as_ref()
                    .map(|s| proto::Stanza::from((**s).clone())),
            });
        proto::SessionReport {
            handle: self.handle,
            generation: self.generation,
            session_hi,
            session_lo,
            jid: self.jid.to_string(),
            settled: state.settled,
            received: state.out_last,
            acked: state.acked,
            released: state.released,
            held: held.collect(),
            state: state.record.clone(),
            transport: self.transport.to_owned(),
            remote: self.remote.to_string(),
            began: state.began,
            accepted: state.told.max(state.accepted),
            sent: state.in_last,
        }
    }
}
