//! Presence in a room: new presence, another nick, leaving (XEP-0045 §7.6, §7.7, §7.14).

use sestina_xmpp::ext::muc::{self, UserInfo, status};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::precis::nickname_key;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::broadcast::Broadcast;
use super::occupant::{Occupant, Rest, Role, RoomSession};
use super::state::{Decision, Environment, Origin, Room};

impl Room {
    /// Decides about a presence.
    pub(crate) fn presence(
        &mut self,
        environment: Environment<'_>,
        origin: Origin,
        to: &Jid,
        stanza: Stanza,
    ) -> Decision {
        match stanza.type_.as_str() {
            "" => self.available(environment, origin, to, stanza),
            "unavailable" => {
                self.stops_entering(origin.session);
                let own: &[u16] = if origin.ended { &[] } else { &[status::SELF] };
                let left = self.leaves(origin.session, Some(&stanza), own);
                left.map_or(Decision::Ignored, |left| Decision::Happens(left, None))
            }
            "error" => Decision::Ignored,
            _ => {
                let text = Some("unknown presence type");
                Decision::refused(&stanza, Condition::BadRequest, text)
            }
        }
    }

    fn available(
        &mut self,
        environment: Environment<'_>,
        origin: Origin,
        to: &Jid,
        stanza: Stanza,
    ) -> Decision {
        let known = self.occupant_of(origin.session);
        let known = known.map(|occupant| occupant.nick.clone());
        let has = |nick: &&str| known.as_deref() == Some(*nick);
        let nick = to
            .resource()
            .filter(|nick| has(nick) || nickname_key(nick).is_some());
        let Some(nick) = nick.map(str::to_owned) else {
            let text = Some("a nickname is needed: room@service/nick");
            return Decision::refused(&stanza, Condition::JidMalformed, text);
        };
        let joins = stanza.child(ns::MUC, "x").is_some();
        match known {
            None if !joins => Decision::Answered(not_inside(&stanza)),
            Some(old) if old == nick && !joins => self.updates(environment, &origin, &old, stanza),
            Some(old) if old != nick => self.renames(environment, &origin, &old, nick, stanza),
            _ => self.enters(environment, origin, nick, stanza, false),
        }
    }

    /// §7.7 and beyond: new presence of a session that is in. Others see that of the main one.
    fn updates(
        &mut self,
        environment: Environment<'_>,
        origin: &Origin,
        nick: &str,
        stanza: Stanza,
    ) -> Decision {
        let (id, presence) = stripped(stanza, &self.jid);
        let Some(occupant) = self.occupants.get_mut(nick) else {
            return Decision::Ignored;
        };
        if let Some(known) = occupant.session(origin.session) {
            let me = RoomSession {
                presence,
                seq: environment.seq,
                ..known.clone()
            };
            occupant.enter(me);
        }
        let mut broadcast = Broadcast::default();
        let Some((occupant, me)) = self.find(origin.session) else {
            return Decision::Ignored;
        };
        if occupant.main.session == me.session {
            self.announce(&mut broadcast, occupant, me.session);
        }
        let own = self.presence_of(occupant, me, true, &[status::SELF]);
        broadcast.add_own(with_id(own, &id), occupant, me);
        broadcast.changes(&occupant.nick);
        Decision::Happens(broadcast, None)
    }

    /// §7.6: the old nick leaves with 303, the new one is announced. Other sessions of the same
    /// user keep the nick that they have.
    fn renames(
        &mut self,
        environment: Environment<'_>,
        origin: &Origin,
        old: &str,
        nick: String,
        stanza: Stanza,
    ) -> Decision {
        if self.is_taken(&nick, &origin.jid) {
            let text = Some("this nickname is taken");
            return Decision::refused(&stanza, Condition::Conflict, text);
        }
        let Some((before, mut me, rest)) = self.leave(origin.session) else {
            return Decision::Ignored;
        };
        let changed = is_changed(&stanza, &nick);
        let (id, presence) = stripped(stanza, &self.jid);
        me.presence = presence;
        me.seq = environment.seq;
        let fresh = self.enter(&nick, before.affiliation, before.role, me);
        let mut broadcast = Broadcast::default();
        let Some((occupant, me)) = self.find(origin.session) else {
            return Decision::Ignored;
        };
        self.tell_old_nick(&mut broadcast, &before, (occupant, me), rest);
        broadcast.changes(old);
        if fresh {
            self.announce(&mut broadcast, occupant, me.session);
        }
        let statuses: &[u16] = if changed {
            &[status::SELF, status::NICK_ASSIGNED]
        } else {
            &[status::SELF]
        };
        let own = self.presence_of(occupant, me, true, statuses);
        broadcast.add_own(with_id(own, &id), occupant, me);
        broadcast.changes(&nick);
        Decision::Happens(broadcast, None)
    }

    /// Announces the nick that a session had `before` it got another one.
    fn tell_old_nick(
        &self,
        broadcast: &mut Broadcast,
        before: &Occupant,
        (occupant, me): (&Occupant, &RoomSession),
        rest: Rest,
    ) {
        let gone = |show_jid, statuses: &[u16]| {
            self.unavailable_of(before, me, show_jid, None, Some(&occupant.nick), statuses)
        };
        broadcast.add(gone(true, &[status::NICK_CHANGED, status::SELF]), [me]);
        let Some(left) = self.occupants.get(&before.nick) else {
            return self.tell_others(broadcast, me.session, |show_jid| {
                gone(show_jid, &[status::NICK_CHANGED])
            });
        };
        if rest == Rest::Successor {
            self.announce(broadcast, left, me.session);
        }
        // From here on the session that left takes the nick for another occupant's.
        let moderator = occupant.role == Role::Moderator;
        broadcast.add(self.presence_of(left, &left.main, moderator, &[]), [me]);
    }

    /// §7.14: a session is out, and with its last session the occupant. `own`: the status codes of its own last
    /// presence, which it gets if [`status::SELF`] is among them, with the id of the presence that it `said`. None: the
    /// session is not in.
    pub(crate) fn leaves(
        &mut self,
        session: u128,
        said: Option<&Stanza>,
        own: &[u16],
    ) -> Option<Broadcast> {
        let (before, me, rest) = self.leave(session)?;
        let mut broadcast = Broadcast::default();
        let left = |show_jid, statuses: &[u16]| {
            self.unavailable_of(&before, &me, show_jid, said, None, statuses)
        };
        if rest == Rest::Nobody {
            let ghost = own.contains(&status::REMOVED_ERROR);
            let statuses: &[u16] = if ghost { &[status::REMOVED_ERROR] } else { &[] };
            self.tell_others(&mut broadcast, session, |show_jid| left(show_jid, statuses));
        } else if rest == Rest::Successor
            && let Some(occupant) = self.occupants.get(&before.nick)
        {
            self.announce(&mut broadcast, occupant, session);
        }
        broadcast.changes(&before.nick);
        if own.contains(&status::SELF) {
            let id = said.map_or("", |said| said.id.as_str());
            broadcast.add_own(with_id(left(true, own), id), &before, &me);
        }
        Some(broadcast)
    }
}

/// §7.2.18: presence without `<x/>` of a session that is not in the room is answered with a kick, so
/// that a client which takes itself for an occupant enters again.
pub(crate) fn not_inside(presence: &Stanza) -> Stanza {
    let mut item = muc::Item::new(muc::Affiliation::None, muc::Role::None);
    item.reason = Some("You are not in the room.".to_owned());
    let x = UserInfo {
        item: Some(item),
        statuses: vec![status::SELF, status::KICKED, status::REMOVED_ERROR],
        destroy: None,
    };
    let mut kick = Stanza::new(Kind::Presence);
    kick.type_ = "unavailable".to_owned();
    kick.id = presence.id.clone();
    kick.from = presence.to.clone();
    kick.to = presence.from.clone();
    kick.push_element(&x.to_element());
    kick
}

/// Whether a nickname is not spelt as the client wrote it (§7.2.2 and §7.6: status 210).
pub(crate) fn is_changed(presence: &Stanza, nick: &str) -> bool {
    let written = presence.written_to.split_once('/');
    written.is_some_and(|(_, written)| written != nick)
}

/// A presence as the room keeps it, and the id that its sender gave it.
pub(crate) fn stripped(mut presence: Stanza, room: &Jid) -> (String, Stanza) {
    let id = std::mem::take(&mut presence.id);
    presence.written_to.clear();
    retain_own(&mut presence, room);
    (id, presence)
}

/// Removes elements that are for the room alone, and elements that only a room may send.
pub(crate) fn retain_own(presence: &mut Stanza, room: &Jid) {
    presence.retain_children(|c| c.ns != ns::MUC && !muc::is_said_by_rooms(c, room.as_str()));
}

/// A client's own presence comes back with the id that the client gave it: clients that know of
/// stable ids wait for it.
pub(crate) fn with_id(mut own: Stanza, id: &str) -> Stanza {
    own.id = id.to_owned();
    own
}

impl Room {
    /// Takes a session out. Returns its occupant as it was, the session, and what is left.
    pub(crate) fn leave(&mut self, session: u128) -> Option<(Occupant, RoomSession, Rest)> {
        let nick = self.by_session.remove(&session)?;
        self.any_left = true;
        self.to_check.remove(&session);
        let occupant = self.occupants.get_mut(&nick)?;
        let before = occupant.clone();
        let me = before.session(session)?.clone();
        let rest = occupant.leave(session);
        if rest == Rest::Nobody {
            self.occupants.remove(&nick);
        }
        Some((before, me, rest))
    }

    /// An occupant's presence to all but one session; to its own others as theirs (§7.2.8).
    pub(crate) fn announce(&self, broadcast: &mut Broadcast, occupant: &Occupant, but: u128) {
        let presence =
            |show_jid, statuses| self.presence_of(occupant, &occupant.main, show_jid, statuses);
        let own = occupant.sessions().filter(|s| s.session != but);
        broadcast.add(presence(true, &[status::SELF]), own);
        for moderators in [true, false] {
            let others = self
                .occupants
                .values()
                .filter(|o| o.nick != occupant.nick && (o.role == Role::Moderator) == moderators)
                .flat_map(Occupant::sessions)
                .chain(self.newcomers().filter(|_| !moderators))
                .filter(|s| s.session != but);
            broadcast.add(presence(moderators, &[]), others);
        }
    }

    /// The presence that all but one session get of an occupant that is gone: moderators see the real JID
    /// (a semi-anonymous room, §4.2).
    pub(crate) fn tell_others(
        &self,
        broadcast: &mut Broadcast,
        session: u128,
        presence: impl Fn(bool) -> Stanza,
    ) {
        for moderators in [true, false] {
            let others = self
                .occupants
                .values()
                .filter(|o| (o.role == Role::Moderator) == moderators)
                .flat_map(Occupant::sessions)
                .chain(self.newcomers().filter(|_| !moderators))
                .filter(|s| s.session != session);
            broadcast.add(presence(moderators), others);
        }
    }
}
