//! Frames of edges about the sessions that they have: stanzas, acknowledgements, closed sockets.

use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::Lane;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::channel::{PreviousAttachment, Unsettled};
use super::core::{Core, LaneRef};
use super::detach::superseded;
use super::operations::OnDone;
use super::session::Session;
use super::slot::Slot;
use crate::rng::HashMap;

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
        let this = session.channel.generation == generation;
        session.channel.copies.edge_knows |= this;
        (this || !guard!("generation")).then_some(session)
    }

    /// A stanza of a socket whose session is not here (after more than one fault): its client must
    /// begin anew. One of an older generation is told so when the session is resumed, and an edge that
    /// holds what was accepted from it keeps that.
    fn unknown(&self, core: &mut Core, lane: LaneRef, handle: u64, generation: u32) {
        if self.of_previous(lane, handle, None).is_some() && guard!("generation") {
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
                if let Some(id) = self.of_previous(lane, inbound.handle, Some(inbound.n)) {
                    return self.inbound_of_previous(core, lane, id, inbound);
                }
                core.metrics.refused_generation();
                return self.unknown(core, lane, inbound.handle, inbound.generation);
            };
            if inbound.n <= session.channel.incoming.accepted {
                // Sent again after a broken lane: the answer may have been lost with it.
                session.channel.incoming.accepted_reported = 0;
                session.channel.incoming.settled_reported = 0;
                let id = session.channel.id;
                return self.touch(core, id);
            }
            redirect_from = (inbound.n > session.channel.incoming.accepted + 1)
                .then_some(session.channel.incoming.accepted + 1);
        }
        if let Some(n) = redirect_from {
            let id = self.session_of_handle(lane, inbound.handle);
            if id.is_some_and(|id| self.waits_for_residents(id)) {
                // The edge has been asked to send an earlier stanza again, and sends this one after it.
                return;
            }
            let again = proto::Redirect {
                handle: inbound.handle,
                generation: inbound.generation,
                n,
            };
            return core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
        }
        if let Some(id) = self.session_of_handle(lane, inbound.handle) {
            self.next_inbound(core, lane, id, inbound);
        }
    }

    /// The session of an older attachment, which may have sent the stanza with that number.
    fn of_previous(&self, lane: LaneRef, handle: u64, n: Option<u64>) -> Option<u128> {
        let is = |o: &PreviousAttachment| {
            (o.lane.edge, o.handle) == (lane.edge, handle) && n.is_none_or(|n| n <= o.until)
        };
        self.sessions
            .values()
            .find(|s| s.channel.copies.previous.iter().any(is))
            .map(|s| s.channel.id)
    }

    /// A stanza that an older attachment holds: only a new owner has not accepted it yet.
    fn inbound_of_previous(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        id: u128,
        inbound: proto::Inbound,
    ) {
        let next = self
            .sessions
            .get(&id)
            .map_or(0, |s| s.channel.incoming.accepted + 1);
        if inbound.n == next {
            self.next_inbound(core, lane, id, inbound);
        } else if inbound.n > next {
            let again = proto::Redirect {
                handle: inbound.handle,
                generation: inbound.generation,
                n: next,
            };
            core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
        }
    }

    /// Takes the next stanza of a session, or has the edge send it again once the resident data of the user is there.
    fn next_inbound(&mut self, core: &mut Core, lane: LaneRef, id: u128, inbound: proto::Inbound) {
        let to = inbound.stanza.as_ref().map_or("", |s| s.to.as_str());
        if self.may_send(core, id, to) {
            return self.take_inbound(core, id, inbound);
        }
        let again = proto::Redirect {
            handle: inbound.handle,
            generation: inbound.generation,
            n: inbound.n,
        };
        self.ask_for_again(core, id, lane, again);
    }

    /// Takes the next stanza of a session.
    fn take_inbound(&mut self, core: &mut Core, id: u128, inbound: proto::Inbound) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        failpoint!("router.received");
        session.channel.incoming.accepted += 1;
        session.channel.incoming.unsettled.push_back(Unsettled {
            done: false,
            kind: inbound
                .stanza
                .as_ref()
                .map(proto::Stanza::kind)
                .unwrap_or_default(),
        });
        let n = session.channel.incoming.accepted;
        let close = session
            .channel
            .close_asked
            .filter(|_| !session.channel.is_replaying());
        let operation = core.operations.open(OnDone::Stanza {
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
                self.reply_to(core, id, n, error, operation);
            } else if inbound.refused.is_empty() {
                self.route_from_session(core, id, n, stanza, operation);
            } else if !stanza.is_error() {
                // The edge saw what is wrong with it; the answer is numbered here like all others.
                let condition = Condition::parse(&inbound.refused).unwrap_or(Condition::BadRequest);
                let error = stanza.error_reply(condition, None);
                self.reply_to(core, id, n, error, operation);
            }
        }
        failpoint!("router.executed");
        core.part_done(operation);
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
        let Some(index) = n.checked_sub(session.channel.incoming.settled + 1) else {
            return;
        };
        if let Some(entry) = usize::try_from(index)
            .ok()
            .and_then(|i| session.channel.incoming.unsettled.get_mut(i))
        {
            entry.done = true;
        }
        while let Some(first) = session.channel.incoming.unsettled.front()
            && first.done
        {
            core.metrics.settled(first.kind);
            session.channel.incoming.unsettled.pop_front();
            session.channel.incoming.settled += 1;
        }
        failpoint!("router.settled");
        let all_settled = session.channel.incoming.settled == session.channel.incoming.accepted;
        let over = session.channel.all_told;
        self.release_previous(core, id);
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
        let id = session.channel.id;
        if !session.on_acked(core, acked.number) {
            tracing::warn!(jid = %session.channel.jid, number = acked.number, next = session.channel.outgoing.next,
                "edge acknowledged more than was sent");
            return self.close_session(
                core,
                id,
                "undefined-condition",
                "impossible acknowledgement",
            );
        }
        session.channel.on_written(acked.written);
        session.channel.copies.edge_has = session.channel.copies.edge_has.max(acked.number);
        if session.channel.outgoing.sent < session.channel.outgoing.next {
            session.channel.pump(core, slot, epoch);
        }
        self.read_on(core, id);
        self.touch(core, id);
    }

    /// The client wants to know what is accepted: it is told with the turn in which it grows.
    pub(crate) fn asked(&mut self, core: &mut Core, lane: LaneRef, asked: &proto::Asked) {
        if let Some(session) = self.attached(lane, asked.handle, asked.generation) {
            session.channel.incoming.asked = session.channel.incoming.asked.max(asked.n);
            let id = session.channel.id;
            self.touch(core, id);
        }
    }

    /// The socket is gone (detach, or end if it cannot resume), or the stream was closed (end).
    pub(crate) fn closed(&mut self, core: &mut Core, lane: LaneRef, close: proto::Close) {
        let Some(id) = self.session_of_handle(lane, close.handle) else {
            if self.holds_on(lane, close.handle)
                || self.of_previous(lane, close.handle, None).is_some()
            {
                // The edge keeps the session until contacts and rooms have its unavailable presence, or the state store has it.
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
        if session.channel.generation != close.generation && guard!("generation") {
            return;
        }
        let again = proto::Redirect {
            handle: close.handle,
            generation: close.generation,
            n: session.channel.incoming.accepted + 1,
        };
        if session.channel.is_replaying() {
            // An owner before this one may have accepted more: the edge sends that again, and then this.
            return core.send_edge(lane, self.slot, self.epoch, Body::Redirect(again));
        }
        if self.waits_for_residents(id) {
            // What the client sent before may have been sent back.
            return self.ask_for_again(core, id, lane, again);
        }
        let resumable = session.channel.sm.is_some_and(|s| s.resume);
        if !close.clean && resumable {
            self.detach(core, id);
        } else {
            self.end_known(core, id);
        }
    }

    /// Whether an edge keeps what it holds of a session that has ended, or lost its socket.
    fn holds_on(&self, lane: LaneRef, handle: u64) -> bool {
        let from = Some((lane, handle));
        self.sessions.values().any(|s| {
            let told = |(l, gone): &(LaneRef, proto::Detached)| Some((*l, gone.handle)) == from;
            s.channel.copies.ended_from == from
                || s.channel.copies.detached_from == from
                || s.channel.copies.holders.iter().any(told)
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
        let here = session.channel.generation == generation
            && session.channel.edge().is_some_and(|(l, _)| l == lane);
        let knew = match session.channel.generation == generation {
            true => session.channel.copies.edge_knows,
            false => session
                .channel
                .copies
                .previous
                .iter()
                .find(|previous| previous.generation == generation)
                .is_none_or(|previous| previous.knew),
        };
        if !knew {
            // The edge did not have the session when the delivery came, and has dropped the delivery.
            return;
        }
        session.channel.on_held(core, number);
        if here && session.channel.copies.redundant_copies.is_some() {
            session.channel.copies.edge_has = session.channel.copies.edge_has.max(number);
            self.release_previous(core, id);
        }
    }

    /// An edge took the answer to a bind or a resumption: it has the session, unless the socket was lost
    /// before the answer came.
    pub(crate) fn attachment_held(&mut self, core: &mut Core, id: u128, attached_no: u32) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.channel.copies.attached_no == attached_no
            && session.channel.edge().is_some()
        {
            session.channel.copies.edge_knows = true;
            session.channel.copies.edge_has = session
                .channel
                .copies
                .edge_has
                .max(session.channel.outgoing.acked);
            self.release_previous(core, id);
        }
    }

    /// Lets earlier attachments and the state store drop their copies of a session's stanzas, once these stanzas are
    /// settled or the edge of the present attachment has them.
    pub(crate) fn release_previous(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let done = session.channel.previous_done();
        let redundant_copies_done = session.channel.redundant_copies_done();
        for previous in done {
            let gone = proto::Detached {
                handle: previous.handle,
                generation: previous.generation,
            };
            core.send_edge(previous.lane, self.slot, self.epoch, Body::Detached(gone));
        }
        if redundant_copies_done {
            self.replica_delete_session(core, id);
        }
    }

    /// The lane of a session that waited for it has room.
    pub(crate) fn lane_room(&mut self, core: &mut Core, id: u128) {
        let (slot, epoch) = (self.slot, self.epoch);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.channel.outgoing.lane_waits = false;
            session.channel.pump(core, slot, epoch);
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
        session.channel.touched = false;
        let Some((lane, handle)) = session.channel.edge() else {
            // Its keys may have been all that the edge was needed for.
            return self.maybe_detached(core, id);
        };
        // A record leaves with what it belongs to, also if the lane has become full by that: a new
        // owner takes from the record what its session's stanzas changed.
        let given =
            std::mem::take(&mut session.channel.outgoing.given) && session.channel.state_dirty;
        if core.lane_full(lane) && !given {
            return session.channel.wait_for_lane(core, slot, lane);
        }
        session.tell_record(core, slot, epoch);
        for operation in session.channel.state_waits.drain(..) {
            core.state_told(lane, slot, operation);
        }
        let accepted = core.config.reported(
            session.channel.incoming.accepted,
            session.channel.incoming.settled,
        );
        // A number is reported when it was sent: the edge cannot note it before.
        let released = session
            .channel
            .released()
            .min(session.channel.outgoing.sent);
        let due = accepted > session.channel.incoming.accepted_reported
            || session.channel.incoming.settled > session.channel.incoming.settled_reported
            || released > session.channel.outgoing.released_reported;
        if due {
            session.channel.incoming.accepted_reported = accepted;
            session.channel.incoming.settled_reported = session.channel.incoming.settled;
            session.channel.outgoing.released_reported = released;
            core.settled_reported(
                lane,
                slot,
                session.channel.id,
                session.channel.incoming.settled,
            );
            out.entry((lane, slot, epoch))
                .or_default()
                .push(proto::ProgressItem {
                    handle,
                    generation: session.channel.generation,
                    accepted,
                    settled: session.channel.incoming.settled,
                    released,
                });
        }
        if session.channel.copies.redundant_copies.is_some() {
            self.release_previous(core, id);
        }
    }
}
