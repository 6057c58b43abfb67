//! One batch of frames from a router, worked in the thread that read it.
//!
//! No session is woken and nothing is waited for. What the batch put on wires is flushed at its
//! end, each wire once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::MutexGuard;
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::clock::wall_ms;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::trace::span_from_traceparent;
use sestina_xmpp::stanza::Stanza;
use tracing::Span;

use super::lane::LaneSet;
use super::slots::Slot;
use crate::metrics::Count;
use crate::session::outbound::Taken;
use crate::session::state::{Session, State};
use crate::shared::{Shared, slot_of_handle};

/// What a delivery brings, for all its receivers here.
pub(crate) struct Payload {
    pub(crate) stanza: Arc<Stanza>,
    pub(crate) weight: usize,
    pub(crate) key: Option<proto::Key>,
    /// When its sender's edge read it, on this process's clock, if that is known.
    pub(crate) read: Option<Instant>,
    /// When it came here, in milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Ends when the last socket has it; disabled unless it is sampled.
    pub(crate) span: Span,
}

/// The sessions touched by a batch, and the slots of which something was refused by its epoch.
#[derive(Default)]
pub(crate) struct Turn {
    touched: Vec<Arc<Session>>,
    refused: BTreeSet<u32>,
}

impl Turn {
    fn touch(&mut self, session: &Arc<Session>, state: &mut State) {
        if !std::mem::replace(&mut state.touched, true) {
            self.touched.push(Arc::clone(session));
        }
    }

    fn finish(self, shared: &Shared) -> Vec<u32> {
        for session in &self.touched {
            session.finish_turn(shared);
        }
        self.refused.into_iter().collect()
    }
}

impl Shared {
    /// Works a batch; tells the slots of which it refused something because another owns them now.
    /// `None` if nothing of it was taken: this edge has no lease any more.
    pub(crate) fn take_batch(
        self: &Arc<Self>,
        set: &Arc<LaneSet>,
        batch: proto::ToEdgeBatch,
    ) -> Option<Vec<u32>> {
        if !self.check_lease() {
            return None;
        }
        failpoint!("edge.delivering");
        let mut turn = Turn::default();
        for frame in batch.frames {
            self.take_frame(set, frame, &mut turn);
        }
        let refused = turn.finish(self);
        failpoint!("edge.delivered");
        Some(refused)
    }

    fn take_frame(self: &Arc<Self>, set: &Arc<LaneSet>, frame: proto::ToEdge, turn: &mut Turn) {
        let Some(body) = frame.body else {
            tracing::debug!(router = %set.router.name, "a frame of an unknown kind was ignored");
            return;
        };
        match body {
            Body::Welcome(_) => return,
            Body::SlotMap(map) => return self.learn(map),
            Body::Deliver(deliver) => return self.take_deliver(set, deliver, turn),
            _ => {}
        }
        let Some(cell) = self.slots.get(frame.slot as usize) else {
            tracing::warn!(slot = frame.slot, router = %set.router.name, "no such slot");
            return;
        };
        let number = frame.slot as u16;
        let mut slot = cell.lock();
        match body {
            Body::InstallEpoch(install) => {
                return self.install_epoch(number, &mut slot, set, frame.epoch, &install);
            }
            Body::Redirect(redirect) => {
                return self.take_redirect(number, &mut slot, set, &redirect);
            }
            _ => {}
        }
        if self.is_of_owner(&mut slot, set, frame.epoch) {
            self.take_owned(number, &mut slot, body, turn);
        } else {
            turn.refused.insert(frame.slot);
        }
    }

    /// Whether something of this epoch is to be taken. A higher one than known is believed: only
    /// an owner has it.
    fn is_of_owner(&self, slot: &mut Slot, set: &Arc<LaneSet>, epoch: u64) -> bool {
        if epoch < slot.epoch && guard!("epoch") {
            self.metrics.count(Count::RefusedEpoch, 1);
            return false;
        }
        if epoch > slot.epoch {
            slot.raise(epoch, Some(Arc::clone(set)));
        } else if slot.route.is_none() {
            slot.route = Some(Arc::clone(set));
        }
        true
    }

    /// A frame of the slot's owner.
    fn take_owned(&self, number: u16, slot: &mut Slot, body: Body, turn: &mut Turn) {
        match body {
            Body::Progress(progress) => {
                for item in &progress.items {
                    let Some(session) = self.session(slot, item.handle, item.generation) else {
                        continue;
                    };
                    let mut state = session.state.lock();
                    if session.take_progress(self, &mut state, item) {
                        turn.touch(session, &mut state);
                    }
                }
            }
            Body::Bound(bound) => {
                if let Some(session) = self.take_bound(number, slot, &bound) {
                    turn.touch(&session, &mut session.state.lock());
                }
            }
            Body::Resumed(resumed) => {
                if let Some(session) = self.take_resumed(number, slot, &resumed) {
                    turn.touch(&session, &mut session.state.lock());
                }
            }
            Body::Refused(refused) => self.take_refused(slot, refused),
            Body::SmEnabled(enabled) => {
                let Some(session) = self.session(slot, enabled.handle, enabled.generation) else {
                    return;
                };
                let mut state = session.state.lock();
                if session.enabled(&mut state, &enabled) {
                    turn.touch(session, &mut state);
                }
            }
            Body::Close(close) => {
                let Some(session) = self.session(slot, close.handle, close.generation) else {
                    return;
                };
                if close.keep {
                    if failpoint!("edge.session_left") {
                        return;
                    }
                    session.supersede(self, &close.condition, &close.text, close.ended);
                } else {
                    session.dismiss(self, &close.condition, &close.text);
                    self.remove_session(slot, close.handle);
                }
            }
            Body::KeepState(keep) => {
                if let Some(session) = self.session(slot, keep.handle, keep.generation) {
                    // A slice would keep the whole decode buffer alive.
                    let record = Bytes::copy_from_slice(&keep.state);
                    let before =
                        std::mem::replace(&mut session.state.lock().record, record.clone());
                    self.record_changed(session, &before, &record);
                }
            }
            Body::Detached(detached) => {
                let Some(session) = self.session(slot, detached.handle, detached.generation) else {
                    return;
                };
                if failpoint!("edge.session_left") {
                    return;
                }
                session.detached(self);
                self.remove_session(slot, detached.handle);
            }
            Body::Restored(restored) => self.take_restored(number, slot, &restored),
            Body::AskMembers(ask) => self.tell_members(number, slot, ask.rooms),
            Body::Deliver(_)
            | Body::InstallEpoch(_)
            | Body::Redirect(_)
            | Body::SlotMap(_)
            | Body::Welcome(_) => {}
        }
    }

    /// The session of a handle, unless the frame is for an older attachment.
    fn session<'a>(
        &self,
        slot: &'a Slot,
        handle: u64,
        generation: u32,
    ) -> Option<&'a Arc<Session>> {
        let session = slot.sessions.get(&handle)?;
        if generation < session.generation && guard!("generation") {
            self.metrics.count(Count::RefusedGeneration, 1);
            return None;
        }
        Some(session)
    }

    /// One payload for sessions of many slots.
    fn take_deliver(&self, set: &Arc<LaneSet>, deliver: proto::Deliver, turn: &mut Turn) {
        let (now, at_ms) = (Instant::now(), wall_ms());
        let variants: Vec<Payload> = deliver
            .variants
            .into_iter()
            .map(|variant| {
                let mut stanza = Stanza::from(variant.stanza.unwrap_or_default());
                // It stays in queues, and a slice would keep the whole decode buffer alive.
                stanza.payload = Bytes::copy_from_slice(&stanza.payload);
                Payload {
                    weight: stanza.weight(),
                    stanza: Arc::new(stanza),
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
        let mut locked: Option<(u16, MutexGuard<'_, Slot>)> = None;
        for target in &deliver.targets {
            let number = slot_of_handle(target.handle);
            if locked.as_ref().is_none_or(|(held, _)| *held != number) {
                // One slot at a time: the old lock goes before the new one is taken.
                drop(locked.take());
                locked = Some((number, self.slots[usize::from(number)].lock()));
            }
            let Some((_, slot)) = &mut locked else {
                continue;
            };
            if !self.is_of_owner(slot, set, target.epoch) {
                turn.refused.insert(number.into());
                continue;
            }
            let Some(session) = self.session(slot, target.handle, target.generation) else {
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
            match session.deliver(self, &mut state, target.number, payload) {
                Taken::Held => {
                    taken += 1;
                    turn.touch(session, &mut state);
                }
                Taken::Repeated => self.metrics.count(Count::Repeated, 1),
                Taken::Gap => {
                    self.metrics.count(Count::NumberGap, 1);
                    tracing::warn!(
                        number = target.number,
                        last = state.out_last,
                        "a delivery leaves a gap; the socket is cut so that the client resumes"
                    );
                    session.lose_locked(self, &mut state);
                }
            }
        }
        self.metrics.count(Count::StanzaOut, taken);
    }
}
