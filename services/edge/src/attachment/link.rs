//! Which lane a session speaks on, and what is sent again when that changes.

use std::time::Duration;

use sestina_api::link::BULK;
use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::{failpoint, guard};

use super::Attachments;
use super::hands::{Hands, Lock as _, Sent, Socket as _};
use super::slots::Slot;
use super::state::{Link, Management, Phase, Session, State};

impl<H: Hands> Session<H> {
    /// Sends a frame to the owner, if it can be reached. If not, [`Session::relink`] sends all
    /// that matters again later.
    pub fn send(&self, hands: &H, state: &State<H>, body: Body) {
        if let Link::Live(lane) = &state.link {
            drop(self.offer(hands, lane, state, body));
        }
    }

    fn offer(&self, hands: &H, lane: &H::Lane, state: &State<H>, body: Body) -> Sent {
        let frame = proto::ToRouter {
            slot: self.slot.into(),
            epoch: state.epoch,
            body: Some(body),
        };
        hands.send(lane, frame)
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
        state.incoming.accepted = item.accepted.min(state.incoming.last);
        state.incoming.settled = state
            .incoming
            .settled
            .max(item.settled.min(state.incoming.last));
        state.outgoing.released = state
            .outgoing
            .released
            .max(item.released.min(state.outgoing.last));
        state.prune_in();
        let acked = state.outgoing.acked;
        state.prune_out(acked);
        self.connect(hands, slot, state);
    }

    /// The owner has the report, and its answer will not come: only what is settled is certain.
    pub fn assume_restored(&self, slot: &Slot<H>, state: &mut State<H>) {
        if matches!(state.link, Link::Restoring) {
            state.epoch = slot.epoch;
            state.incoming.accepted = state.incoming.settled;
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
        state.incoming.forwarded = state.incoming.accepted;
        state.incoming.enable_forwarded = false;
        let written = if state.phase == Phase::Open {
            self.wire.written().max(state.outgoing.acked)
        } else {
            state.outgoing.reported_written.max(state.outgoing.acked)
        };
        if state.outgoing.last > 0 {
            self.report_acked(hands, state, written);
        }
        self.forward(hands, state, true);
    }

    /// Gives the lane, in order, what it has not had: stanzas of the client, its `<enable/>`, and the
    /// end of its socket. What goes in `bulk` leaves room for what is new. What the lane does not take
    /// goes on when it has room.
    pub fn forward(&self, hands: &H, state: &mut State<H>, bulk: bool) {
        let Link::Live(lane) = &state.link else {
            return;
        };
        let lane = lane.clone();
        let first = state
            .incoming
            .held
            .partition_point(|held| held.n <= state.incoming.forwarded);
        for index in first..=state.incoming.held.len() {
            if let Management::Asked {
                n, resume, max_s, ..
            } = state.management
                && n <= state.incoming.forwarded
                && !std::mem::replace(&mut state.incoming.enable_forwarded, true)
            {
                let enable = self.enable_frame(n, resume, max_s);
                self.send(hands, state, Body::EnableSm(enable));
            }
            let Some(held) = state.incoming.held.get(index) else {
                break;
            };
            if bulk && hands.waiting(&lane) >= BULK {
                return self.fall_behind(hands, state);
            }
            let (n, stanza) = (held.n, held.stanza.clone());
            let traced = held.traced.as_deref();
            let frame = self.inbound_frame(hands, n, stanza, held.refused, held.read, traced);
            match self.offer(hands, &lane, state, Body::Inbound(frame)) {
                Sent::Full(_) if guard!("lane-refuses") => {
                    return self.fall_behind(hands, state);
                }
                Sent::Yes | Sent::Full(_) => state.incoming.forwarded = n,
                Sent::Over => return,
            }
        }
        self.send_close(hands, state);
    }

    /// Goes on when the lane has room.
    fn fall_behind(&self, hands: &H, state: &mut State<H>) {
        if !std::mem::replace(&mut state.incoming.behind, true) {
            let behind = &hands.attachments().behind;
            behind.lock().push_back((self.slot, self.handle));
        }
    }

    /// Tells the owner of the socket's end, if there is one.
    pub fn send_close(&self, hands: &H, state: &State<H>) {
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
}

impl<H: Hands> Attachments<H> {
    /// Sessions that have more to send than their lane took go on, in turns, for as long as lanes have
    /// room.
    pub fn send_behind(&self, hands: &H) {
        let count = self.behind.lock().len();
        for _ in 0..count {
            let Some((number, handle)) = self.behind.lock().pop_front() else {
                return;
            };
            let slot = self.slots[usize::from(number)].lock();
            if let Some(session) = slot.sessions.get(&handle) {
                let mut state = session.state.lock();
                state.incoming.behind = false;
                session.forward(hands, &mut state, true);
            }
        }
    }
}
