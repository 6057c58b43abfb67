//! What comes for a slot while it is being taken is held until the slot serves, so that nobody asks
//! again and again.

use sestina_api::key::EffectKey;
use sestina_proto as proto;

use super::core::{Core, PeerRef};
use super::receive::{Asker, refuse_effect};
use super::slot::{Phase, Slot};
use super::work::RoomAckParts;
use crate::room::room_ack;

/// Bytes of effects and events that a slot holds while it is taken; more are refused.
const HELD_BYTES: usize = 1 << 20;

/// Whom an event is for.
fn sessions(event: &proto::RoomEvent) -> impl Iterator<Item = (u64, u64, u32)> {
    let targets = event.targets.iter();
    targets.map(|target| (target.session_hi, target.session_lo, target.variant))
}

impl Slot {
    /// Keeps an effect for when the slot serves; returns those that it cannot keep.
    pub(crate) fn hold_effect(
        &mut self,
        from: PeerRef,
        effect: proto::Effect,
    ) -> Option<proto::Effect> {
        let Phase::Taking(taking) = &mut self.phase else {
            return Some(effect);
        };
        let bytes = 256 + effect.stanza.as_ref().map_or(0, |s| s.payload.len());
        if taking.held_bytes + bytes > HELD_BYTES {
            return Some(effect);
        }
        taking.held_bytes += bytes;
        taking.held.push((from, effect));
        None
    }

    /// Keeps an event of a room for when the slot serves; returns it if it cannot.
    pub(crate) fn hold_event(
        &mut self,
        from: PeerRef,
        event: proto::RoomEvent,
    ) -> Option<proto::RoomEvent> {
        let Phase::Taking(taking) = &mut self.phase else {
            return Some(event);
        };
        // The room asks again while this waits: one answer to the last question is enough.
        let again = |held: &&mut (PeerRef, proto::RoomEvent)| {
            held.1.key == event.key && sessions(&held.1).eq(sessions(&event))
        };
        if let Some(held) = taking.held_events.iter_mut().find(again) {
            *held = (from, event);
            return None;
        }
        let payloads = event.variants.iter().map(|v| 128 + v.payload.len());
        let bytes = 256 + payloads.sum::<usize>() + event.targets.len() * 48;
        if taking.held_bytes + bytes > HELD_BYTES {
            return Some(event);
        }
        taking.held_bytes += bytes;
        taking.held_events.push((from, event));
        None
    }

    /// Whoever waits for an answer to what is held asks another owner: there will be no answer.
    pub(crate) fn refuse_held(&mut self, core: &mut Core) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        for (peer, effect) in std::mem::take(&mut taking.held) {
            if let Some(key) = effect.key.as_ref().map(EffectKey::from) {
                let origin_slot = u16::try_from(effect.origin_slot).unwrap_or(u16::MAX);
                let asker = Asker {
                    peer,
                    origin_slot,
                    stream: effect.stream,
                };
                refuse_effect(core, self.slot, asker, key);
            }
        }
        for (peer, event) in std::mem::take(&mut taking.held_events) {
            let Some(key) = event.key.as_ref().map(EffectKey::from) else {
                continue;
            };
            let parts = RoomAckParts {
                not_owner: vec![self.slot],
                ..RoomAckParts::default()
            };
            let frame = proto::PeerFrame {
                slot: event.room_slot,
                epoch: event.room_epoch,
                body: Some(proto::peer_frame::Body::RoomAck(room_ack(key, parts))),
            };
            core.send_peer(peer, frame);
        }
    }
}
