//! A slot message at its addressee: RFC 6121 §8.5, seen from the receiver.
//!
//! Each slot message is handled once: what its origin may still replay is remembered in [`Inbox::dedup`](super::slot::Inbox::dedup),
//! and a repeat is answered with what became of the first.

use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::Lane;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::channel::{Source, Taken};
use super::core::{Core, PeerRef};
use super::operations::{OnDone, OperationId};
use super::slot::{Entity, Handled, Slot, entity_of};
use crate::domain::room::{Home, Origin};

/// Where a slot message came from, for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) peer: PeerRef,
    pub(crate) origin_slot: u16,
    pub(crate) stream: u64,
}

/// A slot message in hand: its key, the entity it is for, and the operation to count parts on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InHand {
    pub(crate) key: IdempotencyKey,
    pub(crate) entity: Entity,
    pub(crate) operation: OperationId,
    /// An owner of this slot before may have handled it.
    pub(crate) replay: bool,
}

impl Slot {
    /// Takes a slot message, in the order of its stream, once.
    pub(crate) fn slot_message(
        &mut self,
        core: &mut Core,
        from: PeerRef,
        message: proto::SlotMessage,
    ) {
        let Some(key) = message.key.as_ref().map(IdempotencyKey::from) else {
            return;
        };
        let origin_slot = u16::try_from(message.origin_slot).unwrap_or(u16::MAX);
        let asker = Asker {
            peer: from,
            origin_slot,
            stream: message.stream,
        };
        if !core.admit_epoch(origin_slot, message.origin_epoch) {
            // An owner that was replaced: its successor replays what matters.
            core.metrics.refused_epoch();
            return;
        }
        let message = match self.hold_message(from, message) {
            None => return,
            Some(message) => message,
        };
        if !self.takes_message(message.settling) || !self.in_order(core, asker, message.seq) {
            return self.refuse_message(core, asker, key);
        }
        failpoint!("router.message_received");
        self.forget(core, key.origin, message.watermark);
        // A message of a later version is refused by name: its origin waits for an answer.
        let Some(stanza) = message.stanza else {
            core.metrics.unknown_frame(Lane::Peer);
            return self.answer_message(core, asker, key, None);
        };
        let known = stanza.is_known();
        let stanza = Stanza::from(stanza);
        if !known {
            core.metrics.unknown_frame(Lane::Peer);
            let refusal = (!stanza.is_error()).then(|| {
                stanza
                    .error_reply(Condition::FeatureNotImplemented, None)
                    .into()
            });
            return self.answer_message(core, asker, key, refusal);
        }
        let to = Jid::from_wire(&stanza.to);
        let entity = entity_of(to.bare_str());
        let place = (key.origin, key.n, entity, key.purpose);
        match self.inbox.dedup.get_mut(&place) {
            Some(Handled::Open { asker: waiting, .. }) if guard!("dedupe") => {
                core.metrics
                    .dropped_by_key(sestina_telemetry::Keyed::Recipient);
                *waiting = asker;
                return;
            }
            Some(Handled::Done { reply, .. }) if guard!("dedupe") => {
                core.metrics
                    .dropped_by_key(sestina_telemetry::Keyed::Recipient);
                let reply = reply.clone();
                return self.answer_message(core, asker, key, reply);
            }
            _ => {}
        }
        self.inbox.dedup.insert(
            place,
            Handled::Open {
                asker,
                reply: None,
                sessions: Vec::new(),
            },
        );
        let operation = core.operations.open(OnDone::SlotMessage {
            slot: self.slot,
            entity,
            key,
        });
        let hand = InHand {
            key,
            entity,
            operation,
            replay: message.first_epoch < self.epoch,
        };
        if core.config.services.is_rooms(to.domain()) {
            let origin = Origin {
                session: key.origin,
                home: Home(origin_slot),
                jid: Jid::from_wire(&stanza.from),
                ended: key.is(Purpose::Ended),
            };
            self.together(|slot| slot.room_input(core, hand, origin, to, stanza));
        } else {
            self.message_to_user(core, hand, to, stanza);
        }
        core.part_done(operation);
    }

    /// Whether the slot message is the next of its stream; notes it if so.
    fn in_order(&mut self, core: &Core, asker: Asker, seq: u64) -> bool {
        let (stream, last, at) = self
            .inbox
            .streams
            .entry(asker.origin_slot)
            .or_insert((0, 0, 0));
        *at = core.now_ms;
        if asker.stream > *stream && seq == 1 {
            (*stream, *last) = (asker.stream, 1);
            true
        } else if asker.stream == *stream && seq == *last + 1 {
            *last = seq;
            true
        } else {
            !guard!("stream-order")
        }
    }

    /// A slot message that was taken is not handled here: its origin sends it to the next owner.
    pub(crate) fn refuse_open(&mut self, core: &mut Core, hand: InHand) {
        let place = (hand.key.origin, hand.key.n, hand.entity, hand.key.purpose);
        if let Some(Handled::Open { asker, .. }) = self.inbox.dedup.remove(&place) {
            self.refuse_message(core, asker, hand.key);
        }
    }

    fn refuse_message(&self, core: &mut Core, asker: Asker, key: IdempotencyKey) {
        refuse_message(core, self.slot, asker, key);
    }

    fn answer_message(
        &self,
        core: &mut Core,
        asker: Asker,
        key: IdempotencyKey,
        reply: Option<proto::Stanza>,
    ) {
        let done = proto::SlotMessageAck {
            key: Some(key.into()),
            owner: true,
            reply,
            target_slot: u32::from(self.slot),
            stream: asker.stream,
            target_epoch: self.epoch,
        };
        core.message_done(asker.peer, asker.origin_slot, done);
    }

    /// All parts of a slot message are done: answer the origin, and remember it until the watermark.
    pub(crate) fn message_complete(
        &mut self,
        core: &mut Core,
        entity: Entity,
        key: IdempotencyKey,
    ) {
        let place = (key.origin, key.n, entity, key.purpose);
        let Some(dedup) = self.inbox.dedup.get_mut(&place) else {
            return;
        };
        if let Handled::Open {
            asker,
            reply,
            sessions,
        } = dedup
        {
            let (asker, reply) = (*asker, reply.clone());
            *dedup = Handled::Done {
                reply: reply.clone(),
                sessions: std::mem::take(sessions),
            };
            failpoint!("router.message_complete");
            self.answer_message(core, asker, key, reply);
        }
    }

    /// The answer that goes back to the origin with the slot message's end.
    pub(crate) fn answer_with(&mut self, hand: InHand, stanza: Stanza) {
        let place = (hand.key.origin, hand.key.n, hand.entity, hand.key.purpose);
        if let Some(Handled::Open { reply, .. }) = self.inbox.dedup.get_mut(&place) {
            *reply = Some(stanza.into());
        }
    }

    /// All of an origin's stanzas up to `watermark` are settled: forget their keys, release deliveries.
    pub(crate) fn forget(&mut self, core: &mut Core, origin: u128, watermark: u64) {
        if watermark == 0 {
            return;
        }
        let last = (origin, watermark, Entity::MAX, u32::MAX);
        while let Some((place, dedup)) = self.inbox.dedup.range((origin, 0, 0, 0)..=last).next() {
            let place = *place;
            let sessions = match dedup {
                Handled::Open { .. } if watermark != u64::MAX => break,
                Handled::Open { sessions, .. } | Handled::Done { sessions, .. } => sessions.clone(),
            };
            self.inbox.dedup.remove(&place);
            for (session, number) in sessions {
                if let Some(s) = self.sessions.get_mut(&session) {
                    s.channel.release(number);
                    self.touch(core, session);
                }
            }
        }
        let gone = self
            .inbox
            .given
            .extract_if((origin, 0, 0)..=(origin, watermark, Entity::MAX), |_| true);
        gone.for_each(drop);
        if self.inbox.any_restored {
            self.release_restored(core, origin, watermark);
        }
    }

    /// After a takeover the numbers are known from the edges alone.
    fn release_restored(&mut self, core: &mut Core, origin: u128, watermark: u64) {
        let mut touched = Vec::new();
        self.inbox.any_restored = false;
        for session in self.sessions.values_mut() {
            if session.channel.release_origin(origin, watermark) {
                touched.push(session.channel.id);
            }
            self.inbox.any_restored |= !session.channel.outgoing.restored.is_empty();
        }
        for id in touched {
            self.touch(core, id);
        }
    }

    /// Delivers one payload of a slot message to a session, noting the number for the watermark.
    pub(crate) fn deliver_message(
        &mut self,
        core: &mut Core,
        hand: InHand,
        session: u128,
        purpose: Purpose,
        stanza: &Arc<proto::Stanza>,
    ) {
        self.deliver_message_as(core, hand, session, purpose, stanza, None);
    }

    /// The same for a message that other sessions of the user are given as well (`taken`).
    pub(crate) fn deliver_message_as(
        &mut self,
        core: &mut Core,
        hand: InHand,
        session: u128,
        purpose: Purpose,
        stanza: &Arc<proto::Stanza>,
        taken: Option<&Taken>,
    ) {
        let key = hand.key.sibling(purpose);
        let operation = Some(hand.operation);
        // Others depend on the message, and not on a copy of it.
        let source = match taken.is_some() && purpose == Purpose::Route {
            true => Source::Shared,
            false => Source::Live,
        };
        if let Some(number) = self.deliver_as(core, session, key, stanza.clone(), operation, source)
        {
            let place = (hand.key.origin, hand.key.n, hand.entity, hand.key.purpose);
            if let Some(Handled::Open { sessions, .. }) = self.inbox.dedup.get_mut(&place) {
                sessions.push((session, number));
            }
            if let Some(taken) = taken
                && let Some(session) = self.sessions.get_mut(&session)
            {
                session.channel.share(number, taken);
            }
        }
    }
}

/// XEP-0359: says under which id the archive of `by` holds it; forged ones were taken out before.
pub(crate) fn stamp(stanza: &mut Stanza, by: &Jid, id: &str) {
    stanza.push_element(&sestina_xmpp::ext::stanza_id::stanza_id(by.as_str(), id));
}

/// Refuses a slot message of a slot that is not served here.
pub(crate) fn refuse_message(core: &mut Core, slot: u16, asker: Asker, key: IdempotencyKey) {
    let done = proto::SlotMessageAck {
        key: Some(key.into()),
        owner: false,
        reply: None,
        target_slot: u32::from(slot),
        stream: asker.stream,
        target_epoch: 0,
    };
    core.message_done(asker.peer, asker.origin_slot, done);
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
