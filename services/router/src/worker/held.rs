//! A slot message or room event for a slot that is being taken is held until the slot serves, so that no process asks
//! again and again.

use sestina_api::key::IdempotencyKey;
use sestina_proto as proto;

use super::core::{Core, PeerRef};
use super::operations::RoomAckParts;
use super::receive::{Asker, refuse_message};
use super::slot::{Phase, Slot};
use crate::room::room_ack;

/// Bytes of slot messages and events that a slot holds while it is taken; more are refused.
const HELD_BYTES: usize = 1 << 20;

/// Whom an event is for.
fn sessions(event: &proto::RoomEvent) -> impl Iterator<Item = (u64, u64, u32)> {
    let targets = event.targets.iter();
    targets.map(|target| (target.session_hi, target.session_lo, target.variant))
}

impl Slot {
    /// Keeps a slot message for when the slot serves; returns those that it cannot keep.
    pub(crate) fn hold_message(
        &mut self,
        from: PeerRef,
        message: proto::SlotMessage,
    ) -> Option<proto::SlotMessage> {
        let Phase::Taking(taking) = &mut self.phase else {
            return Some(message);
        };
        let bytes = 256 + message.stanza.as_ref().map_or(0, |s| s.payload.len());
        if taking.held_bytes + bytes > HELD_BYTES {
            return Some(message);
        }
        taking.held_bytes += bytes;
        taking.held.push((from, message));
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

    /// A process that waits for an answer to what is held asks another owner: this one will not answer.
    pub(crate) fn refuse_held(&mut self, core: &mut Core) {
        let Phase::Taking(taking) = &mut self.phase else {
            return;
        };
        for (peer, message) in std::mem::take(&mut taking.held) {
            if let Some(key) = message.key.as_ref().map(IdempotencyKey::from) {
                let origin_slot = u16::try_from(message.origin_slot).unwrap_or(u16::MAX);
                let asker = Asker {
                    peer,
                    origin_slot,
                    stream: message.stream,
                };
                refuse_message(core, self.slot, asker, key);
            }
        }
        for (peer, event) in std::mem::take(&mut taking.held_events) {
            let Some(key) = event.key.as_ref().map(IdempotencyKey::from) else {
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
