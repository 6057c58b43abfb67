//! Presence of sessions: RFC 6121 §4, as far as it needs no roster.

use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_telemetry::Limit;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::Core;
use super::session::{Available, Joined};
use super::slot::Slot;
use super::work::WorkId;

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
        work: WorkId,
    ) {
        match stanza.type_.as_str() {
            "" => self.becomes_available(core, id, n, stanza, work),
            "unavailable" => self.becomes_unavailable(core, id, n, stanza, work),
            "probe" | "error" => {}
            _ => self.presence_refused(core, id, n, &stanza, work),
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
        work: WorkId,
    ) {
        let error = if is_subscription(&stanza.type_) {
            let text = Some("this server does not keep subscriptions yet");
            stanza.error_reply(Condition::FeatureNotImplemented, text)
        } else {
            stanza.error_reply(Condition::BadRequest, Some("unknown presence type"))
        };
        self.reply_to(core, id, n, error, work);
    }

    fn becomes_available(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        work: WorkId,
    ) {
        let wire = proto::Stanza::from(stanza);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let priority = priority_of(&wire);
        let before = session.priority();
        session.available = Some(Box::new(Available {
            priority,
            stanza: wire.clone(),
        }));
        session.state_dirty = true;
        let bare = session.jid.bare();
        let key = EffectKey::new(id, n, EffectKind::Route);
        self.tell_available(core, &bare, key, wire, None, Some(work));
        if before.is_none() {
            // RFC 6121 §4.2.2: the new resource learns of the user's others.
            self.show_own_presences(core, id, n, &bare, work);
        }
        let was_reachable = before.is_some_and(|p| p >= 0);
        if priority >= 0 && !was_reachable {
            self.fetch_offline(core, id, &bare);
        }
        self.keep_registry(core, id, work);
    }

    fn becomes_unavailable(
        &mut self,
        core: &mut Core,
        id: u128,
        n: u64,
        stanza: Stanza,
        work: WorkId,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let was = session.available.take();
        session.state_dirty = true;
        let bare = session.jid.bare();
        let joined: Vec<(Jid, Joined)> = session.joined.drain().collect();
        let directed: Vec<Jid> = session.directed.drain().collect();
        if was.is_some() {
            let key = EffectKey::new(id, n, EffectKind::Route);
            self.tell_available(core, &bare, key, stanza.clone().into(), None, Some(work));
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
            let key = EffectKey::indexed(id, n, EffectKind::Ended, index);
            self.send_effect(core, id, key, &to, copy, work);
        }
        self.keep_registry(core, id, work);
    }

    /// The sessions of a user that are available.
    fn available_of(&self, user: &Jid) -> Vec<u128> {
        let sessions = self.sessions_of(user);
        let available = sessions.filter(|s| s.available.is_some());
        available.map(|s| s.id).collect()
    }

    /// Sends a presence to the available sessions of a user (RFC 6121 §4.2.2), but for `except`.
    pub(super) fn tell_available(
        &mut self,
        core: &mut Core,
        user: &Jid,
        key: EffectKey,
        stanza: proto::Stanza,
        except: Option<u128>,
        work: Option<WorkId>,
    ) {
        let stanza = Arc::new(stanza);
        for target in self.available_of(user) {
            if Some(target) != except {
                self.deliver_to(core, target, key, stanza.clone(), work);
            }
        }
    }

    /// After a resumption: sends the presence of a session that was detached when its slot got a new owner
    /// to the user's other sessions (see [`Session::waited`](super::session::Session::waited)).
    pub(super) fn tell_presence_again(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut session.waited) {
            return;
        }
        let Some(available) = &session.available else {
            return;
        };
        let (stanza, user) = (available.stanza.clone(), session.jid.bare());
        // No stanza of the session causes this delivery, so its key has number 0: it is released without
        // waiting for a mark.
        let key = EffectKey::indexed(id, 0, EffectKind::Returned, session.generation);
        self.tell_available(core, &user, key, stanza, Some(id), None);
    }

    fn show_own_presences(&mut self, core: &mut Core, id: u128, n: u64, bare: &Jid, work: WorkId) {
        let others: Vec<proto::Stanza> = self
            .sessions_of(bare)
            .filter(|s| s.id != id)
            .filter_map(|s| s.available.as_ref().map(|a| a.stanza.clone()))
            .collect();
        for (index, presence) in others.into_iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let key = EffectKey::indexed(id, n, EffectKind::Result, index);
            self.deliver_to(core, id, key, Arc::new(presence), Some(work));
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
        work: WorkId,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let room = core.config.is_muc(to.domain());
        let replayed = n <= session.replay_until;
        match stanza.type_.as_str() {
            "" if room => {
                let nick = to.resource().unwrap_or_default().to_owned();
                let room = to.bare();
                if let Some(joined) = session.joined.get_mut(&room) {
                    joined.nick = nick;
                    session.state_dirty = true;
                // Without <x/> it enters no room (XEP-0045 §7.2.18).
                } else if stanza.child(sestina_xmpp::ns::MUC, "x").is_some() {
                    let max = core.config.max_rooms_per_session;
                    if session.joined.len() >= max {
                        core.metrics.limited(Limit::SessionRooms);
                        let text = format!("a session may be in {max} rooms; leave one first");
                        let error = stanza.error_reply(Condition::ResourceConstraint, Some(&text));
                        return self.reply_to(core, id, n, error, work);
                    }
                    session.joined.entry(room).or_default().nick = nick;
                    session.state_dirty = true;
                }
            }
            "" => {
                if session.directed.len() >= core.config.max_directed_presences {
                    let text = Some("too many directed presences");
                    let error = stanza.error_reply(Condition::ResourceConstraint, text);
                    return self.reply_to(core, id, n, error, work);
                }
                session.state_dirty |= session.directed.insert(to.clone());
            }
            "unavailable" if room => {
                session.state_dirty |= session.joined.remove(&to.bare()).is_some();
            }
            "unavailable" => session.state_dirty |= session.directed.remove(&to),
            "probe" | "error" => {}
            _ if room => {}
            _ => return self.presence_refused(core, id, n, &stanza, work),
        }
        if room && replayed {
            self.ask_room(id, to.bare());
        }
        let key = EffectKey::new(id, n, EffectKind::Route);
        self.send_effect(core, id, key, &to, stanza, work);
        self.keep_registry(core, id, work);
    }

    /// A room did not let a session in: it is not in that room, unless it has asked again since, or is
    /// in already.
    pub(crate) fn not_let_in(&mut self, id: u128, room: &Jid) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.joined.get(&room.bare()).is_none_or(|joined| {
            joined.member.is_some() || Some(joined.nick.as_str()) != room.resource()
        }) {
            return;
        }
        let asks = self.outbound.values().flat_map(|queue| &queue.pending);
        let again = asks.filter(|p| p.session == id).any(|p| {
            let to = p.effect.stanza.as_ref().map(|stanza| stanza.to.as_str());
            to.is_some_and(|to| Jid::from_wire(to).bare() == room.bare())
        });
        if !again {
            session.joined.remove(&room.bare());
            session.state_dirty = true;
        }
    }

    /// The work waits until a second process holds the registry record: the edge takes it with
    /// the KeepState of this turn, whose batch it acknowledges; that of a session which loses its
    /// socket before goes to the shadow.
    pub(crate) fn keep_registry(&mut self, core: &mut Core, id: u128, work: WorkId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.edge().is_none() {
            return self.shadow_session_changed(core, id);
        }
        core.works.part(work);
        session.state_waits.push(work);
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
