//! Stanzas for a user of this slot: which of the user's sessions get them, and what becomes of them
//! when there is none (RFC 6121 §8.5).

use std::borrow::Cow;
use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::channel::Taken;
use super::core::Core;
use super::data::Asked;
use super::execute::{Cause, Passing};
use super::receive::InHand;
use super::replay::Before;
use super::session::Session;
use super::slot::Slot;
use crate::hooks::{Action, IqTarget, MessageContext, Point};

impl Slot {
    pub(super) fn message_unavailable(&mut self, hand: InHand, stanza: &Stanza) {
        if !stanza.is_error() && stanza.type_ != "headline" {
            self.answer_with(
                hand,
                stanza.error_reply(Condition::ServiceUnavailable, None),
            );
        }
    }

    /// Storage refuses or is unavailable: the sender may try again (binding effects).
    pub(crate) fn storage_unavailable(&mut self, hand: InHand, stanza: &Stanza) {
        if !stanza.is_error() {
            let text = Some("storage is unavailable; try again later");
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
            return self.storage_unavailable(hand, &stanza);
        }
        let user = to.bare();
        let peer = Jid::from_wire(&stanza.from);
        let anonymous = self.sessions_of(&user).any(|s| s.client.anonymous);
        let config = core.config.clone();
        let cause = Cause::Message(hand);
        let context = MessageContext {
            user: &user,
            peer: &peer,
            key: hand.key,
            has_account: !anonymous && config.services.has_accounts(user.domain()),
            from_room: config.services.is_rooms(peer.domain()),
            config: &config,
        };
        let mut said = Cow::Owned(stanza);
        let filtered =
            core.pipelines
                .of(user.domain())
                .filter(Point::MessageIn, &context, &mut said);
        if let Err(bounce) = filtered {
            return self.bounced(core, cause, &said, &bounce);
        }
        let stanza = said.into_owned();
        let had = || {
            self.sessions_of(&user)
                .any(|s| s.channel.number_of(hand.key).is_some())
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
        let mut targets = match before {
            Before::Nothing | Before::Unknown => self.message_targets(to, stored),
            // The session that it was for has had it, and given it back if it did not take it.
            Before::Given if to.resource().is_some() && self.session_of(to).is_none() => Vec::new(),
            Before::Given => self.message_targets(to, false),
            // The offline store has it: the session that reads the store is given it there.
            Before::Stored => Vec::new(),
        };
        let passed_by = self.pass_by(hand.key, to, before, &mut targets);
        if before == Before::Stored
            && let Some(reader) = self.offline_left(core, &user)
        {
            // The message was stored when a session ended without it. The owner before this one may have
            // died before it had another session of the user read the store.
            self.keep_registry(core, reader, hand.operation);
        }
        if targets.is_empty() && before != Before::Given {
            // An earlier message of its sender may have moved in the archive: it follows.
            let moves = before != Before::Nothing;
            return self.message_waits(core, hand, &context, to, stanza, moves);
        }
        // A message that a dead owner archived and did not deliver, to some session or to all, is in the archive
        // where it is delivered: messages of one sender are there in the order of sending.
        let lacks = |id: &u128| {
            let session = self.sessions.get(id);
            session.is_some_and(|s| s.channel.number_of(hand.key).is_none())
        };
        let moves = match before {
            Before::Nothing | Before::Stored => false,
            Before::Unknown => true,
            Before::Given => targets.iter().any(lacks),
        };
        let mut passing = Passing::new(Cow::Owned(stanza), moves);
        self.observed(core, cause, Point::MessageIn, &context, &mut passing);
        let (stanza, carbons) = (passing.stanza.into_owned(), passing.copied);
        // A device that wrote to another one of its user needs no copy, and can stand in for none.
        let mut has_it = targets.clone();
        has_it.extend(self.own_device(&user, &peer));
        has_it.extend(passed_by);
        let copies = carbons && !self.carbon_targets(&user, &has_it).is_empty();
        let taken = (targets.len() > 1 || copies).then(Taken::default);
        let wire = Arc::new(proto::Stanza::from(stanza.clone()));
        for target in &targets {
            let purpose = Purpose::Route;
            self.deliver_message_as(core, hand, *target, purpose, &wire, taken.as_ref());
        }
        if carbons && !targets.is_empty() {
            self.carbons_received(core, hand, &user, &stanza, &has_it, taken.as_ref());
        }
    }

    /// No session can be given a message now: it is stored, or goes back. If a session gets it behind what is stored,
    /// other devices hear of it now.
    fn message_waits(
        &mut self,
        core: &mut Core,
        hand: InHand,
        context: &MessageContext<'_>,
        to: &Jid,
        stanza: Stanza,
        moves: bool,
    ) {
        let (user, peer) = (context.user, context.peer);
        let passing = Passing::new(Cow::Owned(stanza), moves);
        let Some(stanza) = self.undeliverable(core, hand, context, passing) else {
            return;
        };
        let pipeline = core.pipelines.of(user.domain());
        let actions = |stanza| pipeline.observe(Point::MessageIn, context, stanza);
        let is_copied = |stanza| {
            let actions = actions(stanza);
            actions
                .iter()
                .any(|action| matches!(action, Action::Carbons))
        };
        if let Some(id) = self.session_waiting(to)
            && is_copied(&stanza)
        {
            let mut has_it = vec![id];
            has_it.extend(self.own_device(user, peer));
            self.carbons_received(core, hand, user, &stanza, &has_it, None);
        }
    }

    /// Takes out the sessions to which an owner before this one has not given a message that comes again, and
    /// returns them: they get no copy either.
    ///
    /// A session that was bound later is given nothing that another session has had. One that holds a later
    /// stanza of the same sender was not there for this message: other sessions were, or are given it now. A
    /// message to a full JID that other sessions have had came before the session with that JID.
    fn pass_by(
        &self,
        key: IdempotencyKey,
        to: &Jid,
        before: Before,
        targets: &mut Vec<u128>,
    ) -> Vec<u128> {
        if matches!(before, Before::Nothing | Before::Stored) {
            return Vec::new();
        }
        let lacks = |s: &Session| s.channel.number_of(key).is_none();
        let later = |s: &Session| lacks(s) && s.channel.has_later(key);
        let passes = |s: &Session| match before {
            Before::Nothing | Before::Stored => false,
            Before::Unknown => s.channel.copies.was_before && later(s),
            Before::Given if to.resource().is_some() => lacks(s),
            // A session that has the message has sent its carbons, too.
            Before::Given => !s.channel.copies.was_before || later(s),
        };
        let is_passed = |id: &u128| self.sessions.get(id).is_none_or(|s| passes(s));
        if before == Before::Unknown && targets.iter().all(is_passed) {
            // All sessions that the message was for have ended: it goes to those that are there now.
            return Vec::new();
        }
        targets.extract_if(.., |id| is_passed(id)).collect()
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
                .filter(|s| s.client.priority().is_some_and(|p| p >= 0) && !s.channel.closing)
        };
        // While all of them still read stored messages, this one is stored behind those.
        // If one of them does not read any, no session would get this one from the store: all get it now.
        if stored && reachable().all(|s| s.client.offline_pending) {
            return Vec::new();
        }
        reachable().map(|s| s.channel.id).collect()
    }

    /// The session with that full JID, while it is being given what is stored.
    fn session_waiting(&self, to: &Jid) -> Option<u128> {
        let id = to.resource().and_then(|_| self.session_of(to))?;
        self.sessions.get(&id)?.client.offline_pending.then_some(id)
    }

    /// No session can be given it now. Returns it as it was stored, if it was.
    fn undeliverable(
        &mut self,
        core: &mut Core,
        hand: InHand,
        context: &MessageContext<'_>,
        mut passing: Passing<'_>,
    ) -> Option<Stanza> {
        let cause = Cause::Message(hand);
        self.observed(core, cause, Point::Undeliverable, context, &mut passing);
        let stanza = passing.stanza.into_owned();
        if passing.stored {
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
            // Probes: there are no subscriptions (RFC 6121 §8.5.1). The rest was answered at its origin.
            return;
        }
        let targets: Vec<u128> = match to.resource() {
            Some(_) => self.session_of(to).into_iter().collect(),
            None => self
                .sessions_of(to)
                .filter(|s| s.client.available.is_some())
                .map(|s| s.channel.id)
                .collect(),
        };
        let wire = Arc::new(proto::Stanza::from(stanza));
        for target in targets {
            self.deliver_message(core, hand, target, Purpose::Route, &wire);
        }
    }

    pub(super) fn iq_to_user(&mut self, core: &mut Core, hand: InHand, to: &Jid, stanza: Stanza) {
        let request = matches!(stanza.type_.as_str(), "get" | "set");
        if to.resource().is_some() {
            match self.session_of(to) {
                Some(id) => {
                    let wire = Arc::new(proto::Stanza::from(stanza));
                    self.deliver_message(core, hand, id, Purpose::Route, &wire);
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
        let asked = Asked {
            cause: Cause::Message(hand),
            target: IqTarget::OtherAccount,
            from: Jid::from_wire(&stanza.from),
            to: to.clone(),
            stanza,
        };
        self.ask_modules(core, asked);
    }
}
