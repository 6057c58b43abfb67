//! A stanza from a session, at its origin: RFC 6120 §10, RFC 6121 §8, seen from the sender.
//!
//! What concerns the sender (own archive, copies for own devices) happens here; what concerns the
//! addressee travels as an effect to the owner of the addressee's slot.

use std::borrow::Cow;
use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::Core;
use super::pages::ArchiveQuery;
use super::session::Source;
use super::slot::{PendingEffect, Slot};
use super::work::WorkId;
use crate::hooks::{Effect, IqContext, IqTarget, MessageContext, Point};

impl Slot {
    /// Routes the n-th stanza of a session.
    pub(crate) fn route_from_session(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        mut stanza: Stanza,
        work: WorkId,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let answer = EffectKey::new(id, n, EffectKind::Reply);
        if session.restored.contains(&answer) && guard!("dedupe") {
            // A dead owner answered it, and the edge has that: what it would bring now may differ.
            return;
        }
        let full = session.jid.clone();
        stanza.from = full.as_str().to_owned();
        let to = if stanza.to.is_empty() {
            None
        } else {
            Some(Jid::from_wire(&stanza.to))
        };
        let local = to
            .as_ref()
            .is_none_or(|to| core.config.is_local(to.domain()));
        if !local {
            let answer = stanza.is_error() || (stanza.kind == Kind::Iq && stanza.type_ == "result");
            if !answer {
                let text = Some("this server does not talk to other servers");
                let error = stanza.error_reply(Condition::RemoteServerNotFound, text);
                self.reply_to(core, id, n, error, work);
            }
            return;
        }
        match stanza.kind {
            Kind::Message => {
                let to = to.unwrap_or_else(|| full.bare());
                stanza.to = to.as_str().to_owned();
                self.message_from_session(core, id, n, &full, to, stanza, work);
            }
            Kind::Presence => match to {
                None => self.own_presence(core, id, n, stanza, work),
                Some(to) if to == full.bare() => self.own_presence(core, id, n, stanza, work),
                Some(to) => self.directed_presence(core, id, n, stanza, to, work),
            },
            Kind::Iq => self.iq_from_session(core, id, n, &full, to, stanza, work),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn message_from_session(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        full: &Jid,
        to: Jid,
        stanza: Stanza,
        work: WorkId,
    ) {
        if core.storage_backlogged() && !stanza.is_error() {
            let text = Some("storage is away; try again later");
            let error = stanza.error_reply(Condition::ResourceConstraint, text);
            return self.reply_to(core, id, n, error, work);
        }
        let key = EffectKey::new(id, n, EffectKind::Route);
        let user = full.bare();
        let config = core.config.clone();
        let pipeline = core.pipeline.clone();
        let context = MessageContext {
            user: &user,
            peer: &to,
            key,
            has_account: self.sessions.get(&id).is_some_and(|s| !s.anonymous),
            from_room: config.is_muc(to.domain()),
            config: &config,
        };
        let mut said = Cow::Owned(stanza);
        let filtered = pipeline.filter(Point::MessageOut, &context, &mut said);
        let stanza = said.into_owned();
        if let Err(bounce) = filtered {
            if let Some(condition) = bounce.condition.filter(|_| !stanza.is_error()) {
                let error = stanza.error_reply(condition, bounce.text);
                self.reply_to(core, id, n, error, work);
            }
            return;
        }
        let mut archived = None;
        for effect in pipeline.observe(Point::MessageOut, &context, &stanza) {
            match effect {
                Effect::Archive => {
                    archived = Some(self.archive(core, &user, &to, key, &stanza, work, false));
                }
                // What goes to oneself comes back as a message, or as a copy of one (XEP-0280 §7).
                Effect::Carbons if to.bare_str() == user.as_str() => {}
                Effect::Carbons => {
                    self.carbons_sent(core, id, key, &stanza, archived.as_deref(), work)
                }
                other => tracing::error!(?other, "a module asked for this at MessageOut"),
            }
        }
        self.send_effect(core, id, key, &to, stanza, work);
    }

    #[allow(clippy::too_many_arguments)]
    fn iq_from_session(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        full: &Jid,
        to: Option<Jid>,
        stanza: Stanza,
        work: WorkId,
    ) {
        let request = matches!(stanza.type_.as_str(), "get" | "set");
        if !request && !matches!(stanza.type_.as_str(), "result" | "error") || stanza.id.is_empty()
        {
            let text = Some("an IQ has an id and the type get, set, result or error");
            let error = stanza.error_reply(Condition::BadRequest, text);
            return self.reply_to(core, id, n, error, work);
        }
        let own = full.bare();
        let target = match &to {
            None => IqTarget::Account,
            Some(to) if *to == own => IqTarget::Account,
            Some(to) if to.local().is_none() && core.config.is_muc(to.domain()) => {
                IqTarget::MucService
            }
            Some(to) if to.local().is_none() => IqTarget::Host,
            Some(to) => {
                let key = EffectKey::new(id, n, EffectKind::Route);
                let to = to.clone();
                return self.send_effect(core, id, key, &to, stanza, work);
            }
        };
        if !request {
            return;
        }
        let asked = to.unwrap_or(own);
        self.answer_iq(core, id, n, target, &asked, &stanza, work);
    }

    /// Answers an IQ of a session of this slot, by the modules.
    #[allow(clippy::too_many_arguments)]
    fn answer_iq(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        target: IqTarget,
        asked: &Jid,
        stanza: &Stanza,
        work: WorkId,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let full = session.jid.clone();
        let anonymous = session.anonymous;
        let resources: Vec<Jid> = self
            .sessions_of(&full.bare())
            .filter(|s| s.available.is_some())
            .map(|s| s.jid.clone())
            .collect();
        let pipeline = core.pipeline.clone();
        let config = core.config.clone();
        let context = IqContext {
            from: &full,
            to: asked,
            anonymous,
            sessions: resources.len(),
            resources: &resources,
            pipeline: &pipeline,
            config: &config,
            wall_ms: core.wall_ms,
        };
        let effects = pipeline.iq(target, &context, stanza);
        failpoint!("router.iq_handled");
        for effect in effects {
            match effect {
                Effect::Result(payload) => {
                    let reply = stanza.result_reply(payload.as_ref());
                    self.reply_to(core, id, n, reply, work);
                }
                Effect::Reply(reply) => self.reply_to(core, id, n, reply, work),
                Effect::Error(condition, text) => {
                    let reply = stanza.error_reply(condition, text.as_deref());
                    self.reply_to(core, id, n, reply, work);
                }
                Effect::SetCarbons(on) => self.set_carbons(core, id, on, work),
                Effect::QueryArchive {
                    request,
                    queryid,
                    flip,
                } => {
                    let query = ArchiveQuery {
                        slot: self.slot,
                        session: id,
                        n,
                        iq: stanza.clone(),
                        queryid,
                        flip,
                        work,
                        source: Source::Page,
                    };
                    self.query_archive(core, query, *request);
                }
                Effect::Archive | Effect::Carbons | Effect::StoreOffline => {
                    tracing::error!(ns = ?stanza.children().next(), "a module asked for a message effect in an IQ");
                }
            }
        }
    }

    /// Queues an answer for the session that asked.
    pub(crate) fn reply_to(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        work: WorkId,
    ) {
        let key = EffectKey::new(id, n, EffectKind::Reply);
        let stanza = proto::Stanza::from(stanza);
        if stanza.r#type == "error" {
            core.metrics.bounced(stanza.kind());
        }
        self.deliver_to(core, id, key, Arc::new(stanza), Some(work));
    }

    /// Sends an effect of a session's stanza to the owner of the addressee's slot.
    pub(crate) fn send_effect(
        &mut self,
        core: &mut Core,
        id: u128,
        key: EffectKey,
        to: &Jid,
        stanza: Stanza,
        work: WorkId,
    ) {
        let target = core.config.slot_of(to);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let highest = session.mark_targets.entry(target).or_default();
        *highest = key.n.max(*highest);
        let effect = proto::Effect {
            key: Some(key.into()),
            origin_slot: u32::from(self.slot),
            origin_epoch: self.epoch,
            mark: session.mark,
            stanza: Some(stanza.into()),
            anonymous: session.anonymous,
            query: if core.config.is_muc(to.domain()) {
                session.query.clone()
            } else {
                Default::default()
            },
            trace: core.passage.traceparent(),
            stream: 0,
            seq: 0,
            age_us: core.passage.born,
            first_epoch: 0,
            settling: false,
        };
        let fresh = key.n > session.replay_until;
        core.works.part(work);
        let queue = self.outbound.entry(target).or_default();
        queue.pending.push_back(PendingEffect {
            key,
            session: id,
            effect,
            work,
            sent: false,
            fresh,
        });
        self.pump_effects(core, target);
    }

    /// Sends what is pending for a slot to its owner, in order; waits if there is none.
    pub(crate) fn pump_effects(&mut self, core: &mut Core, target: u16) {
        let settling = !self.is_active();
        let owner = core.owner_of(target).filter(|o| core.peer_open(*o));
        let Some(queue) = self.outbound.get_mut(&target) else {
            return;
        };
        if queue.pending.is_empty() {
            self.outbound.remove(&target);
            return;
        }
        let Some(owner) = owner else {
            queue.restart();
            self.stuck.insert(target);
            return;
        };
        if queue.owner != Some(owner) {
            queue.restart();
            queue.owner = Some(owner);
        }
        if queue.waiting {
            return;
        }
        if queue.stream == 0 {
            core.streams += 1;
            queue.stream = (self.epoch << 32) | core.streams;
            queue.seq = 0;
        }
        let epoch = core.table.epoch(target);
        for pending in queue.pending.iter_mut().filter(|p| !p.sent) {
            if core.peer_full(owner) {
                // Goes on where it stopped.
                self.stuck.insert(target);
                break;
            }
            failpoint!("router.effect_sent");
            queue.seq += 1;
            pending.sent = true;
            if std::mem::take(&mut pending.fresh) {
                pending.effect.first_epoch = epoch;
            }
            let mut effect = pending.effect.clone();
            effect.stream = queue.stream;
            effect.seq = queue.seq;
            effect.settling = settling;
            let frame = proto::PeerFrame {
                slot: u32::from(target),
                epoch,
                body: Some(proto::peer_frame::Body::Effect(effect)),
            };
            core.send_peer(owner, frame);
        }
    }

    /// The owner of the target slot answered.
    pub(crate) fn effect_answered(&mut self, core: &mut Core, done: proto::EffectDone) {
        let Some(key) = done.key.as_ref().map(EffectKey::from) else {
            return;
        };
        let target = u16::try_from(done.target_slot).unwrap_or(u16::MAX);
        let Some(queue) = self.outbound.get_mut(&target) else {
            return;
        };
        if !done.owner {
            // Refused: not the owner now, or out of order. Everything pending goes again, as a
            // new stream, a little later or when the map changes.
            if done.stream == queue.stream {
                queue.restart();
                queue.waiting = true;
                self.stuck.insert(target);
                core.effects_refused = true;
            }
            return;
        }
        // Of an owner that was replaced, or to a stream that was begun anew since: then all of it was
        // sent again, and is answered again.
        if !core.admit_epoch(target, done.target_epoch) || done.stream != queue.stream {
            return;
        }
        failpoint!("router.effect_done");
        let Some(at) = queue.pending.iter().position(|p| p.key == key) else {
            return;
        };
        let Some(pending) = queue.pending.remove(at) else {
            return;
        };
        if queue.pending.is_empty() {
            self.outbound.remove(&target);
        }
        if let Some(reply) = done.reply {
            let reply_key = key.sibling(EffectKind::Reply);
            if self
                .sessions
                .get(&pending.session)
                .is_some_and(|s| s.is_live())
            {
                if reply.r#type == "error" {
                    core.metrics.bounced(reply.kind());
                    if reply.kind() == proto::StanzaKind::Presence {
                        self.not_let_in(pending.session, &Jid::from_wire(&reply.from));
                    }
                }
                self.deliver_to(
                    core,
                    pending.session,
                    reply_key,
                    Arc::new(reply),
                    Some(pending.work),
                );
            }
        }
        core.part_done(pending.work);
    }

    /// Tries again what waits for an owner or a lane.
    pub(crate) fn retry_effects(&mut self, core: &mut Core) {
        for target in std::mem::take(&mut self.stuck) {
            if let Some(queue) = self.outbound.get_mut(&target) {
                queue.waiting = false;
            }
            self.pump_effects(core, target);
        }
    }

    /// A router is gone or its lane is new: what it did not answer goes again.
    pub(crate) fn resend_effects_to(&mut self, core: &mut Core, peer: super::core::PeerRef) {
        let targets: Vec<u16> = self
            .outbound
            .iter()
            .filter(|(_, q)| q.owner == Some(peer) || q.owner.is_none())
            .map(|(t, _)| *t)
            .collect();
        for target in targets {
            if let Some(queue) = self.outbound.get_mut(&target) {
                queue.restart();
            }
            self.pump_effects(core, target);
        }
    }

    /// Carbons on or off: settled when the registry record is held twice.
    fn set_carbons(&mut self, core: &mut Core, id: u128, on: bool, work: WorkId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.carbons = on;
            session.state_dirty = true;
        }
        self.keep_registry(core, id, work);
    }
}
