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
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::stream::{Framing, sm};
use sestina_xmpp::xml::Element;
use tokio::sync::{Notify, oneshot};

use super::state::{Management, Session, State};
use crate::lanes::slots::Slot;
use crate::metrics::{Count, Timing};
use crate::shared::Shared;
use crate::transport::WireWriter;

/// What was asked of the owner.
pub(crate) enum Ask {
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

/// What came of it.
pub(crate) enum Answer {
    /// There is a session, and the client has been told.
    Session(Arc<Session>),
    /// The owner refused; the client has not been told.
    Refused(proto::Refused),
}

/// One that waits.
pub(crate) struct Pending {
    pub(crate) ask: Ask,
    pub(crate) wire: Arc<WireWriter>,
    pub(crate) framing: Framing,
    pub(crate) transport: &'static str,
    pub(crate) remote: Box<str>,
    pub(crate) since: Instant,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Pending {
    fn body(&self) -> Body {
        match &self.ask {
            Ask::Bind { frame, .. } => Body::Bind(frame.clone()),
            Ask::Resume { frame, .. } => Body::Resume(frame.clone()),
        }
    }

    /// Sends it to the owner of its slot, if there is one.
    pub(crate) fn send(&self, number: u16, slot: &Slot) -> bool {
        let Some(set) = &slot.route else { return false };
        let frame = proto::ToRouter {
            slot: number.into(),
            epoch: slot.epoch,
            body: Some(self.body()),
        };
        set.lane(number).send_now(frame)
    }
}

/// What both positive answers say.
pub(crate) struct Attached {
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

impl Shared {
    /// Registers a bind or resumption and sends it; it is sent again as owners and lanes change.
    pub(crate) fn ask_owner(&self, number: u16, handle: u64, pending: Pending) {
        let mut slot = self.slots[usize::from(number)].lock();
        if matches!(pending.ask, Ask::Resume { .. }) {
            failpoint!("edge.resuming");
        }
        if !pending.send(number, &slot) {
            self.wait_for_owner(number, &mut slot);
        }
        slot.pending.insert(handle, Box::new(pending));
    }

    /// The socket that waited is gone, or gave up. If there is a session already, nobody took it.
    pub(crate) fn forget_pending(&self, number: u16, handle: u64) {
        let mut slot = self.slots[usize::from(number)].lock();
        slot.pending.remove(&handle);
        if let Some(session) = slot.sessions.get(&handle) {
            session.lose(self);
        }
    }

    /// Bound: the session begins, and the client gets its full JID.
    pub(crate) fn take_bound(
        &self,
        number: u16,
        slot: &mut Slot,
        bound: &proto::Bound,
    ) -> Option<Arc<Session>> {
        if slot.sessions.contains_key(&bound.handle) {
            return None;
        }
        let Some(pending) = slot.pending.remove(&bound.handle).map(|p| *p) else {
            self.stray(number, slot, bound.handle, bound.generation);
            return None;
        };
        let Ask::Bind { iq_id, .. } = &pending.ask else {
            return None;
        };
        let mut result = Stanza::new(Kind::Iq);
        result.type_ = "result".to_owned();
        result.id.clone_from(iq_id);
        let jid = Element::new("jid", ns::BIND).with_text(bound.jid.as_str());
        result.push_element(&Element::new("bind", ns::BIND).with_child(jid));
        let declares = pending.framing.declares_content();
        pending
            .wire
            .append(|out| result.write_to(out, None, declares));
        self.metrics.count(Count::Bound, 1);
        Some(self.attach(number, slot, pending, bound.into(), State::new(slot.epoch)))
    }

    /// Resumed: the session goes on here; deliveries continue after `acked`.
    pub(crate) fn take_resumed(
        &self,
        number: u16,
        slot: &mut Slot,
        resumed: &proto::Resumed,
    ) -> Option<Arc<Session>> {
        if slot.sessions.contains_key(&resumed.handle) {
            return None;
        }
        let Some(pending) = slot.pending.remove(&resumed.handle).map(|p| *p) else {
            self.stray(number, slot, resumed.handle, resumed.generation);
            return None;
        };
        let Ask::Resume { previd, .. } = &pending.ask else {
            return None;
        };
        let h = resumed.accepted.saturating_sub(resumed.in_base) as u32;
        pending.wire.append(|out| sm::write_resumed(out, previd, h));
        let mut state = State::new(slot.epoch);
        state.management = Management::On { resumable: true };
        state.in_last = resumed.accepted;
        state.began = resumed.accepted;
        state.accepted = resumed.accepted;
        state.settled = resumed.settled;
        state.in_base = resumed.in_base;
        state.told = resumed.accepted;
        state.answer_until = resumed.accepted;
        state.out_last = resumed.acked;
        state.acked = resumed.acked;
        state.out_base = resumed.out_base;
        state.asked_at = resumed.acked;
        state.reported_acked = resumed.acked;
        state.reported_written = resumed.acked;
        state.record = Bytes::copy_from_slice(&resumed.state);
        self.metrics.count(Count::Resumed, 1);
        Some(self.attach(number, slot, pending, resumed.into(), state))
    }

    /// Refused: the login task answers the client, which may try something else.
    pub(crate) fn take_refused(&self, slot: &mut Slot, refused: proto::Refused) {
        let Some(pending) = slot.pending.remove(&refused.handle).map(|p| *p) else {
            return;
        };
        self.metrics.count(Count::Refused, 1);
        if pending.answer.send(Answer::Refused(refused)).is_err() {
            tracing::debug!("the client went away before its bind was refused");
        }
    }

    fn attach(
        &self,
        number: u16,
        slot: &mut Slot,
        pending: Pending,
        attached: Attached,
        state: State,
    ) -> Arc<Session> {
        let timing = match &pending.ask {
            Ask::Bind { .. } => Timing::OwnerAnswer,
            Ask::Resume { .. } => Timing::Resumed,
        };
        self.metrics.timing(timing, pending.since.elapsed());
        pending
            .wire
            .set_queue_limit(self.config.session_credit.saturating_mul(4));
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
            room: Notify::new(),
            state: parking_lot::Mutex::new(state),
        });
        session.relink(slot, &mut session.state.lock());
        let record = session.state.lock().record.clone();
        self.record_changed(&session, &Bytes::new(), &record);
        slot.sessions.insert(session.handle, Arc::clone(&session));
        self.count_session(&session, 1);
        if pending
            .answer
            .send(Answer::Session(Arc::clone(&session)))
            .is_err()
        {
            // The client did not wait.
            session.lose(self);
        }
        session
    }

    /// An answer that nobody waits for: the owner must not keep an attachment that is none.
    fn stray(&self, number: u16, slot: &Slot, handle: u64, generation: u32) {
        if let Some(set) = &slot.route {
            let body = Some(Session::stray_close(handle, generation, false));
            set.lane(number).send_now(proto::ToRouter {
                slot: number.into(),
                epoch: slot.epoch,
                body,
            });
        }
    }
}
