//! Stanzas for a user of this slot: which of the user's sessions get them, and what becomes of them
//! when there is none (RFC 6121 §8.5).

use std::borrow::Cow;
use std::sync::Arc;

use sestina_api::key::EffectKind;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::core::Core;
use super::receive::{InHand, stamp};
use super::replay::Before;
use super::session::{Session, Taken};
use super::slot::Slot;
use crate::hooks::{Effect, IqContext, IqTarget, MessageContext, Point};

impl Slot {
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
        stanza: Stanza,
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
        let mut said = Cow::Owned(stanza);
        let filtered = pipeline.filter(Point::MessageIn, &context, &mut said);
        let mut stanza = said.into_owned();
        if let Err(bounce) = filtered {
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
        if matches!(before, Before::Nothing | Before::Unknown)
            && self.is_for_no_session(to, &stanza)
        {
            return self.message_unavailable(hand, &stanza);
        }
        let stored = sestina_xmpp::ext::offline::should_store(&stanza);
        let targets = match before {
            Before::Nothing | Before::Unknown => self.message_targets(to, stored),
            // The session that it was for has had it, and given it back if it did not take it.
            Before::Given if to.resource().is_some() && self.session_of(to).is_none() => Vec::new(),
            // Who came later, or is getting what is stored, gets nothing twice; nor does who got what
            // came after it without this: it was for others then. Who has it stands for its copies.
            Before::Given => {
                let mut targets = self.message_targets(to, false);
                let then = |s: &Session| {
                    let has_it = s.number_of(hand.key).is_some();
                    s.was_before && (has_it || !s.has_later(hand.key))
                };
                targets.retain(|id| self.sessions.get(id).is_some_and(|s| then(s)));
                targets
            }
            // Whoever comes for what is stored gets it there, or got it.
            Before::Stored => Vec::new(),
        };
        if before == Before::Stored
            && let Some(reader) = self.offline_left(core, &user)
        {
            // The message was stored when a session ended without it. The owner before this one may have
            // died before it had another session of the user read the store.
            self.keep_registry(core, reader, hand.work);
        }
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
                let mut has_it = vec![id];
                has_it.extend(self.own_device(&user, &peer));
                self.carbons_received(core, hand, &user, &stanza, &has_it, None);
            }
            return;
        }
        // What a dead owner archived and did not deliver, to some session or to all, is in the archive
        // where it is delivered: messages of one sender are there in the order of sending.
        let lacks = |id: &u128| {
            let session = self.sessions.get(id);
            session.is_some_and(|s| s.number_of(hand.key).is_none())
        };
        let moves = match before {
            Before::Nothing | Before::Stored => false,
            Before::Unknown => true,
            Before::Given => targets.iter().any(lacks),
        };
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
        // A device that wrote to another one of its user needs no copy, and can stand in for none.
        let mut has_it = targets.clone();
        has_it.extend(self.own_device(&user, &peer));
        let copies = carbons && !self.carbon_targets(&user, &has_it).is_empty();
        let taken = (targets.len() > 1 || copies).then(Taken::default);
        let wire = Arc::new(proto::Stanza::from(stanza.clone()));
        for target in &targets {
            let kind = EffectKind::Route;
            self.deliver_effect_as(core, hand, *target, kind, &wire, taken.as_ref());
        }
        if carbons && !targets.is_empty() {
            self.carbons_received(core, hand, &user, &stanza, &has_it, taken.as_ref());
        }
    }

    /// The session that a message of the user to itself is from: it needs no copy (XEP-0280 §8).
    fn own_device(&self, user: &Jid, peer: &Jid) -> Option<u128> {
        let own = peer.bare_str() == user.as_str();
        own.then(|| self.session_of(peer)).flatten()
    }

    /// RFC 6121 §8.5: whether a message is given to no session, whichever are there, and not kept
    /// either. To a full JID that no session has, only a chat is as if to the bare JID (§8.5.3.2.1);
    /// an error or a groupchat is for a full JID alone (§8.5.2.1.1).
    fn is_for_no_session(&self, to: &Jid, stanza: &Stanza) -> bool {
        if to.resource().is_some() {
            stanza.type_ != "chat" && self.session_of(to).is_none()
        } else {
            matches!(stanza.type_.as_str(), "error" | "groupchat")
        }
    }

    /// RFC 6121 §8.5.2.1.1 and §8.5.3: which sessions get a message; one that can be `stored` comes
    /// behind what is stored.
    fn message_targets(&self, to: &Jid, stored: bool) -> Vec<u128> {
        if to.resource().is_some()
            && let Some(id) = self.session_of(to)
        {
            // Behind what is stored, whichever form of the address was used (RFC 6120 §10.1).
            let waits = stored && self.session_waiting(to).is_some();
            return if waits { Vec::new() } else { vec![id] };
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
                    self.store_offline(core, key, hand.work, &user, &stanza, core.wall_ms);
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
            // Probes: nobody has a subscription (RFC 6121 §8.5.1). The rest was answered at its origin.
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
        let from = Jid::from_wire(&stanza.from);
        self.ask_modules(core, hand, IqTarget::OtherAccount, (&from, to), &stanza);
    }

    /// Modules answer an IQ for an account of somebody else, or for a room.
    pub(crate) fn ask_modules(
        &mut self,
        core: &Core,
        hand: InHand,
        target: IqTarget,
        (from, to): (&Jid, &Jid),
        stanza: &Stanza,
    ) {
        let context = IqContext {
            from,
            to,
            anonymous: false,
            sessions: 0,
            resources: &[],
            pipeline: &core.pipeline,
            config: &core.config,
            wall_ms: core.wall_ms,
        };
        for effect in core.pipeline.iq(target, &context, stanza) {
            match effect {
                Effect::Result(payload) => {
                    self.answer_with(hand, stanza.result_reply(payload.as_ref()));
                }
                Effect::Reply(reply) => self.answer_with(hand, reply),
                Effect::Error(condition, text) => {
                    self.answer_with(hand, stanza.error_reply(condition, text.as_deref()));
                }
                other => tracing::error!(?other, ?target, "a module asked for this of a stranger"),
            }
        }
    }
}
