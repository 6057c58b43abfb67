//! Binds and resumptions that wait for their owner's answer.
//!
//! The answer is worked by the lane's thread: the session must exist, and the client must have
//! been answered, before the first delivery of the same batch.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sestina_proto as proto;
use sestina_proto::to_router::Body;
use sestina_runtime::failpoint;
use sestina_xmpp::stream::Framing;

use super::Attachments;
use super::end::count_session;
use super::hands::{Hands, Lock as _, Say, Sent, Socket as _, Waiter as _};
use super::slots::Slot;
use super::state::{Management, Session, State};
use crate::metrics::{Count, Timing};

/// What was asked of the owner.
pub enum Ask {
    /// RFC 6120 §7.
    Bind {
        /// The frame.
        frame: proto::Bind,
        /// The `id` of the client's IQ.
        iq_id: String,
    },
    /// XEP-0198 §5.
    Resume {
        /// The frame.
        frame: proto::Resume,
        /// The id that the client gave.
        previd: String,
    },
}

/// One that waits.
pub struct Pending<H: Hands> {
    /// What is asked.
    pub ask: Ask,
    /// Where the answer is written.
    pub wire: Arc<H::Socket>,
    /// Of that stream.
    pub framing: Framing,
    /// How the client came.
    pub transport: &'static str,
    /// Where it came from.
    pub remote: Box<str>,
    /// When it was asked.
    pub since: Instant,
    /// Gets the answer.
    pub answer: H::Waiter,
}

impl<H: Hands> Pending<H> {
    fn body(&self) -> Body {
        match &self.ask {
            Ask::Bind { frame, .. } => Body::Bind(frame.clone()),
            Ask::Resume { frame, .. } => Body::Resume(frame.clone()),
        }
    }

    /// Sends it to the owner of its slot, if there is one and its lane takes it.
    pub fn send(&self, hands: &H, number: u16, slot: &Slot<H>) -> bool {
        let route = slot.route.as_ref();
        let Some(lane) = route.and_then(|route| hands.lane(route, number)) else {
            return false;
        };
        let frame = proto::ToRouter {
            slot: number.into(),
            epoch: slot.epoch,
            body: Some(self.body()),
        };
        matches!(hands.send(&lane, frame), Sent::Yes)
    }
}

/// What both positive answers say.
pub struct Attached {
    handle: u64,
    generation: u32,
    jid: String,
    nonce: u128,
}

impl From<&proto::Bound> for Attached {
    fn from(b: &proto::Bound) -> Attached {
        Attached {
            handle: b.handle,
            generation: b.generation,
            jid: b.jid.clone(),
            nonce: sestina_api::key::join(b.session_hi, b.session_lo),
        }
    }
}

impl From<&proto::Resumed> for Attached {
    fn from(r: &proto::Resumed) -> Attached {
        Attached {
            handle: r.handle,
            generation: r.generation,
            jid: r.jid.clone(),
            nonce: sestina_api::key::join(r.session_hi, r.session_lo),
        }
    }
}

impl<H: Hands> Attachments<H> {
    /// Registers a bind or resumption and sends it; it is sent again as owners and lanes change.
    pub fn ask_owner(&self, hands: &H, number: u16, handle: u64, pending: Pending<H>) {
        let mut slot = self.slots[usize::from(number)].lock();
        if matches!(pending.ask, Ask::Resume { .. }) {
            failpoint!("edge.resuming");
        }
        if !pending.send(hands, number, &slot) {
            self.wait_for_owner(hands, number, &mut slot);
        }
        slot.pending.insert(handle, Box::new(pending));
    }

    /// The socket that waited is gone, or gave up. If there is a session already, no client has it.
    pub fn forget_pending(&self, hands: &H, number: u16, handle: u64) {
        let mut slot = self.slots[usize::from(number)].lock();
        slot.pending.remove(&handle);
        if let Some(session) = slot.sessions.get(&handle) {
            session.lose(hands);
        }
    }

    /// Bound: the session begins, and the client gets its full JID.
    pub fn take_bound(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        bound: &proto::Bound,
    ) -> Option<Arc<Session<H>>> {
        if slot.sessions.contains_key(&bound.handle) {
            return None;
        }
        let Some(pending) = slot.pending.remove(&bound.handle).map(|p| *p) else {
            self.stray(hands, number, slot, bound.handle, bound.generation);
            return None;
        };
        let Ask::Bind { iq_id, .. } = &pending.ask else {
            return None;
        };
        let said = Say::Bound {
            id: iq_id,
            jid: &bound.jid,
        };
        pending.wire.say(pending.framing, said);
        hands.metrics().count(Count::Bound, 1);
        let state = State::new(slot.epoch);
        Some(self.attach(hands, number, slot, pending, bound.into(), state))
    }

    /// Resumed: the session goes on here; deliveries continue after `acked`.
    pub fn take_resumed(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        resumed: &proto::Resumed,
    ) -> Option<Arc<Session<H>>> {
        if slot.sessions.contains_key(&resumed.handle) {
            return None;
        }
        let Some(pending) = slot.pending.remove(&resumed.handle).map(|p| *p) else {
            self.stray(hands, number, slot, resumed.handle, resumed.generation);
            return None;
        };
        let Ask::Resume { previd, .. } = &pending.ask else {
            return None;
        };
        let h = resumed.accepted.saturating_sub(resumed.in_base) as u32;
        let said = Say::Resumed { previd, h };
        pending.wire.say(pending.framing, said);
        let mut state = State::new(slot.epoch);
        state.management = Management::On { resumable: true };
        state.incoming.last = resumed.accepted;
        state.incoming.began = resumed.accepted;
        state.incoming.accepted = resumed.accepted;
        state.incoming.forwarded = resumed.accepted;
        state.incoming.settled = resumed.settled;
        state.incoming.base = resumed.in_base;
        state.incoming.told = resumed.accepted;
        state.incoming.answer_until = resumed.accepted;
        state.outgoing.last = resumed.acked;
        state.outgoing.acked = resumed.acked;
        state.outgoing.base = resumed.out_base;
        state.outgoing.asked_at = resumed.acked;
        state.outgoing.reported_acked = resumed.acked;
        state.outgoing.reported_written = resumed.acked;
        state.record = Bytes::copy_from_slice(&resumed.state);
        hands.metrics().count(Count::Resumed, 1);
        Some(self.attach(hands, number, slot, pending, resumed.into(), state))
    }

    /// Refused: the login task answers the client, which may try something else.
    pub fn take_refused(&self, hands: &H, slot: &mut Slot<H>, refused: proto::Refused) {
        let Some(pending) = slot.pending.remove(&refused.handle).map(|p| *p) else {
            return;
        };
        hands.metrics().count(Count::Refused, 1);
        if !pending.answer.refused(refused) {
            tracing::debug!("the client went away before its bind was refused");
        }
    }

    fn attach(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        pending: Pending<H>,
        attached: Attached,
        state: State<H>,
    ) -> Arc<Session<H>> {
        let timing = match &pending.ask {
            Ask::Bind { .. } => Timing::OwnerAnswer,
            Ask::Resume { .. } => Timing::Resumed,
        };
        let took = hands.now().saturating_duration_since(pending.since);
        hands.metrics().timing(timing, took);
        pending
            .wire
            .set_queue_limit(hands.limits().session_credit.saturating_mul(4));
        let session = Arc::new(Session {
            handle: attached.handle,
            generation: attached.generation,
            slot: number,
            nonce: attached.nonce,
            jid: attached.jid.into_boxed_str(),
            framing: pending.framing,
            wire: pending.wire,
            transport: pending.transport,
            remote: pending.remote,
            room: H::Reader::default(),
            state: H::Lock::new(state),
        });
        session.relink(hands, slot, &mut session.state.lock());
        let record = session.state.lock().record.clone();
        self.rooms.changed(hands, &session, &Bytes::new(), &record);
        slot.sessions.insert(session.handle, Arc::clone(&session));
        count_session(hands, &session, 1);
        if !pending.answer.session(&session) {
            // The client did not wait.
            session.lose(hands);
        }
        session
    }

    /// An answer for which no socket waits: the owner must not keep an attachment that does not exist.
    fn stray(&self, hands: &H, number: u16, slot: &Slot<H>, handle: u64, generation: u32) {
        let close = Session::<H>::stray_close(handle, generation, false);
        slot.send(hands, number, close);
    }
}
