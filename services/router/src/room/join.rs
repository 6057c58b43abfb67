//! Entering a room, presence in it, changing the nick, leaving (XEP-0045 §7.1 to §7.7, §7.14).

use sestina_api::key::{EffectKey, EffectKind};
use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::input::Origin;
use super::state::{Affiliation, Emission, Occupant, Role, Room};
use crate::worker::core::Core;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;
use crate::worker::work::WorkId;

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
        let known = self
            .rooms
            .get(&room_jid)
            .and_then(|r| r.occupant_of(origin.session))
            .cloned();
        match (stanza.type_.as_str(), known) {
            ("unavailable", Some(occupant)) => {
                let ended = hand.key.kind & 0xff == EffectKind::Ended as u32;
                self.room_leaves(
                    core,
                    &room_jid,
                    &occupant,
                    Some(&stanza),
                    Some(hand.key),
                    Some(hand.work),
                    if ended { &[] } else { &[110] },
                );
            }
            ("unavailable" | "error", _) => {}
            ("", known) => {
                let Some(nick) = to.resource().map(str::to_owned) else {
                    let text = Some("a nickname is needed: room@service/nick");
                    return self.room_refuse(hand, &stanza, Condition::JidMalformed, text);
                };
                let joins = stanza.child(ns::MUC, "x").is_some();
                match known {
                    Some(occupant) if occupant.nick == nick && !joins => {
                        self.room_updates(core, hand, &room_jid, occupant, stanza);
                    }
                    Some(occupant) if occupant.nick != nick => {
                        self.room_renames(core, hand, &room_jid, occupant, nick, stanza);
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

    /// §7.2: enters, or asks for everything again.
    fn room_joins(
        &mut self,
        core: &mut Core,
        hand: InHand,
        origin: Origin,
        room_jid: &Jid,
        nick: String,
        stanza: Stanza,
    ) {
        let created = !self.rooms.contains_key(room_jid);
        if created && self.rooms.len() >= core.config.max_rooms_per_slot {
            let text = Some("too many rooms");
            return self.room_refuse(hand, &stanza, Condition::ResourceConstraint, text);
        }
        let room = self
            .rooms
            .entry(room_jid.clone())
            .or_insert_with(|| Room::new(room_jid.clone(), self.slot));
        // A room that was emptying comes to life again.
        let founded = room.occupants.is_empty();
        if let Some(holder) = room.occupants.get(&nick)
            && holder.session != origin.session
        {
            if holder.jid != origin.jid {
                let text = Some("this nickname is taken");
                return self.room_refuse(hand, &stanza, Condition::Conflict, text);
            }
            // The same full JID with a new session: its older session is gone.
            let old = holder.session;
            room.by_session.remove(&old);
            room.last_sent.remove(&old);
        }
        if !room.occupants.contains_key(&nick)
            && room.occupants.len() >= core.config.max_room_occupants
        {
            let text = Some("the room is full");
            return self.room_refuse(hand, &stanza, Condition::ServiceUnavailable, text);
        }
        if created {
            core.metrics.rooms(1);
        }
        let request = history_request(&stanza);
        let mut presence = stanza;
        let id = std::mem::take(&mut presence.id);
        presence.retain_children(|c| c.ns != ns::MUC && c.ns != ns::MUC_USER);
        let before = room.occupants.get(&nick);
        if before.is_none() {
            core.metrics.occupants(1);
        }
        let (affiliation, role) = match before {
            Some(occupant) => (occupant.affiliation, occupant.role),
            None if founded => (Affiliation::Owner, Role::Moderator),
            None => (Affiliation::None, Role::Participant),
        };
        let occupant = Occupant {
            nick: nick.clone(),
            jid: origin.jid,
            session: origin.session,
            slot: origin.slot,
            affiliation,
            role,
            presence,
        };
        room.by_session.insert(occupant.session, nick.clone());
        room.occupants.insert(nick.clone(), occupant.clone());
        let mut emission = Emission::default();
        let moderator = role == Role::Moderator;
        for other in room.occupants.values().filter(|o| o.nick != nick) {
            emission.say(room.presence_of(other, moderator, &[]), [&occupant]);
        }
        room.announce(&mut emission, &occupant);
        let statuses: &[u16] = if founded { &[110, 201] } else { &[110] };
        let own = room.presence_of(&occupant, true, statuses);
        emission.say(with_id(own, &id), [&occupant]);
        for (_, said, at_ms) in room.history_for(&request, core.wall_ms) {
            let mut said = said.clone();
            said.push_element(&Delay::new(Some(room_jid.as_str()), *at_ms).to_element());
            emission.say(said, [&occupant]);
        }
        emission.say(room.subject_message(), [&occupant]);
        if core.config.shadow {
            emission.fields.push(Room::occupant_field(&occupant));
        }
        self.room_emit(core, room_jid, emission, Some(hand.key), Some(hand.work));
    }

    /// §7.7 and beyond: new presence of somebody who is in.
    fn room_updates(
        &mut self,
        core: &mut Core,
        hand: InHand,
        room_jid: &Jid,
        mut occupant: Occupant,
        stanza: Stanza,
    ) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        occupant.presence = stanza;
        let id = std::mem::take(&mut occupant.presence.id);
        occupant
            .presence
            .retain_children(|c| c.ns != ns::MUC && c.ns != ns::MUC_USER);
        room.occupants
            .insert(occupant.nick.clone(), occupant.clone());
        let mut emission = Emission::default();
        room.announce(&mut emission, &occupant);
        let own = room.presence_of(&occupant, true, &[110]);
        emission.say(with_id(own, &id), [&occupant]);
        if core.config.shadow {
            emission.fields.push(Room::occupant_field(&occupant));
        }
        self.room_emit(core, room_jid, emission, Some(hand.key), Some(hand.work));
    }

    /// §7.6: the old nick leaves with 303, the new one is announced.
    fn room_renames(
        &mut self,
        core: &mut Core,
        hand: InHand,
        room_jid: &Jid,
        occupant: Occupant,
        nick: String,
        stanza: Stanza,
    ) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        if room.occupants.contains_key(&nick) {
            let text = Some("this nickname is taken");
            return self.room_refuse(hand, &stanza, Condition::Conflict, text);
        }
        room.occupants.remove(&occupant.nick);
        let mut renamed = occupant.clone();
        renamed.nick = nick.clone();
        renamed.presence = stanza;
        let id = std::mem::take(&mut renamed.presence.id);
        renamed
            .presence
            .retain_children(|c| c.ns != ns::MUC && c.ns != ns::MUC_USER);
        room.by_session.insert(renamed.session, nick.clone());
        room.occupants.insert(nick.clone(), renamed.clone());
        let mut emission = Emission::default();
        let gone = |show_jid, statuses: &[u16]| {
            room.unavailable_of(&occupant, show_jid, None, Some(&nick), statuses)
        };
        room.tell_others(&mut emission, renamed.session, |jid| gone(jid, &[303]));
        emission.say(gone(true, &[303, 110]), [&renamed]);
        room.announce(&mut emission, &renamed);
        let own = room.presence_of(&renamed, true, &[110]);
        emission.say(with_id(own, &id), [&renamed]);
        emission.removed.push(format!("o:{}", occupant.nick));
        if core.config.shadow {
            emission.fields.push(Room::occupant_field(&renamed));
        }
        self.room_emit(core, room_jid, emission, Some(hand.key), Some(hand.work));
    }

    /// §7.14: somebody is out. Who left by itself gets its own presence back, with 110.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn room_leaves(
        &mut self,
        core: &mut Core,
        room_jid: &Jid,
        occupant: &Occupant,
        said: Option<&Stanza>,
        cause: Option<EffectKey>,
        work: Option<WorkId>,
        own: &[u16],
    ) {
        let Some(room) = self.rooms.get_mut(room_jid) else {
            return;
        };
        room.occupants.remove(&occupant.nick);
        room.by_session.remove(&occupant.session);
        core.metrics.occupants(-1);
        let mut emission = Emission::default();
        let ghost = own.contains(&333);
        let statuses: &[u16] = if ghost { &[333] } else { &[] };
        let left = |show_jid, statuses: &[u16]| {
            room.unavailable_of(occupant, show_jid, said, None, statuses)
        };
        room.tell_others(&mut emission, occupant.session, |jid| left(jid, statuses));
        if own.contains(&110) {
            let id = said.map_or("", |said| said.id.as_str());
            emission.say(with_id(left(true, own), id), [occupant]);
        } else {
            room.last_sent.remove(&occupant.session);
        }
        emission.removed.push(format!("o:{}", occupant.nick));
        self.room_emit(core, room_jid, emission, cause, work);
    }
}

/// One's own presence comes back with the id that one gave it: clients that read of stable ids wait
/// for it.
fn with_id(mut own: Stanza, id: &str) -> Stanza {
    own.id = id.to_owned();
    own
}

impl Room {
    /// An occupant's presence to all others.
    fn announce(&self, emission: &mut Emission, occupant: &Occupant) {
        self.tell_others(emission, occupant.session, |show_jid| {
            self.presence_of(occupant, show_jid, &[])
        });
    }

    /// What all but one session are told of its occupant: moderators see the real JID (a
    /// semi-anonymous room, §4.2).
    fn tell_others(
        &self,
        emission: &mut Emission,
        session: u128,
        presence: impl Fn(bool) -> Stanza,
    ) {
        let others = |moderators: bool| {
            self.occupants
                .values()
                .filter(move |o| o.session != session && (o.role == Role::Moderator) == moderators)
        };
        emission.say(presence(true), others(true));
        emission.say(presence(false), others(false));
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
