//! Presence of sessions: RFC 6121 §4, as far as it needs no roster.

use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_telemetry::Limit;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::client::{Available, Joined};
use super::core::Core;
use super::operations::OperationId;
use super::slot::Slot;

/// The priority that a presence names (RFC 6121 §4.7.2.3); 0 if none or not a number.
pub(crate) fn priority_of(stanza: &proto::Stanza) -> i8 {
    let stanza = Stanza::from(stanza.clone());
    stanza
        .text_of(sestina_xmpp::ns::CLIENT, "priority")
        .and_then(|p| p.trim().parse::<i8>().ok())
        .unwrap_or(0)
}

/// RFC 6121 §3.
fn is_subscription(type_: &str) -> bool {
    matches!(
        type_,
        "subscribe" | "subscribed" | "unsubscribe" | "unsubscribed"
    )
}

impl Slot {
    /// Presence from a session, without `to` or to its own bare JID: its availability.
    pub(crate) fn own_presence(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        operation: OperationId,
    ) {
        match stanza.type_.as_str() {
            "" => self.becomes_available(core, id, n, stanza, operation),
            "unavailable" => self.becomes_unavailable(core, id, n, stanza, operation),
            "probe" | "error" => {}
            _ => self.presence_refused(core, id, n, &stanza, operation),
        }
    }

    /// Presence of a type that is none, or that asks for a subscription (RFC 6121 §3): those need
    /// rosters. Answered here, where it comes from, and so the same for every addressee.
    fn presence_refused(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: &Stanza,
        operation: OperationId,
    ) {
        let error = if is_subscription(&stanza.type_) {
            let text = Some("this server does not keep subscriptions yet");
            stanza.error_reply(Condition::FeatureNotImplemented, text)
        } else {
            stanza.error_reply(Condition::BadRequest, Some("unknown presence type"))
        };
        self.reply_to(core, id, n, error, operation);
    }

    fn becomes_available(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        operation: OperationId,
    ) {
        let wire = proto::Stanza::from(stanza);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let priority = priority_of(&wire);
        let before = session.client.priority();
        session.client.available = Some(Box::new(Available {
            priority,
            stanza: wire.clone(),
        }));
        session.channel.state_dirty = true;
        let bare = session.channel.jid.bare();
        // The session is about to exchange stanzas with others, and these need the resident data of its user.
        self.has_residents(core, id);
        let key = IdempotencyKey::new(id, n, Purpose::Route);
        self.tell_available(core, &bare, key, wire, None, Some(operation));
        if before.is_none() {
            // RFC 6121 §4.2.2: the new resource learns of the user's others.
            self.show_own_presences(core, id, n, &bare, operation);
        }
        let was_reachable = before.is_some_and(|p| p >= 0);
        if priority >= 0 && !was_reachable {
            self.fetch_offline(core, id, &bare);
        }
        self.keep_registry(core, id, operation);
    }

    fn becomes_unavailable(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        operation: OperationId,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let was = session.client.available.take();
        session.channel.state_dirty = true;
        let bare = session.channel.jid.bare();
        let joined: Vec<(Jid, Joined)> = session.client.joined.drain().collect();
        let directed: Vec<Jid> = session.client.directed.drain().collect();
        if was.is_some() {
            let key = IdempotencyKey::new(id, n, Purpose::Route);
            self.tell_available(
                core,
                &bare,
                key,
                stanza.clone().into(),
                None,
                Some(operation),
            );
        }
        for (index, to) in joined
            .iter()
            .filter_map(|(room, joined)| room.with_resource(&joined.nick).ok())
            .chain(directed)
            .enumerate()
        {
            let mut copy = stanza.clone();
            copy.to = to.as_str().to_owned();
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let key = IdempotencyKey::indexed(id, n, Purpose::Ended, index);
            self.send_message(core, id, key, &to, copy, operation);
        }
        self.keep_registry(core, id, operation);
    }

    /// The sessions of a user that are available.
    fn available_of(&self, user: &Jid) -> Vec<u128> {
        let sessions = self.sessions_of(user);
        let available = sessions.filter(|s| s.client.available.is_some());
        available.map(|s| s.channel.id).collect()
    }

    /// Sends a presence to the available sessions of a user (RFC 6121 §4.2.2), but for `except`.
    pub(super) fn tell_available(
        &mut self,
        core: &mut Core,
        user: &Jid,
        key: IdempotencyKey,
        stanza: proto::Stanza,
        except: Option<u128>,
        operation: Option<OperationId>,
    ) {
        let stanza = Arc::new(stanza);
        for target in self.available_of(user) {
            if Some(target) != except {
                self.deliver_to(core, target, key, stanza.clone(), operation);
            }
        }
    }

    /// After a resumption: sends the presence of a session that was detached when its slot got a new owner
    /// to the user's other sessions (see [`Client::waited`](super::client::Client::waited)).
    pub(super) fn tell_presence_again(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let waited = std::mem::take(&mut session.client.waited);
        let (user, generation) = (session.channel.jid.bare(), session.channel.generation);
        if session.channel.copies.was_before {
            self.release_ends(core, &user, id, generation);
        }
        if !waited {
            return;
        }
        let session = self.sessions.get(&id);
        let Some(available) = session.and_then(|session| session.client.available.as_ref()) else {
            return;
        };
        let stanza = available.stanza.clone();
        // No stanza of the session causes this delivery, so its key has number 0: it is released without
        // waiting for a watermark.
        let key = IdempotencyKey::indexed(id, 0, Purpose::Returned, generation);
        self.tell_available(core, &user, key, stanza, Some(id), None);
    }

    fn show_own_presences(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        bare: &Jid,
        operation: OperationId,
    ) {
        let others: Vec<proto::Stanza> = self
            .sessions_of(bare)
            .filter(|s| s.channel.id != id)
            .filter_map(|s| s.client.available.as_ref().map(|a| a.stanza.clone()))
            .collect();
        for (index, presence) in others.into_iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let key = IdempotencyKey::indexed(id, n, Purpose::Result, index);
            self.deliver_to(core, id, key, Arc::new(presence), Some(operation));
        }
    }

    /// Directed presence (RFC 6121 §4.6): remembered, so that the end of the session is told.
    pub(crate) fn directed_presence(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        to: Jid,
        operation: OperationId,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let room = core.config.services.is_rooms(to.domain());
        let replayed = n <= session.channel.incoming.replay_until;
        match stanza.type_.as_str() {
            "" if room => {
                let nick = to.resource().unwrap_or_default().to_owned();
                let room = to.bare();
                if let Some(joined) = session.client.joined.get_mut(&room) {
                    joined.nick = nick;
                    session.channel.state_dirty = true;
                // Without <x/> it enters no room (XEP-0045 §7.2.18).
                } else if stanza.child(sestina_xmpp::ns::MUC, "x").is_some() {
                    let max = core.config.limits.max_rooms_per_session;
                    if session.client.joined.len() >= max {
                        core.metrics.limited(Limit::SessionRooms);
                        let text = format!("a session may be in {max} rooms; leave one first");
                        let error = stanza.error_reply(Condition::ResourceConstraint, Some(&text));
                        return self.reply_to(core, id, n, error, operation);
                    }
                    session.client.joined.entry(room).or_default().nick = nick;
                    session.channel.state_dirty = true;
                }
            }
            "" => {
                if session.client.directed.len() >= core.config.limits.max_directed_presences {
                    let text = Some("too many directed presences");
                    let error = stanza.error_reply(Condition::ResourceConstraint, text);
                    return self.reply_to(core, id, n, error, operation);
                }
                session.channel.state_dirty |= session.client.directed.insert(to.clone());
            }
            "unavailable" if room => {
                session.channel.state_dirty |= session.client.joined.remove(&to.bare()).is_some();
            }
            "unavailable" => session.channel.state_dirty |= session.client.directed.remove(&to),
            "probe" | "error" => {}
            _ if room => {}
            _ => return self.presence_refused(core, id, n, &stanza, operation),
        }
        if room && replayed {
            self.ask_room(id, to.bare());
        }
        let key = IdempotencyKey::new(id, n, Purpose::Route);
        self.send_message(core, id, key, &to, stanza, operation);
        self.keep_registry(core, id, operation);
    }

    /// A room did not let a session in: it is not in that room, unless it has asked again since, or is
    /// in already.
    pub(crate) fn not_let_in(&mut self, core: &Core, id: u128, room: &Jid) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session
            .client
            .joined
            .get(&room.bare())
            .is_none_or(|joined| {
                joined.member.is_some() || Some(joined.nick.as_str()) != room.resource()
            })
        {
            return;
        }
        let again = self
            .outbox
            .has_presence_to(core.config.slot_of(room), id, &room.bare());
        if !again {
            session.client.joined.remove(&room.bare());
            session.channel.state_dirty = true;
        }
    }

    /// The operation waits until a second process holds the registry record: the edge takes it with
    /// the KeepState of this turn, whose batch it acknowledges; that of a session which loses its
    /// socket before goes to the state store.
    pub(crate) fn keep_registry(&mut self, core: &mut Core, id: u128, operation: OperationId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.channel.edge().is_none() {
            return self.replica_session_changed(core, id);
        }
        core.operations.part(operation);
        session.channel.state_waits.push(operation);
        self.touch(core, id);
    }

    /// Makes an unavailable presence in the name of a session that ended.
    pub(crate) fn unavailable_of(jid: &Jid, to: &Jid) -> Stanza {
        let mut stanza = Stanza::new(Kind::Presence);
        stanza.type_ = "unavailable".to_owned();
        stanza.from = jid.as_str().to_owned();
        stanza.to = to.as_str().to_owned();
        stanza
    }
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
