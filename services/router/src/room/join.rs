//! Entering a room (XEP-0045 §7.2): who is there, oneself, the history, the subject.

use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ext::muc::status;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::precis::nickname_key;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::input::Origin;
use super::occupant::{Affiliation, Occupant, Role, RoomSession};
use super::presence::{is_changed, stripped, with_id};
use super::state::{Broadcast, Room};
use crate::worker::core::Core;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

impl Slot {
    /// Enters, or asks for everything again.
    pub(super) fn room_joins(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        room_jid: &Jid,
        nick: String,
        stanza: Stanza,
    ) {
        self.room_enters(core, hand, origin, room_jid, nick, stanza, false);
    }

    /// The same for a session that was already `told` the occupants in parts, or was not.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn room_enters(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        room_jid: &Jid,
        nick: String,
        stanza: Stanza,
        told: bool,
    ) {
        let created = !self.rooms.contains_key(room_jid);
        if created && self.rooms.len() >= core.config.limits.max_rooms_per_slot {
            let text = Some("too many rooms");
            return self.room_refuse(hand, &stanza, Condition::ResourceConstraint, text);
        }
        let (slot, after) = (self.slot, self.rooms_seq);
        let room = self
            .rooms
            .entry(room_jid.clone())
            .or_insert_with(|| Room::new(room_jid.clone(), slot, after));
        // A room that was emptying comes to life again.
        let founded = room.occupants.is_empty();
        // §7.2.8: sessions of one user may share a nick.
        if room.is_taken(&nick, &origin.jid) {
            let text = Some("this nickname is taken");
            return self.room_refuse(hand, &stanza, Condition::Conflict, text);
        }
        if !room.by_session.contains_key(&origin.session)
            && room.by_session.len() >= core.config.limits.max_room_occupants
        {
            let text = Some("the room is full");
            return self.room_refuse(hand, &stanza, Condition::ServiceUnavailable, text);
        }
        if created {
            core.metrics.rooms(1);
        }
        if !told && room.is_told_in_parts(&nick) {
            return self.room_joins_in_parts(core, hand, origin, room_jid, nick, stanza);
        }
        let request = history_request(&stanza);
        let changed = is_changed(&stanza, &nick);
        let (id, presence) = stripped(stanza, room_jid);
        let me = RoomSession {
            jid: origin.jid,
            session: origin.session,
            slot: origin.slot,
            presence,
            seq: room.coming_seq(self.epoch),
        };
        let (affiliation, role) = if founded {
            (Affiliation::Owner, Role::Moderator)
        } else {
            (Affiliation::None, Role::Participant)
        };
        if room.enter(&nick, affiliation, role, me.clone()) {
            core.metrics.occupants(1);
            room.unconfigured = founded;
        }
        let Some(occupant) = room.occupants.get(&nick) else {
            return;
        };
        let mut broadcast = Broadcast::default();
        let moderator = occupant.role == Role::Moderator;
        for other in room.occupants.values().filter(|o| o.nick != nick && !told) {
            let presence = room.presence_of(other, &other.main, moderator, &[]);
            broadcast.add(presence, [&me]);
        }
        if occupant.main.session == me.session {
            room.announce(&mut broadcast, occupant, me.session);
        }
        let statuses: &[u16] = match (founded, changed) {
            (false, false) => &[status::SELF],
            (false, true) => &[status::SELF, status::NICK_ASSIGNED],
            (true, false) => &[status::SELF, status::CREATED],
            (true, true) => &[status::SELF, status::CREATED, status::NICK_ASSIGNED],
        };
        let own = room.presence_of(occupant, &me, true, statuses);
        broadcast.add_own(with_id(own, &id), occupant, &me);
        for (_, said, at_ms) in room.history_for(&request, core.wall_ms) {
            let mut said = said.clone();
            said.push_element(&Delay::new(Some(room_jid.as_str()), *at_ms).to_element());
            broadcast.add(said, [&me]);
        }
        broadcast.add(room.subject_message(), [&me]);
        broadcast.write(core, occupant);
        self.room_emit_for(core, hand, room_jid, broadcast);
    }
}

impl Room {
    /// Whether another user has this nick, or one that is the same to people (RFC 8266 §2.4).
    pub(super) fn is_taken(&self, nick: &str, jid: &Jid) -> bool {
        if let Some(occupant) = self.occupants.get(nick) {
            return !occupant.is_of(jid);
        }
        nickname_key(nick).is_some_and(|key| {
            let mut occupants = self.occupants.values();
            occupants.any(|o| o.key() == key && !o.is_of(jid))
        })
    }

    /// Puts a session under a nick. True if the nick was free: a new occupant has it now, with
    /// these rights.
    pub(super) fn enter(
        &mut self,
        nick: &str,
        affiliation: Affiliation,
        role: Role,
        me: RoomSession,
    ) -> bool {
        self.by_session.insert(me.session, nick.to_owned());
        let Some(occupant) = self.occupants.get_mut(nick) else {
            let occupant = Occupant::new(nick.to_owned(), affiliation, role, me);
            self.occupants.insert(nick.to_owned(), occupant);
            return true;
        };
        if let Some(old) = occupant.enter(me) {
            self.by_session.remove(&old);
            self.any_left = true;
        }
        false
    }

    /// §7.2.15: the subject, always last, even if there is none.
    fn subject_message(&self) -> Stanza {
        if let Some(subject) = &self.subject {
            let mut subject = subject.clone();
            let delay = Delay::new(Some(self.jid.as_str()), self.subject_at_ms);
            subject.push_element(&delay.to_element());
            return subject;
        }
        let mut stanza = Stanza::new(Kind::Message);
        stanza.type_ = "groupchat".to_owned();
        stanza.from = self.jid.as_str().to_owned();
        stanza.push_element(&Element::new("subject", ns::CLIENT));
        stanza
    }

    /// The part of the history that was asked for (§7.2.14).
    fn history_for<'a>(
        &'a self,
        request: &HistoryRequest,
        now_ms: i64,
    ) -> impl Iterator<Item = &'a (u64, Stanza, i64)> + use<'a> {
        let since = request
            .since_ms
            .max(request.seconds.map_or(i64::MIN, |s| now_ms - s * 1000));
        let wanted: Vec<&(u64, Stanza, i64)> = self
            .history
            .iter()
            .filter(|(_, _, at)| *at >= since)
            .collect();
        let mut skip = wanted.len().saturating_sub(request.max_stanzas);
        let mut chars: usize = wanted
            .iter()
            .skip(skip)
            .map(|(_, s, _)| s.payload.len())
            .sum();
        while chars > request.max_chars && skip < wanted.len() {
            chars -= wanted.get(skip).map_or(0, |(_, s, _)| s.payload.len());
            skip += 1;
        }
        wanted.into_iter().skip(skip)
    }
}

/// `<history/>` of a join.
#[derive(Debug)]
struct HistoryRequest {
    max_stanzas: usize,
    max_chars: usize,
    seconds: Option<i64>,
    since_ms: i64,
}

fn history_request(stanza: &Stanza) -> HistoryRequest {
    let history = stanza
        .element(ns::MUC, "x")
        .and_then(|x| x.child("history", ns::MUC).cloned())
        .unwrap_or_else(|| Element::new("history", ns::MUC));
    let number = |name: &str| history.attr(name).and_then(|v| v.parse::<u32>().ok());
    HistoryRequest {
        max_stanzas: number("maxstanzas").map_or(usize::MAX, |n| n as usize),
        max_chars: number("maxchars").map_or(usize::MAX, |n| n as usize),
        seconds: number("seconds").map(i64::from),
        since_ms: history
            .attr("since")
            .and_then(sestina_xmpp::ext::datetime::parse)
            .unwrap_or(i64::MIN),
    }
}
