//! A stanza from a session, at its origin: RFC 6120 §10, RFC 6121 §8, seen from the sender.
//!
//! What concerns the sender (own archive, copies for own devices) happens here; what concerns the
//! addressee travels as a slot message to the owner of the addressee's slot.

use std::borrow::Cow;
use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::channel::Source;
use super::core::Core;
use super::data::Asked;
use super::execute::{Cause, Passing};
use super::operations::OperationId;
use super::outbox::{Cause as MessageCause, PendingMessage};
use super::receive::InHand;
use super::session::Session;
use super::slot::Slot;
use crate::hooks::{IqTarget, MessageContext, Point};

/// Bytes of an answer that counts as bulk.
const LARGE_ANSWER: usize = 4 << 10;

impl Slot {
    /// Routes the n-th stanza of a session.
    pub(crate) fn route_from_session(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        mut stanza: Stanza,
        operation: OperationId,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let answer = IdempotencyKey::new(id, n, Purpose::Reply);
        if session.channel.outgoing.restored.contains(&answer) && guard!("dedupe") {
            // A dead owner answered it, and the edge has that: what it would bring now may differ.
            return;
        }
        let full = session.channel.jid.clone();
        stanza.from = full.as_str().to_owned();
        let to = if stanza.to.is_empty() {
            None
        } else {
            Some(Jid::from_wire(&stanza.to))
        };
        let filtered = match &to {
            Some(to) if !session.client.residents.is_none() => {
                let user = full.bare();
                self.filter(core, Point::StanzaOut, (&user, to), &stanza, None)
            }
            _ => Ok(()),
        };
        if let Err(bounce) = filtered {
            return self.bounced(core, Cause::Session { id, n, operation }, &stanza, &bounce);
        }
        let local = to
            .as_ref()
            .is_none_or(|to| core.config.services.kind(to.domain()).is_some());
        if !local {
            let answer = stanza.is_error() || (stanza.kind == Kind::Iq && stanza.type_ == "result");
            if !answer {
                let text = Some("this server does not talk to other servers");
                let error = stanza.error_reply(Condition::RemoteServerNotFound, text);
                self.reply_to(core, id, n, error, operation);
            }
            return;
        }
        match stanza.kind {
            Kind::Message => {
                let to = to.unwrap_or_else(|| full.bare());
                stanza.to = to.as_str().to_owned();
                self.message_from_session(core, id, n, &full, to, stanza, operation);
            }
            Kind::Presence => match to {
                None => self.own_presence(core, id, n, stanza, operation),
                Some(to) if to == full.bare() => self.own_presence(core, id, n, stanza, operation),
                Some(to) => self.directed_presence(core, id, n, stanza, to, operation),
            },
            Kind::Iq => self.iq_from_session(core, id, n, &full, to, stanza, operation),
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
        operation: OperationId,
    ) {
        if core.storage_backlogged() && !stanza.is_error() {
            let text = Some("storage is unavailable; try again later");
            let error = stanza.error_reply(Condition::ResourceConstraint, text);
            return self.reply_to(core, id, n, error, operation);
        }
        let key = IdempotencyKey::new(id, n, Purpose::Route);
        let cause = Cause::Session { id, n, operation };
        let user = full.bare();
        let config = core.config.clone();
        let context = MessageContext {
            user: &user,
            peer: &to,
            key,
            has_account: self.sessions.get(&id).is_some_and(|s| !s.client.anonymous),
            from_room: config.services.is_rooms(to.domain()),
            config: &config,
        };
        let mut said = Cow::Owned(stanza);
        let filtered =
            core.pipelines
                .of(user.domain())
                .filter(Point::MessageOut, &context, &mut said);
        if let Err(bounce) = filtered {
            return self.bounced(core, cause, &said, &bounce);
        }
        let mut passing = Passing::new(said, false);
        self.observed(core, cause, Point::MessageOut, &context, &mut passing);
        let stanza = passing.stanza.into_owned();
        // A message to oneself comes back as a message, or as a copy of one (XEP-0280 §7).
        if passing.copied && to.bare_str() != user.as_str() {
            let archived = passing.archived.as_deref();
            self.carbons_sent(core, id, key, &stanza, archived, operation);
        }
        self.send_message(core, id, key, &to, stanza, operation);
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
        operation: OperationId,
    ) {
        let request = matches!(stanza.type_.as_str(), "get" | "set");
        if !request && !matches!(stanza.type_.as_str(), "result" | "error") || stanza.id.is_empty()
        {
            let text = Some("an IQ has an id and the type get, set, result or error");
            let error = stanza.error_reply(Condition::BadRequest, text);
            return self.reply_to(core, id, n, error, operation);
        }
        let own = full.bare();
        let target = match &to {
            None => IqTarget::Account,
            Some(to) if *to == own => IqTarget::Account,
            Some(to) if to.local().is_none() && core.config.services.is_rooms(to.domain()) => {
                IqTarget::MucService
            }
            Some(to) if to.local().is_none() => IqTarget::Host,
            Some(to) => {
                let key = IdempotencyKey::new(id, n, Purpose::Route);
                let to = to.clone();
                if !request && let Some(session) = self.sessions.get_mut(&id) {
                    session.channel.answers(&stanza.id, to.as_str());
                }
                return self.send_message(core, id, key, &to, stanza, operation);
            }
        };
        if !request {
            return;
        }
        let asked = Asked {
            cause: Cause::Session { id, n, operation },
            target,
            from: full.clone(),
            to: to.unwrap_or(own),
            stanza,
        };
        self.ask_modules(core, asked);
    }

    /// Queues an answer for the session that asked.
    pub(crate) fn reply_to(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        operation: OperationId,
    ) {
        let key = IdempotencyKey::new(id, n, Purpose::Reply);
        let stanza = proto::Stanza::from(stanza);
        if stanza.r#type == "error" {
            core.metrics.bounced(stanza.kind());
        }
        let source = source_of_answer(&stanza);
        self.deliver_as(core, id, key, Arc::new(stanza), Some(operation), source);
    }

    /// Sends a slot message of a session's stanza to the owner of the addressee's slot.
    pub(crate) fn send_message(
        &mut self,
        core: &mut Core,
        id: u128,
        key: IdempotencyKey,
        to: &Jid,
        stanza: Stanza,
        operation: OperationId,
    ) {
        let target = core.config.slot_of(to);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let highest = session
            .channel
            .incoming
            .watermark_targets
            .entry(target)
            .or_default();
        *highest = key.n.max(*highest);
        let message = proto::SlotMessage {
            key: Some(key.into()),
            origin_slot: u32::from(self.slot),
            origin_epoch: self.epoch,
            watermark: session.channel.incoming.watermark,
            stanza: Some(stanza.into()),
            anonymous: session.client.anonymous,
            query: if core.config.services.is_rooms(to.domain()) {
                session.client.query.clone()
            } else {
                Default::default()
            },
            trace: core.trace_context.traceparent(),
            stream: 0,
            seq: 0,
            age_us: core.trace_context.received_at,
            first_epoch: 0,
            settling: false,
        };
        let fresh = key.n > session.channel.incoming.replay_until;
        let message = PendingMessage::new(key, message, operation, fresh);
        let sender = self.sender();
        self.outbox.push(core, sender, target, message);
    }

    /// Sends a stanza that a room of this slot makes of a slot message, such as an invitation. The addressee gets the
    /// stanza once: a replay of the slot message gives the stanza the same key. The slot message is done when the owner
    /// of the addressee has acknowledged the stanza. `from` is the sender of the slot message.
    pub(crate) fn pass_on(&mut self, core: &mut Core, hand: InHand, from: &Jid, stanza: Stanza) {
        let target = core.config.slot_of(&Jid::from_wire(&stanza.to));
        let key = hand.key.through(hand.entity);
        let message = proto::SlotMessage {
            key: Some(key.into()),
            origin_slot: u32::from(self.slot),
            origin_epoch: self.epoch,
            stanza: Some(stanza.into()),
            trace: core.trace_context.traceparent(),
            age_us: core.trace_context.received_at,
            ..proto::SlotMessage::default()
        };
        let from = from.as_str().to_owned();
        let message = PendingMessage::new(key, message, hand.operation, !hand.replay)
            .caused_by(MessageCause { hand, from });
        let sender = self.sender();
        self.outbox.push(core, sender, target, message);
    }

    /// The owner of the target slot answered.
    pub(crate) fn message_answered(&mut self, core: &mut Core, ack: proto::SlotMessageAck) {
        let Some(pending) = self.outbox.answered(core, &ack) else {
            return;
        };
        if let Some(cause) = pending.cause {
            let sent = pending.message.stanza.unwrap_or_default();
            let error = ack.reply.filter(|reply| reply.r#type == "error");
            if let Some(error) = error {
                // The room could not pass the message on: its sender hears of it from the room.
                let mut error = Stanza::from(error);
                error.from = sent.from;
                error.to = cause.from;
                self.answer_with(cause.hand, error);
            }
            return core.part_done(pending.operation);
        }
        let id = pending.key.origin;
        let live = |s: &Session| s.channel.is_live();
        if let Some(reply) = ack.reply
            && self.sessions.get(&id).is_some_and(|s| live(s))
        {
            if reply.r#type == "error" {
                core.metrics.bounced(reply.kind());
                if reply.kind() == proto::StanzaKind::Presence {
                    self.not_let_in(core, id, &Jid::from_wire(&reply.from));
                }
            }
            let key = pending.key.sibling(Purpose::Reply);
            let source = source_of_answer(&reply);
            let operation = Some(pending.operation);
            self.deliver_as(core, id, key, Arc::new(reply), operation, source);
        }
        core.part_done(pending.operation);
    }

    /// Tries again what waits for an owner or a lane.
    pub(crate) fn retry_messages(&mut self, core: &mut Core) {
        let sender = self.sender();
        self.outbox.retry(core, sender);
    }

    /// Carbons on or off: settled when the registry record is held twice.
    pub(super) fn set_carbons(
        &mut self,
        core: &mut Core,
        id: u128,
        on: bool,
        operation: OperationId,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.client.carbons = on;
            session.channel.state_dirty = true;
        }
        self.keep_registry(core, id, operation);
    }
}

/// A large answer to an IQ is part of what the client has asked for in bulk: it may ask for many at once.
fn source_of_answer(answer: &proto::Stanza) -> Source {
    let large = answer.kind() == proto::StanzaKind::Iq && answer.payload.len() > LARGE_ANSWER;
    match large {
        true => Source::Page,
        false => Source::Live,
    }
}
