//! Which lane a session speaks on, and what is sent again when that changes.

use std::time::Duration;

use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::failpoint;

use super::hands::{Hands, Socket as _};
use super::slots::Slot;
use super::state::{Link, Management, Phase, Session, State};

impl<H: Hands> Session<H> {
    /// Sends a frame to the owner, if it can be reached. If not, [`Session::relink`] sends all
    /// that matters again later.
    pub fn send(&self, hands: &H, state: &mut State<H>, body: Body) {
        if let Link::Live(lane) = &state.link {
            let frame = proto::ToRouter {
                slot: self.slot.into(),
                epoch: state.epoch,
                body: Some(body),
            };
            hands.send(lane, frame);
        }
    }

    /// Stops sending: the owner did not take frames.
    pub fn wait(&self, hands: &H, state: &mut State<H>) {
        const SETTLED: Duration = Duration::from_secs(5);
        if state
            .linked_at
            .take()
            .is_some_and(|at| hands.now().saturating_duration_since(at) > SETTLED)
        {
            // That owner has served it for a while: this is a new wait.
            state.waiting_since = None;
        }
        state.link = Link::Waiting;
        state.waiting_since.get_or_insert_with(|| hands.now());
    }

    /// The lane of the slot's owner is open (again): sends all it has not accepted, in order, and
    /// every request it has not answered. Harmless to repeat: an owner takes only what is next.
    pub fn relink(&self, hands: &H, slot: &Slot<H>, state: &mut State<H>) {
        if matches!(state.link, Link::Restoring) || state.epoch < slot.epoch {
            return;
        }
        self.connect(hands, slot, state);
    }

    /// The new owner of the slot knows the session and has accepted up to `accepted`.
    pub fn restored(
        &self,
        hands: &H,
        slot: &Slot<H>,
        state: &mut State<H>,
        item: &proto::ProgressItem,
    ) {
        failpoint!("edge.replaying");
        state.epoch = slot.epoch;
        state.waiting_since = None;
        state.accepted = item.accepted.min(state.in_last);
        state.settled = state.settled.max(item.settled.min(state.in_last));
        state.released = state.released.max(item.released.min(state.out_last));
        state.prune_in();
        let acked = state.acked;
        state.prune_out(acked);
        self.connect(hands, slot, state);
    }

    /// The owner has the report, and its answer will not come: only what is settled is certain.
    pub fn assume_restored(&self, slot: &Slot<H>, state: &mut State<H>) {
        if matches!(state.link, Link::Restoring) {
            state.epoch = slot.epoch;
            state.accepted = state.settled;
            state.link = Link::Waiting;
        }
        // Linked by the caller, with all others of the slot.
    }

    fn connect(&self, hands: &H, slot: &Slot<H>, state: &mut State<H>) {
        let route = slot.route.as_ref();
        let Some(lane) = route.and_then(|route| hands.lane(route, self.slot)) else {
            return self.wait(hands, state);
        };
        state.link = Link::Live(lane);
        state.linked_at = Some(hands.now());
        self.resend(hands, state);
    }

    fn resend(&self, hands: &H, state: &mut State<H>) {
        let mut enable = match state.management {
            Management::Asked {
                n, resume, max_s, ..
            } => Some(self.enable_frame(n, resume, max_s)),
            _ => None,
        };
        for index in 0..state.held_in.len() {
            let held = &state.held_in[index];
            let (n, refused, read) = (held.n, held.refused, held.read);
            if n <= state.accepted {
                continue;
            }
            let stanza = held.stanza.clone();
            let frame = self.inbound_frame(hands, n, stanza, refused, read, held.traced.as_deref());
            if let Some(enable) = enable.take_if(|e| e.n < n) {
                self.send(hands, state, Body::EnableSm(enable));
            }
            self.send(hands, state, Body::Inbound(frame));
        }
        if let Some(enable) = enable {
            self.send(hands, state, Body::EnableSm(enable));
        }
        let written = if state.phase == Phase::Open {
            self.wire.written().max(state.acked)
        } else {
            state.reported_written.max(state.acked)
        };
        if state.out_last > 0 {
            self.report(hands, state, written);
        }
        if let Some(close) = self.close_frame(state) {
            self.send(hands, state, Body::Close(close));
        }
    }

    /// What the owner must be told of the socket's end, until it answers.
    pub fn close_frame(&self, state: &State<H>) -> Option<proto::Close> {
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
    pub fn report_epoch(&self, hands: &H, state: &mut State<H>) -> proto::SessionReport {
        state.link = Link::Restoring;
        state.waiting_since.get_or_insert_with(|| hands.now());
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
