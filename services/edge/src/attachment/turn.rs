//! One batch of frames from a router, worked in the thread that read it.
//!
//! No session is woken and nothing is waited for. What the batch put on wires is flushed at its
//! end, each wire once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::trace::span_from_traceparent;
use sestina_xmpp::stanza::Stanza;
use tracing::Span;

use super::hands::{Guard, Hands, Lock as _};
use super::held::Delivery;
use super::outbound::Taken;
use super::slots::Slot;
use super::state::{Session, State};
use super::{Attachments, slot_of_handle};
use crate::metrics::Count;

/// What a delivery brings, for all its receivers here.
pub struct Payload {
    /// It itself.
    pub stanza: Arc<Delivery>,
    /// Its bytes.
    pub weight: usize,
    /// The key of its slot message.
    pub key: Option<proto::Key>,
    /// When its sender's edge read it, on this process's clock, if that is known.
    pub read: Option<Instant>,
    /// When it came here, in milliseconds since 1970.
    pub at_ms: i64,
    /// Ends when the last socket has it; disabled unless it is sampled.
    pub span: Span,
}

/// The sessions touched by a batch, and the slots of which it had frames of an older epoch.
pub struct Turn<H: Hands> {
    touched: Vec<Arc<Session<H>>>,
    /// By slot, the epoch that is known here.
    refused: BTreeMap<u32, u64>,
}

impl<H: Hands> Turn<H> {
    fn touch(&mut self, session: &Arc<Session<H>>, state: &mut State<H>) {
        if !std::mem::replace(&mut state.touched, true) {
            self.touched.push(Arc::clone(session));
        }
    }

    fn finish(self, hands: &H) -> BTreeMap<u32, u64> {
        for session in &self.touched {
            session.finish_turn(hands);
        }
        self.refused
    }
}

impl<H: Hands> Attachments<H> {
    /// Works a batch. Returns its acknowledgement for the router, which names the slots of which frames were refused
    /// because another router owns them now. No lane refuses it, and it is of no use on another opening of the lane.
    pub fn take_batch(
        &self,
        hands: &H,
        route: &H::Route,
        batch: proto::ToEdgeBatch,
    ) -> proto::ToRouter {
        failpoint!("edge.delivering");
        let (worker, seq) = (batch.worker, batch.seq);
        let mut turn = Turn {
            touched: Vec::new(),
            refused: BTreeMap::new(),
        };
        for frame in batch.frames {
            self.take_frame(hands, route, frame, &mut turn);
        }
        let refused = turn.finish(hands);
        self.send_parts(hands);
        failpoint!("edge.delivered");
        let (refused_slots, refused_epochs) = refused.into_iter().unzip();
        let ack = proto::to_router::Body::LaneAck(proto::LaneAck {
            worker,
            seq,
            refused_slots,
            refused_epochs,
        });
        proto::ToRouter {
            slot: 0,
            epoch: 0,
            body: Some(ack),
        }
    }

    fn take_frame(&self, hands: &H, route: &H::Route, frame: proto::ToEdge, turn: &mut Turn<H>) {
        let Some(body) = frame.body else {
            hands.metrics().count(Count::UnknownFrame, 1);
            tracing::debug!(
                router = hands.name(route),
                "a frame of an unknown kind was ignored"
            );
            return;
        };
        match body {
            // The lane takes these.
            Body::Welcome(_) | Body::TicketKeys(_) => return,
            Body::SlotMap(map) => return hands.learn(map),
            Body::Deliver(deliver) => return self.take_deliver(hands, route, deliver, turn),
            _ => {}
        }
        let Some(cell) = self.slots.get(frame.slot as usize) else {
            tracing::warn!(
                slot = frame.slot,
                router = hands.name(route),
                "no such slot"
            );
            return;
        };
        let number = frame.slot as u16;
        let mut slot = cell.lock();
        match body {
            Body::InstallEpoch(install) => {
                if !self.install_epoch(hands, number, &mut slot, route, frame.epoch, &install) {
                    turn.refused.insert(frame.slot, slot.epoch);
                }
                return;
            }
            Body::Redirect(redirect) => {
                return self.take_redirect(hands, number, &mut slot, route, &redirect);
            }
            _ => {}
        }
        if is_of_owner(hands, &mut slot, route, frame.epoch) {
            self.take_owned(hands, number, &mut slot, body, turn);
        } else {
            turn.refused.insert(frame.slot, slot.epoch);
        }
    }

    /// A frame of the slot's owner.
    fn take_owned(
        &self,
        hands: &H,
        number: u16,
        slot: &mut Slot<H>,
        body: Body,
        turn: &mut Turn<H>,
    ) {
        match body {
            Body::Progress(progress) => {
                for item in &progress.items {
                    let Some(session) = session(hands, slot, item.handle, item.generation) else {
                        continue;
                    };
                    let mut state = session.state.lock();
                    if session.take_progress(hands, &mut state, item) {
                        turn.touch(session, &mut state);
                    }
                }
            }
            Body::Bound(bound) => {
                if let Some(session) = self.take_bound(hands, number, slot, &bound) {
                    turn.touch(&session, &mut session.state.lock());
                }
            }
            Body::Resumed(resumed) => {
                if let Some(session) = self.take_resumed(hands, number, slot, &resumed) {
                    turn.touch(&session, &mut session.state.lock());
                }
            }
            Body::Refused(refused) => self.take_refused(hands, slot, refused),
            Body::SmEnabled(enabled) => {
                let Some(session) = session(hands, slot, enabled.handle, enabled.generation) else {
                    return;
                };
                let mut state = session.state.lock();
                if session.enabled(&mut state, &enabled) {
                    turn.touch(session, &mut state);
                }
            }
            Body::Close(close) => {
                let Some(session) = session(hands, slot, close.handle, close.generation) else {
                    return;
                };
                if close.keep {
                    if failpoint!("edge.session_left") {
                        return;
                    }
                    session.supersede(hands, &close.condition, &close.text, close.ended);
                } else {
                    session.dismiss(hands, &close.condition, &close.text);
                    self.remove_session(hands, slot, close.handle);
                }
            }
            Body::KeepState(keep) => {
                if let Some(session) = session(hands, slot, keep.handle, keep.generation) {
                    // A slice would keep the whole decode buffer alive.
                    let record = Bytes::copy_from_slice(&keep.state);
                    let before =
                        std::mem::replace(&mut session.state.lock().record, record.clone());
                    self.rooms.changed(hands, session, &before, &record);
                }
            }
            Body::Detached(detached) => {
                let Some(session) = session(hands, slot, detached.handle, detached.generation)
                else {
                    return;
                };
                if failpoint!("edge.session_left") {
                    return;
                }
                session.detached(hands);
                self.remove_session(hands, slot, detached.handle);
            }
            Body::Restored(restored) => self.take_restored(hands, number, slot, &restored),
            Body::AskMembers(ask) => self.tell_members(hands, number, slot, ask.members),
            Body::Deliver(_)
            | Body::InstallEpoch(_)
            | Body::Redirect(_)
            | Body::SlotMap(_)
            | Body::TicketKeys(_)
            | Body::Welcome(_) => {}
        }
    }

    /// One payload for sessions of many slots.
    fn take_deliver(
        &self,
        hands: &H,
        route: &H::Route,
        deliver: proto::Deliver,
        turn: &mut Turn<H>,
    ) {
        let (now, at_ms) = (hands.now(), hands.wall_ms());
        let variants: Vec<Payload> = deliver
            .variants
            .into_iter()
            .map(|variant| {
                let mut stanza = Stanza::from(variant.stanza.unwrap_or_default());
                // It stays in queues, and a slice would keep the whole decode buffer alive.
                stanza.payload = Bytes::copy_from_slice(&stanza.payload);
                Payload {
                    weight: stanza.weight(),
                    stanza: self.held.delivery(stanza),
                    key: variant.key,
                    at_ms,
                    read: (variant.age_us > 0)
                        .then(|| now.checked_sub(Duration::from_micros(variant.age_us.into())))
                        .flatten(),
                    span: span_from_traceparent("deliver", &variant.trace),
                }
            })
            .collect();
        let mut taken = 0;
        let mut locked: Option<(u16, Guard<'_, H, Slot<H>>)> = None;
        for target in &deliver.targets {
            let number = slot_of_handle(target.handle);
            if locked.as_ref().is_none_or(|(held, _)| *held != number) {
                // One slot at a time: the old lock goes before the new one is taken.
                drop(locked.take());
                let cell = self.slots.get(usize::from(number));
                locked = cell.map(|cell| (number, cell.lock()));
            }
            let Some((_, slot)) = &mut locked else {
                continue;
            };
            if !is_of_owner(hands, slot, route, target.epoch) {
                turn.refused.insert(number.into(), slot.epoch);
                continue;
            }
            let Some(session) = session(hands, slot, target.handle, target.generation) else {
                continue;
            };
            let Some(payload) = variants.get(target.variant as usize) else {
                tracing::warn!(
                    variant = target.variant,
                    "a delivery names no variant of its frame"
                );
                continue;
            };
            let mut state = session.state.lock();
            match session.deliver(hands, &mut state, target.number, payload) {
                Taken::Held => {
                    taken += 1;
                    turn.touch(session, &mut state);
                }
                Taken::Repeated => hands.metrics().count(Count::Repeated, 1),
                Taken::Gap => {
                    hands.metrics().count(Count::NumberGap, 1);
                    tracing::warn!(
                        number = target.number,
                        last = state.outgoing.last,
                        "a delivery leaves a gap; the socket is cut so that the client resumes"
                    );
                    session.lose_locked(hands, &mut state);
                }
            }
        }
        hands.metrics().count(Count::StanzaOut, taken);
    }
}

/// Whether something of this epoch is to be taken. A higher one than known is believed: only
/// an owner has it.
fn is_of_owner<H: Hands>(hands: &H, slot: &mut Slot<H>, route: &H::Route, epoch: u64) -> bool {
    if epoch < slot.epoch && guard!("epoch") {
        hands.metrics().count(Count::RefusedEpoch, 1);
        return false;
    }
    if epoch > slot.epoch {
        slot.raise(hands, epoch, Some(route.clone()));
    } else if slot.route.is_none() {
        slot.route = Some(route.clone());
    }
    true
}

/// The session of a handle, unless the frame is for an older attachment.
fn session<'a, H: Hands>(
    hands: &H,
    slot: &'a Slot<H>,
    handle: u64,
    generation: u32,
) -> Option<&'a Arc<Session<H>>> {
    let session = slot.sessions.get(&handle)?;
    if generation < session.generation && guard!("generation") {
        hands.metrics().count(Count::RefusedGeneration, 1);
        return None;
    }
    Some(session)
}
