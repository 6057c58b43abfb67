//! An effect at its addressee: RFC 6121 §8.5, seen from the receiver.
//!
//! Each effect is handled once: what its origin may still replay is remembered in [`Slot::seen`],
//! and a repeat is answered with what became of the first.

use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::Lane;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::core::{Core, PeerRef};
use super::session::{Source, Taken};
use super::slot::{Entity, Seen, Slot, entity_of};
use super::work::{OnDone, WorkId};

/// Where an effect came from, for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) peer: PeerRef,
    pub(crate) origin_slot: u16,
    pub(crate) stream: u64,
}

/// An effect in hand: its key, the entity it is for, and the work to count parts on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InHand {
    pub(crate) key: EffectKey,
    pub(crate) entity: Entity,
    pub(crate) work: WorkId,
}

impl Slot {
    /// Takes an effect, in the order of its stream, once.
    pub(crate) fn effect(&mut self, core: &mut Core, from: PeerRef, effect: proto::Effect) {
        let Some(key) = effect.key.as_ref().map(EffectKey::from) else {
            return;
        };
        let origin_slot = u16::try_from(effect.origin_slot).unwrap_or(u16::MAX);
        let asker = Asker {
            peer: from,
            origin_slot,
            stream: effect.stream,
        };
        if !core.admit_epoch(origin_slot, effect.origin_epoch) {
            // An owner that was replaced: its successor replays what matters.
            core.metrics.refused_epoch();
            return;
        }
        let effect = match self.hold_effect(from, effect) {
            None => return,
            Some(effect) => effect,
        };
        if !self.takes_effect(effect.settling) || !self.in_order(core, asker, effect.seq) {
            return self.refuse_effect(core, asker, key);
        }
        failpoint!("router.effect_received");
        self.forget(core, key.origin, effect.mark);
        // What a later version sends is refused by name: its origin waits for an answer.
        let Some(stanza) = effect.stanza else {
            core.metrics.unknown_frame(Lane::Peer);
            return self.answer_effect(core, asker, key, None);
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
            return self.answer_effect(core, asker, key, refusal);
        }
        let to = Jid::from_wire(&stanza.to);
        let entity = entity_of(to.bare_str());
        let place = (key.origin, key.n, entity, key.kind);
        match self.seen.get_mut(&place) {
            Some(Seen::Open { asker: waiting, .. }) if guard!("dedupe") => {
                core.metrics
                    .dropped_by_key(sestina_telemetry::Keyed::Recipient);
                *waiting = asker;
                return;
            }
            Some(Seen::Done { reply, .. }) if guard!("dedupe") => {
                core.metrics
                    .dropped_by_key(sestina_telemetry::Keyed::Recipient);
                let reply = reply.clone();
                return self.answer_effect(core, asker, key, reply);
            }
            _ => {}
        }
        self.seen.insert(
            place,
            Seen::Open {
                asker,
                reply: None,
                sessions: Vec::new(),
            },
        );
        let work = core.works.open(OnDone::Effect {
            slot: self.slot,
            entity,
            key,
        });
        let hand = InHand { key, entity, work };
        if core.config.is_muc(to.domain()) {
            let origin = crate::room::Origin {
                session: key.origin,
                slot: origin_slot,
                jid: Jid::from_wire(&stanza.from),
            };
            self.room_input(core, hand, origin, to, stanza);
        } else {
            let replay = effect.first_epoch < self.epoch;
            self.effect_to_user(core, hand, to, stanza, replay);
        }
        core.part_done(work);
    }

    /// Whether the effect is the next of its stream; notes it if so.
    fn in_order(&mut self, core: &Core, asker: Asker, seq: u64) -> bool {
        let (stream, last, at) = self.streams.entry(asker.origin_slot).or_insert((0, 0, 0));
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

    /// An effect that was taken is not handled here: its origin sends it to the next owner.
    pub(crate) fn refuse_open(&mut self, core: &mut Core, hand: InHand) {
        let place = (hand.key.origin, hand.key.n, hand.entity, hand.key.kind);
        if let Some(Seen::Open { asker, .. }) = self.seen.remove(&place) {
            self.refuse_effect(core, asker, hand.key);
        }
    }

    fn refuse_effect(&self, core: &mut Core, asker: Asker, key: EffectKey) {
        refuse_effect(core, self.slot, asker, key);
    }

    fn answer_effect(
        &self,
        core: &mut Core,
        asker: Asker,
        key: EffectKey,
        reply: Option<proto::Stanza>,
    ) {
        let done = proto::EffectDone {
            key: Some(key.into()),
            owner: true,
            reply,
            target_slot: u32::from(self.slot),
            stream: asker.stream,
            target_epoch: self.epoch,
        };
        core.effect_done(asker.peer, asker.origin_slot, done);
    }

    /// All parts of an effect are done: answer the origin, and remember it until the mark.
    pub(crate) fn effect_complete(&mut self, core: &mut Core, entity: Entity, key: EffectKey) {
        let place = (key.origin, key.n, entity, key.kind);
        let Some(seen) = self.seen.get_mut(&place) else {
            return;
        };
        if let Seen::Open {
            asker,
            reply,
            sessions,
        } = seen
        {
            let (asker, reply) = (*asker, reply.clone());
            *seen = Seen::Done {
                reply: reply.clone(),
                sessions: std::mem::take(sessions),
            };
            failpoint!("router.effect_complete");
            self.answer_effect(core, asker, key, reply);
        }
    }

    /// The answer that goes back to the origin with the effect's end.
    pub(crate) fn answer_with(&mut self, hand: InHand, stanza: Stanza) {
        let place = (hand.key.origin, hand.key.n, hand.entity, hand.key.kind);
        if let Some(Seen::Open { reply, .. }) = self.seen.get_mut(&place) {
            *reply = Some(stanza.into());
        }
    }

    /// All of an origin's stanzas up to `mark` are settled: forget their keys, release deliveries.
    pub(crate) fn forget(&mut self, core: &mut Core, origin: u128, mark: u64) {
        if mark == 0 {
            return;
        }
        let last = (origin, mark, Entity::MAX, u32::MAX);
        while let Some((place, seen)) = self.seen.range((origin, 0, 0, 0)..=last).next() {
            let place = *place;
            let sessions = match seen {
                Seen::Open { .. } if mark != u64::MAX => break,
                Seen::Open { sessions, .. } | Seen::Done { sessions, .. } => sessions.clone(),
            };
            self.seen.remove(&place);
            for (session, number) in sessions {
                if let Some(s) = self.sessions.get_mut(&session) {
                    s.release(number);
                    self.touch(core, session);
                }
            }
        }
        let gone = self
            .given
            .extract_if((origin, 0, 0)..=(origin, mark, Entity::MAX), |_| true);
        gone.for_each(drop);
        if self.any_restored {
            self.release_restored(core, origin, mark);
        }
    }

    /// After a takeover the numbers are known from the edges alone.
    fn release_restored(&mut self, core: &mut Core, origin: u128, mark: u64) {
        let mut touched = Vec::new();
        self.any_restored = false;
        for session in self.sessions.values_mut() {
            if session.release_origin(origin, mark) {
                touched.push(session.id);
            }
            self.any_restored |= !session.restored.is_empty();
        }
        for id in touched {
            self.touch(core, id);
        }
    }

    /// Delivers one payload of an effect to a session, noting the number for the mark.
    pub(crate) fn deliver_effect(
        &mut self,
        core: &mut Core,
        hand: InHand,
        session: u128,
        kind: EffectKind,
        stanza: &Arc<proto::Stanza>,
    ) {
        self.deliver_effect_as(core, hand, session, kind, stanza, None);
    }

    /// The same for a message that other sessions of the user are given as well (`taken`).
    pub(crate) fn deliver_effect_as(
        &mut self,
        core: &mut Core,
        hand: InHand,
        session: u128,
        kind: EffectKind,
        stanza: &Arc<proto::Stanza>,
        taken: Option<&Taken>,
    ) {
        let key = hand.key.sibling(kind);
        let work = Some(hand.work);
        // Others depend on the message, and not on a copy of it.
        let source = match taken.is_some() && kind == EffectKind::Route {
            true => Source::Shared,
            false => Source::Live,
        };
        if let Some(number) = self.deliver_as(core, session, key, stanza.clone(), work, source) {
            let place = (hand.key.origin, hand.key.n, hand.entity, hand.key.kind);
            if let Some(Seen::Open { sessions, .. }) = self.seen.get_mut(&place) {
                sessions.push((session, number));
            }
            if let Some(taken) = taken
                && let Some(session) = self.sessions.get_mut(&session)
            {
                session.share(number, taken);
            }
        }
    }
}

/// XEP-0359: says under which id the archive of `by` holds it; forged ones were taken out before.
pub(crate) fn stamp(stanza: &mut Stanza, by: &Jid, id: &str) {
    stanza.push_element(&sestina_xmpp::ext::stanza_id::stanza_id(by.as_str(), id));
}

/// Refuses an effect of a slot that is not served here.
pub(crate) fn refuse_effect(core: &mut Core, slot: u16, asker: Asker, key: EffectKey) {
    let done = proto::EffectDone {
        key: Some(key.into()),
        owner: false,
        reply: None,
        target_slot: u32::from(slot),
        stream: asker.stream,
        target_epoch: 0,
    };
    core.effect_done(asker.peer, asker.origin_slot, done);
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
