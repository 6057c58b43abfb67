//! What edges say of sessions they have: stanzas, acknowledgements, closed sockets.

use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::Lane;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::core::{Core, LaneRef};
use super::detach::superseded;
use super::session::{Older, Session, Unsettled};
use super::slot::Slot;
use super::work::OnDone;
use crate::chance::HashMap;

impl Slot {
    /// The session of a handle, unless the frame is of an older generation.
    pub(super) fn attached(
        &mut self,
        lane: LaneRef,
        handle: u64,
        generation: u32,
    ) -> Option<&mut Session> {
        let id = self.session_of_handle(lane, handle)?;
        let session = self.sessions.get_mut(&id)?;
        let this = session.generation == generation;
        session.edge_knows |= this;
        (this || !guard!("generation")).then_some(session)
    }

    /// A stanza of a socket whose session is not here (after more than one fault): its client must
    /// begin anew. One of an older generation is told so when the session is resumed, and an edge that
    /// holds what was accepted from it keeps that.
    fn unknown(&self, core: &mut Core, lane: LaneRef, handle: u64, generation: u32) {
        if self.of_older(lane, handle, None).is_some() && guard!("generation") {
            core.send_edge(lane, self.slot, self.epoch, superseded(handle, generation));
        } else if self.session_of_handle(lane, handle).is_none() && !self.holds_on(lane, handle) {
            let close = proto::CloseSession {
                handle,
                generation,
                condition: "reset".to_owned(),
                text: "the session is not known any more".to_owned(),
                keep: false,
                ended: false,
            };
            core.send_edge(lane, self.slot, self.epoch, Body::Close(close));
        }
    }

    fn session_of_handle(&self, lane: LaneRef, handle: u64) -> Option<u128> {
        self.handles.get(&(lane.edge, handle)).copied()
    }

    /// The n-th stanza of a session: taken only if it is the next.
    pub(crate) fn inbound(&mut self, core: &mut Core, lane: LaneRef, inbound: proto::Inbound) {
        let redirect_from;
        {
            let Some(session) = self.attached(lane, inbound.handle, inbound.generation) else {
                if let Some(id) = self.of_older(lane, inbound.handle, Some(inbound.n)) {
                    return self.inbound_of_older(core, lane, id, inbound);
                }
                core.metrics.refused_generation();
                return self.unknown(core, lane, inbound.handle, inbound.generation);
            };
            if inbound.n <= session.accepted {
                // Sent again after a broken lane: the answer may have been lost with it.
                session.accepted_told = 0;
                session.settled_told = 0;
                let id = session.id;
                return self.touch(core, id);
            }
            redirect_from = (inbound.n > session.accepted + 1).then_some(session.accepted + 1);
        }
        if let Some(n) = redirect_from {
            let again = proto::Redirect {
                handle: inbound.handle,
                generation: inbound.generation,
                n,
            };
            return core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
        }
        if let Some(id) = self.session_of_handle(lane, inbound.handle) {
            self.take_inbound(core, id, inbound);
        }
    }

    /// The session of an older attachment, which may have sent the stanza with that number.
    fn of_older(&self, lane: LaneRef, handle: u64, n: Option<u64>) -> Option<u128> {
        let is = |o: &Older| {
            (o.lane.edge, o.handle) == (lane.edge, handle) && n.is_none_or(|n| n <= o.until)
        };
        self.sessions
            .values()
            .find(|s| s.older.iter().any(is))
            .map(|s| s.id)
    }

    /// A stanza that an older attachment holds: only a new owner has not accepted it yet.
    fn inbound_of_older(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        id: u128,
        inbound: proto::Inbound,
    ) {
        let next = self.sessions.get(&id).map_or(0, |s| s.accepted + 1);
        if inbound.n == next {
            self.take_inbound(core, id, inbound);
        } else if inbound.n > next {
            let again = proto::Redirect {
                handle: inbound.handle,
                generation: inbound.generation,
                n: next,
            };
            core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
        }
    }

    /// Takes the next stanza of a session.
    fn take_inbound(&mut self, core: &mut Core, id: u128, inbound: proto::Inbound) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        failpoint!("router.received");
        session.accepted += 1;
        session.unsettled.push_back(Unsettled {
            done: false,
            kind: inbound
                .stanza
                .as_ref()
                .map(proto::Stanza::kind)
                .unwrap_or_default(),
        });
        let n = session.accepted;
        let close = session.close_asked.filter(|_| !session.owes());
        let work = core.works.open(OnDone::Stanza {
            slot: self.slot,
            session: id,
            n,
        });
        failpoint!("router.accepted");
        if let Some(stanza) = inbound.stanza {
            core.metrics.stanza_in(stanza.kind());
            let known = stanza.is_known();
            let stanza = Stanza::from(stanza);
            if !known {
                // A later version has read it; it is numbered and answered all the same.
                core.metrics.unknown_frame(Lane::EdgeRouter);
                let error = stanza.error_reply(Condition::FeatureNotImplemented, None);
                self.reply_to(core, id, n, error, work);
            } else if inbound.refused.is_empty() {
                self.route_from_session(core, id, n, stanza, work);
            } else if !stanza.is_error() {
                // The edge saw what is wrong with it; the answer is numbered here like all others.
                let condition = Condition::parse(&inbound.refused).unwrap_or(Condition::BadRequest);
                let error = stanza.error_reply(condition, None);
                self.reply_to(core, id, n, error, work);
            }
        }
        failpoint!("router.executed");
        core.part_done(work);
        self.touch(core, id);
        if let Some((condition, text)) = close {
            self.close_session(core, id, condition, text);
        }
    }

    /// The n-th stanza is settled: advance over all that are.
    pub(crate) fn stanza_settled(&mut self, core: &mut Core, id: u128, n: u64) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(index) = n.checked_sub(session.settled + 1) else {
            return;
        };
        if let Some(entry) = usize::try_from(index)
            .ok()
            .and_then(|i| session.unsettled.get_mut(i))
        {
            entry.done = true;
        }
        while let Some(first) = session.unsettled.front()
            && first.done
        {
            core.metrics.settled(first.kind);
            session.unsettled.pop_front();
            session.settled += 1;
        }
        failpoint!("router.settled");
        let all_settled = session.settled == session.accepted;
        let over = session.all_told;
        self.release_older(core, id);
        self.touch(core, id);
        if all_settled && over {
            self.session_ended(core, id);
        } else if all_settled {
            self.maybe_detached(core, id);
        }
    }

    /// The client (or the socket) took everything up to a number.
    pub(crate) fn acked(&mut self, core: &mut Core, lane: LaneRef, acked: proto::Acked) {
        let (slot, epoch) = (self.slot, self.epoch);
        let Some(session) = self.attached(lane, acked.handle, acked.generation) else {
            return;
        };
        let id = session.id;
        if !session.on_acked(core, acked.number) {
            tracing::warn!(jid = %session.jid, number = acked.number, next = session.next,
                "edge acknowledged more than was sent");
            return self.close_session(
                core,
                id,
                "undefined-condition",
                "impossible acknowledgement",
            );
        }
        session.on_written(acked.written);
        session.edge_has = session.edge_has.max(acked.number);
        if session.sent < session.next {
            session.pump(core, slot, epoch);
        }
        self.read_on(core, id);
        self.touch(core, id);
    }

    /// The client wants to know what is accepted: it is told with the turn in which it grows.
    pub(crate) fn asked(&mut self, core: &mut Core, lane: LaneRef, asked: &proto::Asked) {
        if let Some(session) = self.attached(lane, asked.handle, asked.generation) {
            session.asked = session.asked.max(asked.n);
            let id = session.id;
            self.touch(core, id);
        }
    }

    /// The socket is gone (detach, or end if it cannot resume), or the stream was closed (end).
    pub(crate) fn closed(&mut self, core: &mut Core, lane: LaneRef, close: proto::Close) {
        let Some(id) = self.session_of_handle(lane, close.handle) else {
            if self.holds_on(lane, close.handle)
                || self.of_older(lane, close.handle, None).is_some()
            {
                // The edge holds on until everybody was told, or the shadow has the session.
                return;
            }
            // Ended or resumed elsewhere already: the edge may drop what it holds.
            let gone = proto::Detached {
                handle: close.handle,
                generation: close.generation,
            };
            return core.send_edge(lane, self.slot, self.epoch, Body::Detached(gone));
        };
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.generation != close.generation && guard!("generation") {
            return;
        }
        if session.owes() {
            // An owner before this one has accepted more: the edge sends that again, and then this.
            let again = proto::Redirect {
                handle: close.handle,
                generation: close.generation,
                n: session.accepted + 1,
            };
            return core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
        }
        let resumable = session.sm.is_some_and(|s| s.resume);
        if !close.clean && resumable {
            self.detach(core, id);
        } else {
            self.end_session(core, id);
        }
    }

    /// Whether an edge keeps what it holds of a session that has ended, or lost its socket.
    fn holds_on(&self, lane: LaneRef, handle: u64) -> bool {
        let from = Some((lane, handle));
        self.sessions.values().any(|s| {
            let told = |(l, gone): &(LaneRef, proto::Detached)| Some((*l, gone.handle)) == from;
            s.ended_from == from || s.detached_from == from || s.holders.iter().any(told)
        })
    }

    /// An edge acknowledged a batch: these deliveries are held by two processes.
    pub(crate) fn deliveries_held(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        id: u128,
        generation: u32,
        number: u64,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let here =
            session.generation == generation && session.edge().is_some_and(|(l, _)| l == lane);
        let knew = match session.generation == generation {
            true => session.edge_knows,
            false => session
                .older
                .iter()
                .find(|older| older.generation == generation)
                .is_none_or(|older| older.knew),
        };
        if !knew {
            // The edge did not have the session when the delivery came, and has dropped the delivery.
            return;
        }
        session.on_held(core, number);
        if here && session.spare.is_some() {
            session.edge_has = session.edge_has.max(number);
            self.release_older(core, id);
        }
    }

    /// An edge took the answer to a bind or a resumption: it has the session, unless the socket was lost
    /// before the answer came.
    pub(crate) fn attachment_held(&mut self, core: &mut Core, id: u128, attached_no: u32) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.attached_no == attached_no
            && session.edge().is_some()
        {
            session.edge_knows = true;
            session.edge_has = session.edge_has.max(session.acked);
            self.release_older(core, id);
        }
    }

    /// What the attachments before this one and the shadow hold of a session can go, once it is
    /// settled or held by the edge that has it now.
    pub(crate) fn release_older(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let done = session.older_done();
        let spare_done = session.spare_done();
        for older in done {
            let gone = proto::Detached {
                handle: older.handle,
                generation: older.generation,
            };
            core.send_edge(older.lane, self.slot, self.epoch, Body::Detached(gone));
        }
        if spare_done {
            self.shadow_delete_session(core, id);
        }
    }

    /// The lane of a session that waited for it has room.
    pub(crate) fn lane_room(&mut self, core: &mut Core, id: u128) {
        let (slot, epoch) = (self.slot, self.epoch);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.lane_waits = false;
            session.pump(core, slot, epoch);
            self.touch(core, id);
        }
    }

    /// Collects the Progress of a touched session; run once at the end of a turn.
    pub(crate) fn progress(
        &mut self,
        core: &mut Core,
        id: u128,
        out: &mut HashMap<(LaneRef, u16, u64), Vec<proto::ProgressItem>>,
    ) {
        let (slot, epoch) = (self.slot, self.epoch);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.touched = false;
        let Some((lane, handle)) = session.edge() else {
            // Its keys may have been all that the edge was needed for.
            return self.maybe_detached(core, id);
        };
        // A record leaves with what it belongs to, also if the lane has become full by that: a new
        // owner takes from the record what its session's stanzas changed.
        let given = std::mem::take(&mut session.given) && session.state_dirty;
        if core.lane_full(lane) && !given {
            return session.wait_for_lane(core, slot, lane);
        }
        session.tell_record(core, slot, epoch);
        for work in session.state_waits.drain(..) {
            core.state_told(lane, slot, work);
        }
        let accepted = core.config.reported(session.accepted, session.settled);
        // What was not sent yet is told when it was: the edge cannot note it before.
        let released = session.released().min(session.sent);
        let due = accepted > session.accepted_told
            || session.settled > session.settled_told
            || released > session.released_told;
        if due {
            session.accepted_told = accepted;
            session.settled_told = session.settled;
            session.released_told = released;
            core.settled_told(lane, slot, session.id, session.settled);
            out.entry((lane, slot, epoch))
                .or_default()
                .push(proto::ProgressItem {
                    handle,
                    generation: session.generation,
                    accepted,
                    settled: session.settled,
                    released,
                });
        }
        if session.spare.is_some() {
            self.release_older(core, id);
        }
    }
}
