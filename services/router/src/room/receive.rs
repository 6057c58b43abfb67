//! A room's event at the owner of its receivers' sessions: an append for each, and one answer.

use std::collections::{BTreeMap, BTreeSet};

use sestina_api::key::{IdempotencyKey, Purpose, join, split};
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;

use super::incoming::Incoming;
use crate::worker::Slots;
use crate::worker::channel::Source;
use crate::worker::core::{Core, PeerRef};
use crate::worker::operations::{OnDone, OperationId, RoomAckParts};
use crate::worker::slot::Slot;

/// Handles the part of an event that is for sessions of this worker.
pub(crate) fn room_event(
    slots: &mut Slots,
    core: &mut Core,
    from: PeerRef,
    event: proto::RoomEvent,
) {
    let Some(key) = event.key.as_ref().map(IdempotencyKey::from) else {
        return;
    };
    let room_slot = u16::try_from(event.room_slot).unwrap_or(u16::MAX);
    if !core.admit_epoch(room_slot, event.room_epoch) {
        core.metrics.refused_epoch();
        return;
    }
    failpoint!("router.room_received");
    let ack = Box::new(RoomAckParts::default());
    let done = OnDone::RoomEvent {
        from,
        room_slot,
        room_epoch: event.room_epoch,
        key,
        ack,
    };
    let operation = core.operations.open(done);
    let mut said = Incoming::new(core, event.variants);
    let mut refused: BTreeSet<u16> = BTreeSet::new();
    let mut held: BTreeMap<u16, Vec<proto::RoomTarget>> = BTreeMap::new();
    let mut done: BTreeSet<u16> = BTreeSet::new();
    let mut gone = Vec::new();
    for target in &event.targets {
        let slot_number = u16::try_from(target.slot).unwrap_or(u16::MAX);
        // Each session for itself: one that is out of order must not cut the event of another.
        let session = join(target.session_hi, target.session_lo);
        let slot = match slots.get_mut(slot_number) {
            Some(slot) if slot.takes_events() => slot,
            // It serves in a moment, and the room need not ask again and again.
            Some(slot) if slot.is_taking() => {
                held.entry(slot_number).or_default().push(*target);
                continue;
            }
            _ => {
                refused.insert(slot_number);
                continue;
            }
        };
        let key = IdempotencyKey::indexed(key.origin, key.n, Purpose::RoomEvent, target.variant);
        match slot.take_room_event(
            core,
            session,
            key,
            target,
            event.watermark,
            &mut said,
            operation,
        ) {
            Taken::Yes => {
                done.insert(slot_number);
            }
            Taken::Gone => {
                done.insert(slot_number);
                gone.push((slot_number, session));
            }
            Taken::OutOfOrder => {
                refused.insert(slot_number);
            }
        }
    }
    for (slot_number, targets) in held {
        let part = proto::RoomEvent {
            key: event.key,
            room_slot: event.room_slot,
            room_epoch: event.room_epoch,
            watermark: event.watermark,
            variants: said.all(),
            targets,
            trace: event.trace.clone(),
            age_us: event.age_us,
        };
        let slot = slots.get_mut(slot_number);
        if slot.is_none_or(|slot| slot.hold_event(from, part).is_some()) {
            refused.insert(slot_number);
        }
    }
    if let Some(OnDone::RoomEvent { ack, .. }) = core.operations.done_mut(operation) {
        ack.done = done.difference(&refused).copied().collect();
        ack.not_owner = refused.into_iter().collect();
        ack.gone = gone;
    }
    core.part_done(operation);
}

/// What became of an event at one session.
enum Taken {
    Yes,
    Gone,
    OutOfOrder,
}

impl Slot {
    #[allow(clippy::too_many_arguments)]
    fn take_room_event(
        &mut self,
        core: &mut Core,
        id: u128,
        key: IdempotencyKey,
        target: &proto::RoomTarget,
        watermark: u64,
        said: &mut Incoming,
        operation: OperationId,
    ) -> Taken {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Taken::Gone;
        };
        if session.channel.is_ending() {
            // The session tells the room that it leaves, after the stanzas that its client has sent there. Were
            // it reported as gone, the room could remove it first, and refuse those.
            return Taken::Yes;
        }
        let previous = target.previous;
        let last = session.channel.outgoing.room_seq.get(&key.origin).copied();
        // Further variants of the event in hand are part of it.
        let in_hand = session.channel.outgoing.room_in_hand == Some((key.origin, key.n, operation));
        let old = !in_hand && last.is_some_and(|last| key.n <= last);
        // Events that it had come again after a break, in any order.
        if !old && !in_hand && previous != 0 && last != Some(previous) {
            return Taken::OutOfOrder;
        }
        session.channel.release_front(key.origin, watermark);
        let repeated = old || session.channel.outgoing.restored.contains(&key);
        if !old {
            session.channel.outgoing.room_in_hand = Some((key.origin, key.n, operation));
            session.channel.outgoing.room_seq.insert(key.origin, key.n);
        }
        // An event that is repeated is in the session's record already, and the session may have left the room since.
        if !repeated
            && target.affiliation_and_role != 0
            && let Some(own) = said.variant(target.variant)
        {
            self.is_in(core, id, own, target.affiliation_and_role, key.n);
        }
        let Some(session) = self.sessions.get(&id) else {
            return Taken::Gone;
        };
        // The room's answer to what the client did there itself passes no filter.
        let own = target.affiliation_and_role != 0;
        let passes = own || repeated || said.passes(target.variant, session);
        // Of a repeated one, too: the owner that took it first may have died before its row was
        // committed.
        let moves = !repeated && session.channel.copies.was_before;
        let variant = match passes {
            true => self.incoming(core, said, target.variant, key, (id, operation), moves),
            false => None,
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return Taken::Gone;
        };
        if repeated && guard!("dedupe") {
            core.metrics
                .dropped_by_key(sestina_telemetry::Keyed::Session);
            // Held by the edge, or about to be: then it is asked for again.
            let held = session
                .channel
                .number_of(key)
                .is_none_or(|number| number <= session.channel.outgoing.held);
            return if held { Taken::Yes } else { Taken::OutOfOrder };
        }
        if let Some(variant) = variant {
            // An event has several variants for one session if the session enters the room, or if the room's
            // new owner announces changes again.
            let source = if in_hand { Source::Join } else { Source::Live };
            self.deliver_as(core, id, key, variant, Some(operation), source);
        }
        Taken::Yes
    }
}

impl Slot {
    /// A room told a session of its own presence there, or that there is none any more.
    fn is_in(
        &mut self,
        core: &mut Core,
        id: u128,
        own: &proto::Stanza,
        affiliation_and_role: u32,
        seq: u64,
    ) {
        let Some((room, nick)) = own.from.split_once('/') else {
            return;
        };
        let room = Jid::from_wire(room);
        let asking = self.is_asking(core, id, &room);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let known = session.client.joined.get_mut(&room);
        let newest = known.as_ref().and_then(|joined| joined.member.as_ref());
        if newest.is_some_and(|member| member.seq > seq) {
            return;
        }
        if own.r#type != "unavailable" {
            // It may have left meanwhile; then the room tells it so, later than this.
            if known.is_none() && asking {
                return;
            }
            let joined = session.client.joined.entry(room).or_default();
            if joined.nick.is_empty() {
                nick.clone_into(&mut joined.nick);
            }
            let mut presence = Stanza::from(own.clone());
            presence.id.clear();
            presence.from.clear();
            presence.retain_children(|c| c.ns != ns::MUC_USER);
            joined.member = Some(Box::new(proto::RoomMember {
                nick: nick.to_owned(),
                affiliation_and_role,
                presence: Some(presence.into()),
                seq,
            }));
        } else if let Some(joined) = known {
            // No owner after this one is to be told that it is in. It may be entering again.
            joined.member = None;
            if !asking {
                session.client.joined.remove(&room);
            }
        } else {
            return;
        }
        session.channel.state_dirty = true;
        self.replica_session_changed(core, id);
        self.touch(core, id);
    }
}

/// The frame that answers a room's owner.
pub(crate) fn room_ack(key: IdempotencyKey, parts: RoomAckParts) -> proto::RoomAck {
    proto::RoomAck {
        key: Some(key.into()),
        done: parts.done.into_iter().map(u32::from).collect(),
        not_owner: parts.not_owner.into_iter().map(u32::from).collect(),
        gone: parts
            .gone
            .into_iter()
            .map(|(slot, session)| {
                let (session_hi, session_lo) = split(session);
                proto::RoomTarget {
                    slot: u32::from(slot),
                    session_hi,
                    session_lo,
                    ..proto::RoomTarget::default()
                }
            })
            .collect(),
    }
}
