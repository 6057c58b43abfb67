//! An effect at its addressee: RFC 6121 §8.5, seen from the receiver.
//!
//! Each effect is handled once: what its origin may still replay is remembered in [`Slot::seen`],
//! and a repeat is answered with what became of the first.

use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::core::{Core, PeerRef};
use super::replay::Before;
use super::slot::{Entity, Seen, Slot, entity_of};
use super::work::{OnDone, WorkId};
use crate::hooks::{Effect, IqContext, IqTarget, MessageContext, Point};

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
        let Some(stanza) = effect.stanza else { return };
        let stanza = Stanza::from(stanza);
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
            false
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
        let key = hand.key.sibling(kind);
        if let Some(number) = self.deliver_to(core, session, key, stanza.clone(), Some(hand.work)) {
            let place = (hand.key.origin, hand.key.n, hand.entity, hand.key.kind);
            if let Some(Seen::Open { sessions, .. }) = self.seen.get_mut(&place) {
                sessions.push((session, number));
            }
        }
    }

    pub(super) fn message_unavailable(&mut self, hand: InHand, stanza: &Stanza) {
        if !stanza.is_error() && stanza.type_ != "headline" {
            self.answer_with(
                hand,
                stanza.error_reply(Condition::ServiceUnavailable, None),
            );
        }
    }

    /// Storage refuses or is away: the sender may try again (binding effects).
    pub(crate) fn storage_away(&mut self, hand: InHand, stanza: &Stanza) {
        if !stanza.is_error() {
            let text = Some("storage is away; try again later");
            self.answer_with(
                hand,
                stanza.error_reply(Condition::ResourceConstraint, text),
            );
        }
    }

    pub(super) fn message_to_known(
        &mut self,
        core: &mut Core,
        hand: InHand,
        to: &Jid,
        mut stanza: Stanza,
        before: Before,
    ) {
        if core.storage_backlogged() && !stanza.is_error() {
            return self.storage_away(hand, &stanza);
        }
        let user = to.bare();
        let peer = Jid::from_wire(&stanza.from);
        let anonymous = self.sessions_of(&user).any(|s| s.anonymous);
        let config = core.config.clone();
        let pipeline = core.pipeline.clone();
        let context = MessageContext {
            user: &user,
            peer: &peer,
            key: hand.key,
            has_account: !anonymous && config.has_accounts(user.domain()),
            from_room: config.is_muc(peer.domain()),
            config: &config,
        };
        if let Err(bounce) = pipeline.filter(Point::MessageIn, &context, &mut stanza) {
            if let Some(condition) = bounce.condition.filter(|_| !stanza.is_error()) {
                self.answer_with(hand, stanza.error_reply(condition, bounce.text));
            }
            return;
        }
        let had = || {
            self.sessions_of(&user)
                .any(|s| s.number_of(hand.key).is_some())
        };
        let before = match before {
            Before::Unknown if had() => Before::Given,
            before => before,
        };
        let stored = sestina_xmpp::ext::offline::should_store(&stanza);
        let targets = match before {
            Before::Nothing | Before::Unknown => self.message_targets(to, &stanza, stored),
            // Who came later, or is getting what is stored, gets nothing twice.
            Before::Given => {
                let mut targets = self.message_targets(to, &stanza, false);
                targets.retain(|id| self.sessions.get(id).is_some_and(|s| s.was_before));
                targets
            }
            // Whoever comes for what is stored gets it there, or got it.
            Before::Stored => Vec::new(),
        };
        if targets.is_empty() && before != Before::Given {
            let kept = self.undeliverable(core, hand, &context, &pipeline, to, stanza);
            // It comes to its addressee behind what is stored; other devices hear of it now.
            if let Some(stanza) = kept
                && let Some(id) = self.session_waiting(to)
                && pipeline
                    .observe(Point::MessageIn, &context, &stanza)
                    .iter()
                    .any(|effect| matches!(effect, Effect::Carbons))
            {
                self.carbons_received(core, hand, &user, &stanza, &[id]);
            }
            return;
        }
        // What a dead owner archived and could not deliver is in the archive where it is delivered.
        let moves = before == Before::Unknown;
        let mut carbons = false;
        for effect in pipeline.observe(Point::MessageIn, &context, &stanza) {
            match effect {
                Effect::Archive => {
                    let id = self.archive(core, &user, &peer, hand.key, &stanza, hand.work, moves);
                    stamp(&mut stanza, &user, &id);
                }
                Effect::Carbons => carbons = true,
                other => tracing::error!(?other, "a module asked for this at MessageIn"),
            }
        }
        let wire = Arc::new(proto::Stanza::from(stanza.clone()));
        for target in &targets {
            self.deliver_effect(core, hand, *target, EffectKind::Route, &wire);
        }
        if carbons && !targets.is_empty() {
            self.carbons_received(core, hand, &user, &stanza, &targets);
        }
    }

    /// RFC 6121 §8.5.2.1.1 and §8.5.3: which sessions get a message; one that can be `stored` comes
    /// behind what is stored.
    fn message_targets(&self, to: &Jid, stanza: &Stanza, stored: bool) -> Vec<u128> {
        if to.resource().is_some() {
            if let Some(id) = self.session_of(to) {
                // Behind what is stored, whichever form of the address was used (RFC 6120 §10.1).
                let waits = stored && self.session_waiting(to).is_some();
                return if waits { Vec::new() } else { vec![id] };
            }
            // §8.5.3.2.1: normal and chat go on as if to the bare JID; the rest is not delivered.
            if !matches!(stanza.type_.as_str(), "" | "normal" | "chat") {
                return Vec::new();
            }
        } else if stanza.type_ == "groupchat" {
            return Vec::new();
        }
        let reachable = || {
            self.sessions_of(&to.bare())
                .filter(|s| s.priority().is_some_and(|p| p >= 0))
        };
        // Where all of them still wait for what is stored, this comes behind it, from there too.
        // Where one does not wait, it is nobody's turn to get this later: all get it now.
        if stored && reachable().all(|s| s.offline_pending) {
            return Vec::new();
        }
        reachable().map(|s| s.id).collect()
    }

    /// The session with that full JID, while it is being given what is stored.
    fn session_waiting(&self, to: &Jid) -> Option<u128> {
        let id = to.resource().and_then(|_| self.session_of(to))?;
        self.sessions.get(&id)?.offline_pending.then_some(id)
    }

    /// Nobody can be given it now; returns it as it was stored, if it was.
    fn undeliverable(
        &mut self,
        core: &mut Core,
        hand: InHand,
        context: &MessageContext<'_>,
        pipeline: &crate::hooks::Pipeline,
        to: &Jid,
        mut stanza: Stanza,
    ) -> Option<Stanza> {
        let user = to.bare();
        let mut stored = false;
        let effects = pipeline.observe(Point::Undeliverable, context, &stanza);
        for effect in effects {
            match effect {
                Effect::Archive => {
                    let (key, work) = (hand.key, hand.work);
                    let id = self.archive(core, &user, context.peer, key, &stanza, work, false);
                    stamp(&mut stanza, &user, &id);
                }
                Effect::StoreOffline => {
                    stored = true;
                    let key = hand.key.sibling(EffectKind::Offline);
                    self.store_offline(core, key, hand.work, &user, &stanza);
                }
                other => tracing::error!(?other, "a module asked for this at Undeliverable"),
            }
        }
        if stored {
            core.metrics.offline_stored();
            return Some(stanza);
        }
        self.message_unavailable(hand, &stanza);
        None
    }

    pub(super) fn presence_to_user(
        &mut self,
        core: &mut Core,
        hand: InHand,
        to: &Jid,
        stanza: Stanza,
    ) {
        if !matches!(stanza.type_.as_str(), "" | "unavailable" | "error") {
            // Subscriptions need a roster; RFC 6121 §3 lets a server ignore what it cannot keep.
            return;
        }
        let targets: Vec<u128> = match to.resource() {
            Some(_) => self.session_of(to).into_iter().collect(),
            None => self
                .sessions_of(to)
                .filter(|s| s.available.is_some())
                .map(|s| s.id)
                .collect(),
        };
        let wire = Arc::new(proto::Stanza::from(stanza));
        for target in targets {
            self.deliver_effect(core, hand, target, EffectKind::Route, &wire);
        }
    }

    pub(super) fn iq_to_user(&mut self, core: &mut Core, hand: InHand, to: &Jid, stanza: Stanza) {
        let request = matches!(stanza.type_.as_str(), "get" | "set");
        if to.resource().is_some() {
            match self.session_of(to) {
                Some(id) => {
                    let wire = Arc::new(proto::Stanza::from(stanza));
                    self.deliver_effect(core, hand, id, EffectKind::Route, &wire);
                }
                None if request => {
                    self.answer_with(
                        hand,
                        stanza.error_reply(Condition::ServiceUnavailable, None),
                    );
                }
                None => {}
            }
            return;
        }
        if !request {
            return;
        }
        let config = core.config.clone();
        let pipeline = core.pipeline.clone();
        let from = Jid::from_wire(&stanza.from);
        let context = IqContext {
            from: &from,
            to,
            anonymous: false,
            sessions: 0,
            resources: &[],
            pipeline: &pipeline,
            config: &config,
            wall_ms: core.wall_ms,
        };
        for effect in pipeline.iq(IqTarget::OtherAccount, &context, &stanza) {
            match effect {
                Effect::Result(payload) => {
                    self.answer_with(hand, stanza.result_reply(payload.as_ref()));
                }
                Effect::Reply(reply) => self.answer_with(hand, reply),
                Effect::Error(condition, text) => {
                    self.answer_with(hand, stanza.error_reply(condition, text.as_deref()));
                }
                other => tracing::error!(?other, "a module asked for this of another account"),
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
