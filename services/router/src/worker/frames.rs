//! Frames of edges and routers, each to the row that it is for.

use sestina_api::key::{IdempotencyKey, join};
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_proto::to_router::Body as RouterBody;
use sestina_runtime::guard;
use sestina_telemetry::Lane;

use super::core::{Core, LaneRef, PeerRef};
use super::handover_states;
use super::lanes::InFlight;
use super::receive::{Asker, refuse_message};
use super::trace_context::TraceContext;
use super::turn::Worker;

impl Worker {
    pub(super) fn edge_frame(&mut self, lane: LaneRef, frame: proto::ToRouter) {
        let number = u16::try_from(frame.slot).unwrap_or(u16::MAX);
        let Some(body) = frame.body else {
            // A later version sends it, and waits for no answer.
            return self.core.metrics.unknown_frame(Lane::EdgeRouter);
        };
        if let RouterBody::LaneAck(ack) = body {
            return self.lane_ack(lane, &ack);
        }
        let core = &mut self.core;
        let slot = self.slots.get_mut(number);
        let taking = slot.as_ref().is_some_and(|s| s.epoch == frame.epoch);
        match body {
            RouterBody::EpochReport(report) => {
                if let Some(slot) = slot.filter(|_| taking) {
                    slot.edge_reported(core, lane, report);
                }
                return;
            }
            RouterBody::RoomMembers(part) => {
                if let Some(slot) = slot.filter(|_| taking) {
                    slot.edge_members(core, lane, part);
                }
                return;
            }
            _ => {}
        }
        // A slot that is quiescing takes nothing new, but what it sent is acknowledged to it.
        let acked = matches!(body, RouterBody::Acked(_));
        let serving = slot.filter(|s| s.is_active() || (acked && s.is_serving()));
        let Some(slot) = serving else {
            return redirect(core, lane, number, frame.epoch, &body);
        };
        match body {
            RouterBody::Inbound(inbound) => {
                let (trace_context, span) =
                    TraceContext::of(inbound.age_us, &inbound.trace, "route");
                core.trace_context = trace_context;
                span.in_scope(|| slot.inbound(core, lane, inbound));
                core.trace_context = TraceContext::default();
            }
            RouterBody::Acked(acked) => slot.acked(core, lane, acked),
            RouterBody::Asked(asked) => slot.asked(core, lane, &asked),
            RouterBody::Bind(bind) => slot.bind(core, lane, bind),
            RouterBody::Resume(resume) => slot.resume(core, lane, resume),
            RouterBody::EnableSm(enable) => slot.enable_sm(core, lane, enable),
            RouterBody::Close(close) => slot.closed(core, lane, close),
            RouterBody::Hello(_)
            | RouterBody::LaneAck(_)
            | RouterBody::EpochReport(_)
            | RouterBody::RoomMembers(_) => {}
        }
    }

    fn lane_ack(&mut self, lane: LaneRef, ack: &proto::LaneAck) {
        for (number, known) in ack.refused_slots.iter().zip(&ack.refused_epochs) {
            self.outranked(u16::try_from(*number).unwrap_or(u16::MAX), *known);
        }
        for (number, what) in self.core.lane_acked(lane, ack.seq) {
            let refused = ack.refused_slots.contains(&u32::from(number));
            if refused && guard!("refused-slots") {
                // Another owns the slot: that edge has told it what it holds, without this.
                continue;
            }
            let core = &mut self.core;
            if let InFlight::State { operation } = what {
                core.part_done(operation);
            }
            let Some(slot) = self.slots.get_mut(number) else {
                continue;
            };
            match what {
                InFlight::Delivery {
                    generation,
                    session,
                    number,
                } => slot.deliveries_held(core, lane, session, generation, number),
                InFlight::Attached {
                    attached_no,
                    session,
                } => slot.attachment_held(core, session, attached_no),
                InFlight::Settled { session, settled } => {
                    slot.watermark_reached(core, session, settled)
                }
                InFlight::Gone { session, handle } => slot.holder_gone(core, session, lane, handle),
                InFlight::State { .. } => {}
            }
        }
        // Those that waited for room, in turns.
        while let Some((number, id)) = self.core.next_waiting(lane) {
            if let Some(slot) = self.slots.get_mut(number) {
                slot.lane_room(&mut self.core, id);
            }
        }
    }

    pub(super) fn peer_frame(&mut self, from: PeerRef, frame: proto::PeerFrame) {
        let number = u16::try_from(frame.slot).unwrap_or(u16::MAX);
        let core = &mut self.core;
        match frame.body {
            Some(PeerBody::SlotMessage(message)) => {
                self.slot_message(from, (number, frame.epoch), message);
            }
            Some(PeerBody::SlotMessageAck(done)) => {
                if let Some(slot) = self.slots.get_mut(number).filter(|s| s.is_serving()) {
                    slot.message_answered(core, done);
                }
            }
            Some(PeerBody::Watermarks(watermarks)) => {
                if let Some(slot) = self.slots.get_mut(number).filter(|s| s.is_serving()) {
                    for watermark in watermarks.watermarks {
                        slot.watermark(
                            core,
                            join(watermark.origin_hi, watermark.origin_lo),
                            watermark.watermark,
                        );
                    }
                }
            }
            Some(PeerBody::RoomEvent(event)) => self.take_room_event(from, event),
            Some(PeerBody::RoomAck(ack)) => {
                if let Some(slot) = self.slots.get_mut(number).filter(|s| s.is_serving()) {
                    slot.room_acked(core, ack);
                }
            }
            Some(PeerBody::InstallEpoch(_)) => self.install_epoch(from, number, frame.epoch),
            Some(PeerBody::EpochInstalled(installed)) => {
                self.epoch_installed(from, (number, frame.epoch), installed);
            }
            Some(PeerBody::UserChanged(changed)) => {
                if let Some(slot) = self.slots.get_mut(number).filter(|_| changed.close) {
                    slot.close_user(core, &changed.bare);
                }
            }
            Some(PeerBody::WatermarkQuery(query)) => {
                // Only an owner that has restored everything knows whom it does not know.
                if let Some(slot) = self.slots.get_mut(number).filter(|s| s.is_serving()) {
                    slot.answer_watermarks(core, from, &query);
                }
            }
            Some(PeerBody::RoomAsk(ask)) => self.room_ask(from, &ask),
            Some(PeerBody::RoomTold(told)) => {
                if let Some(slot) = self.slots.get_mut(number) {
                    slot.room_told(core, from, told);
                }
            }
            Some(PeerBody::RoomHeard(heard)) => {
                if let Some(slot) = self.slots.get_mut(number) {
                    slot.room_heard(&heard);
                }
            }
            Some(PeerBody::RoomCheck(check)) => {
                // Only an owner that has restored everything knows who is not there.
                if let Some(slot) = self.slots.get_mut(number).filter(|s| s.is_serving()) {
                    slot.room_asks(core, from, &check);
                }
            }
            Some(PeerBody::RoomChecked(checked)) => {
                if let Some(slot) = self.slots.get_mut(number).filter(|s| s.is_active()) {
                    slot.room_checked(core, &checked);
                }
            }
            // The process, not a worker, handles the rest.
            Some(PeerBody::Hello(_) | PeerBody::SlotMap(_) | PeerBody::HandOver(_)) => {}
            // A later version sends it, and waits for no answer.
            None => core.metrics.unknown_frame(Lane::Peer),
        }
    }

    fn slot_message(
        &mut self,
        from: PeerRef,
        (number, epoch): (u16, u64),
        message: proto::SlotMessage,
    ) {
        let core = &mut self.core;
        let slot = self.slots.get_mut(number);
        if let Some(slot) = slot.filter(|s| s.epoch == epoch) {
            let (trace_context, span) = TraceContext::of(message.age_us, &message.trace, "receive");
            core.trace_context = trace_context;
            span.in_scope(|| slot.slot_message(core, from, message));
            core.trace_context = TraceContext::default();
        } else if let Some(key) = message.key.as_ref().map(IdempotencyKey::from) {
            let asker = Asker {
                peer: from,
                origin_slot: u16::try_from(message.origin_slot).unwrap_or(u16::MAX),
                stream: message.stream,
            };
            refuse_message(core, number, asker, key);
        }
    }

    /// A new owner installs its epoch here: it is answered with the copy that this process has if it had the slot.
    fn install_epoch(&mut self, from: PeerRef, number: u16, epoch: u64) {
        self.core.admit_epoch(number, epoch);
        self.lose(number, epoch);
        let state = self.handover_states.take(number, epoch);
        let installed = proto::PeerEpochInstalled {
            node: Some(self.core.me.node.clone()),
            state,
            known: self.core.known_epoch(number),
        };
        let answer = proto::PeerFrame {
            slot: u32::from(number),
            epoch,
            body: Some(PeerBody::EpochInstalled(installed)),
        };
        self.core.send_peer(from, answer);
        let releases = &self.core.owners.unconfirmed_releases;
        releases.installed(number, epoch);
    }

    fn epoch_installed(
        &mut self,
        from: PeerRef,
        (number, epoch): (u16, u64),
        installed: proto::PeerEpochInstalled,
    ) {
        if installed.known > epoch {
            return self.outranked(number, installed.known);
        }
        let slot = self.slots.get_mut(number);
        if let Some(slot) = slot.filter(|s| s.epoch == epoch) {
            // Before this router counts as told: its copy may be newer than what was loaded.
            if let Some(state) = installed.state {
                slot.take_state(&mut self.core, handover_states::loaded(state));
            }
            slot.node_done(&mut self.core, from.0);
        }
    }

    pub(super) fn take_room_event(&mut self, from: PeerRef, event: proto::RoomEvent) {
        let (trace_context, span) = TraceContext::of(event.age_us, &event.trace, "room_event");
        self.core.trace_context = trace_context;
        span.in_scope(|| crate::room::room_event(&mut self.slots, &mut self.core, from, event));
        self.core.trace_context = TraceContext::default();
    }
}

/// Nothing from this frame on was taken: the edge asks the owner that the next table names.
fn redirect(core: &mut Core, lane: LaneRef, slot: u16, epoch: u64, body: &RouterBody) {
    let (handle, generation, n) = match body {
        RouterBody::Inbound(i) => (i.handle, i.generation, i.n),
        RouterBody::Bind(b) => (b.handle, 0, 0),
        RouterBody::Resume(r) => (r.handle, 0, 0),
        RouterBody::EnableSm(e) => (e.handle, e.generation, 0),
        RouterBody::Close(c) => (c.handle, c.generation, 0),
        // Acknowledgements are told again with every report.
        _ => return,
    };
    core.metrics.redirected();
    let body = EdgeBody::Redirect(proto::Redirect {
        handle,
        generation,
        n,
    });
    let known = core.known_epoch(slot).max(epoch);
    core.send_edge(lane, slot, known, body);
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "unknown_tests.rs"]
mod unknown;
