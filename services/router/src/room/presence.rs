//! Presence in a room: new presence, another nick, leaving (XEP-0045 §7.6, §7.7, §7.14).

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_xmpp::ext::muc::{self, UserInfo, status};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::precis::nickname_key;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::input::Origin;
use super::occupant::{Occupant, Rest, Role, RoomSession};
use super::state::{Broadcast, Room};
use crate::worker::core::Core;
use crate::worker::operations::OperationId;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

impl Slot {
    pub(super) fn room_presence(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        to: Jid,
        stanza: Stanza,
    ) {
        let room_jid = to.bare();
        if stanza.type_ == "unavailable" {
            self.room_joining_ends(core, &room_jid, origin.session);
        }
        let known = self
            .rooms
            .get(&room_jid)
            .and_then(|r| r.occupant_of(origin.session))
            .map(|occupant| occupant.nick.clone());
        match (stanza.type_.as_str(), known) {
            ("unavailable", Some(_)) => {
                let ended = hand.key.is(Purpose::Ended);
                self.room_leaves(
                    core,
                    &room_jid,
                    origin.session,
                    Some(&stanza),
                    Some(hand.key),
                    Some(hand.operation),
                    if ended { &[] } else { &[status::SELF] },
                );
            }
            ("unavailable" | "error", _) => {}
            ("", known) => {
                let has = |nick: &&str| known.as_deref() == Some(*nick);
                let nick = to
                    .resource()
                    .filter(|nick| has(nick) || nickname_key(nick).is_some());
                let Some(nick) = nick.map(str::to_owned) else {
                    let text = Some("a nickname is needed: room@service/nick");
                    return self.room_refuse(hand, &stanza, Condition::JidMalformed, text);
                };
                let joins = stanza.child(ns::MUC, "x").is_some();
                match known {
                    None if !joins => self.answer_with(hand, not_inside(&stanza)),
                    Some(old) if old == nick && !joins => {
                        self.room_updates(core, hand, origin, &room_jid, &old, stanza);
                    }
                    Some(old) if old != nick => {
                        self.room_renames(core, hand, origin, &room_jid, &old, nick, stanza);
                    }
                    _ => self.room_joins(core, hand, origin, &room_jid, nick, stanza),
                }
            }
            _ => self.room_refuse(
                hand,
                &stanza,
                Condition::BadRequest,
                Some("unknown presence type"),
            ),
        }
    }

    /// §7.7 and beyond: new presence of a session that is in. Others see that of the main one.
    fn room_updates(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        room_jid: &Jid,
        nick: &str,
        stanza: Stanza,
    ) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        let (id, presence) = stripped(stanza, room_jid);
        let seq = room.coming_seq(self.epoch);
        let Some(occupant) = room.occupants.get_mut(nick) else {
            return;
        };
        if let Some(known) = occupant.session(origin.session) {
            let me = RoomSession {
                presence,
                seq,
                ..known.clone()
            };
            occupant.enter(me);
        }
        let mut broadcast = Broadcast::default();
        let Some((occupant, me)) = room.find(origin.session) else {
            return;
        };
        if occupant.main.session == me.session {
            room.announce(&mut broadcast, occupant, me.session);
        }
        let own = room.presence_of(occupant, me, true, &[status::SELF]);
        broadcast.add_own(with_id(own, &id), occupant, me);
        broadcast.write(core, occupant);
        self.room_emit_for(core, hand, room_jid, broadcast);
    }

    /// §7.6: the old nick leaves with 303, the new one is announced. Other sessions of the same
    /// user keep the nick that they have.
    #[allow(clippy::too_many_arguments)]
    fn room_renames(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        room_jid: &Jid,
        old: &str,
        nick: String,
        stanza: Stanza,
    ) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        if room.is_taken(&nick, &origin.jid) {
            let text = Some("this nickname is taken");
            return self.room_refuse(hand, &stanza, Condition::Conflict, text);
        }
        let Some((before, mut me, rest)) = room.leave(origin.session) else {
            return;
        };
        let changed = is_changed(&stanza, &nick);
        let (id, presence) = stripped(stanza, room_jid);
        me.presence = presence;
        me.seq = room.coming_seq(self.epoch);
        let fresh = room.enter(&nick, before.affiliation, before.role, me);
        core.metrics
            .occupants(i64::from(fresh) - i64::from(rest == Rest::Nobody));
        let mut broadcast = Broadcast::default();
        let Some((occupant, me)) = room.find(origin.session) else {
            return;
        };
        let gone = |show_jid, statuses: &[u16]| {
            room.unavailable_of(&before, me, show_jid, None, Some(&nick), statuses)
        };
        broadcast.add(gone(true, &[status::NICK_CHANGED, status::SELF]), [me]);
        match room.occupants.get(old) {
            None => {
                room.tell_others(&mut broadcast, me.session, |jid| {
                    gone(jid, &[status::NICK_CHANGED])
                });
                broadcast.removed.push(Occupant::field_name(old));
            }
            Some(left) => {
                if rest == Rest::Successor {
                    room.announce(&mut broadcast, left, me.session);
                }
                // From here on the session that left takes the nick for another occupant's.
                let moderator = occupant.role == Role::Moderator;
                broadcast.add(room.presence_of(left, &left.main, moderator, &[]), [me]);
                broadcast.write(core, left);
            }
        }
        if fresh {
            room.announce(&mut broadcast, occupant, me.session);
        }
        let statuses: &[u16] = if changed {
            &[status::SELF, status::NICK_ASSIGNED]
        } else {
            &[status::SELF]
        };
        let own = room.presence_of(occupant, me, true, statuses);
        broadcast.add_own(with_id(own, &id), occupant, me);
        broadcast.write(core, occupant);
        self.room_emit_for(core, hand, room_jid, broadcast);
    }

    /// §7.14: a session is out, and with its last session the occupant. A client that left by
    /// itself gets its own presence back, with status 110.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn room_leaves(
        &mut self,
        core: &mut Core,
        room_jid: &Jid,
        session: u128,
        said: Option<&Stanza>,
        cause: Option<IdempotencyKey>,
        operation: Option<OperationId>,
        own: &[u16],
    ) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        let Some((before, me, rest)) = room.leave(session) else {
            return;
        };
        let mut broadcast = Broadcast::default();
        let left = |show_jid, statuses: &[u16]| {
            room.unavailable_of(&before, &me, show_jid, said, None, statuses)
        };
        if rest == Rest::Nobody {
            core.metrics.occupants(-1);
            let ghost = own.contains(&333);
            let statuses: &[u16] = if ghost { &[status::REMOVED_ERROR] } else { &[] };
            room.tell_others(&mut broadcast, session, |jid| left(jid, statuses));
            broadcast.removed.push(Occupant::field_name(&before.nick));
        } else if let Some(occupant) = room.occupants.get(&before.nick) {
            if rest == Rest::Successor {
                room.announce(&mut broadcast, occupant, session);
            }
            broadcast.write(core, occupant);
        }
        if own.contains(&110) {
            let id = said.map_or("", |said| said.id.as_str());
            broadcast.add_own(with_id(left(true, own), id), &before, &me);
        } else {
            room.last_sent.remove(&session);
        }
        self.room_emit(core, room_jid, broadcast, cause, operation);
    }
}

/// §7.2.18: presence without `<x/>` of a session that is not in the room is answered with a kick, so
/// that a client which takes itself for an occupant enters again.
pub(super) fn not_inside(presence: &Stanza) -> Stanza {
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
pub(super) fn is_changed(presence: &Stanza, nick: &str) -> bool {
    let written = presence.written_to.split_once('/');
    written.is_some_and(|(_, written)| written != nick)
}

/// A presence as the room keeps it, and the id that its sender gave it.
pub(super) fn stripped(mut presence: Stanza, room: &Jid) -> (String, Stanza) {
    let id = std::mem::take(&mut presence.id);
    presence.written_to.clear();
    retain_own(&mut presence, room);
    (id, presence)
}

/// Removes elements that are for the room alone, and elements that only a room may send.
pub(super) fn retain_own(presence: &mut Stanza, room: &Jid) {
    presence.retain_children(|c| c.ns != ns::MUC && !muc::is_said_by_rooms(c, room.as_str()));
}

/// A client's own presence comes back with the id that the client gave it: clients that know of
/// stable ids wait for it.
pub(super) fn with_id(mut own: Stanza, id: &str) -> Stanza {
    own.id = id.to_owned();
    own
}

impl Room {
    /// The occupant of a session, and the session as the occupant has it.
    pub(super) fn find(&self, session: u128) -> Option<(&Occupant, &RoomSession)> {
        let occupant = self.occupant_of(session)?;
        Some((occupant, occupant.session(session)?))
    }

    /// Takes a session out. Returns its occupant as it was, the session, and what is left.
    pub(super) fn leave(&mut self, session: u128) -> Option<(Occupant, RoomSession, Rest)> {
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
    pub(super) fn announce(&self, broadcast: &mut Broadcast, occupant: &Occupant, but: u128) {
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
    pub(super) fn tell_others(
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
