//! Entering a room (XEP-0045 §7.2): the occupants, oneself, and what modules send to newcomers.

use sestina_xmpp::ext::muc::status;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::precis::nickname_key;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::broadcast::Broadcast;
use super::occupant::{Affiliation, Occupant, Role, RoomSession};
use super::presence::{is_changed, stripped, with_id};
use super::state::{Decision, Environment, Origin, Room};
use crate::hooks::{Entrance, Newcomer};

impl Room {
    /// A session enters, or asks for everything again. A session that was `told` the occupants in parts is not
    /// told them again.
    pub(crate) fn enters(
        &mut self,
        environment: Environment<'_>,
        origin: Origin,
        nick: String,
        stanza: Stanza,
        told: bool,
    ) -> Decision {
        // A room that was emptying comes to life again.
        let founded = self.occupants.is_empty();
        // §7.2.8: sessions of one user may share a nick.
        if self.is_taken(&nick, &origin.jid) {
            let text = Some("this nickname is taken");
            return Decision::refused(&stanza, Condition::Conflict, text);
        }
        let entrance = Entrance {
            session: origin.session,
        };
        let context = environment.of(self);
        if let Err(bounce) = environment.pipeline.room_pre_join(&context, &entrance) {
            return Decision::bounced(&stanza, &bounce);
        }
        if !told && self.is_told_in_parts(&nick) {
            return self.begins_to_enter(origin, nick, stanza);
        }
        self.stops_entering(origin.session);
        let request = stanza.clone();
        let (id, presence) = stripped(stanza, &self.jid);
        let me = RoomSession {
            jid: origin.jid,
            session: origin.session,
            home: origin.home,
            presence,
            seq: environment.seq,
        };
        let (affiliation, role) = if founded {
            (Affiliation::Owner, Role::Moderator)
        } else {
            (Affiliation::None, Role::Participant)
        };
        if self.enter(&nick, affiliation, role, me.clone()) {
            self.unconfigured = founded;
        }
        let Some(occupant) = self.occupants.get(&nick) else {
            return Decision::Ignored;
        };
        let mut broadcast = Broadcast::default();
        let moderator = occupant.role == Role::Moderator;
        for other in self.occupants.values().filter(|o| o.nick != nick && !told) {
            let presence = self.presence_of(other, &other.main, moderator, &[]);
            broadcast.add(presence, [&me]);
        }
        if occupant.main.session == me.session {
            self.announce(&mut broadcast, occupant, me.session);
        }
        let statuses: &[u16] = match (founded, is_changed(&request, &nick)) {
            (false, false) => &[status::SELF],
            (false, true) => &[status::SELF, status::NICK_ASSIGNED],
            (true, false) => &[status::SELF, status::CREATED],
            (true, true) => &[status::SELF, status::CREATED, status::NICK_ASSIGNED],
        };
        let own = self.presence_of(occupant, &me, true, statuses);
        broadcast.add_own(with_id(own, &id), occupant, &me);
        let newcomer = Newcomer { request: &request };
        let context = environment.of(self);
        for stanza in environment.pipeline.room_joined(&context, &newcomer) {
            broadcast.add(stanza, [&me]);
        }
        broadcast.changes(&nick);
        Decision::Happens(broadcast, None)
    }

    /// Whether another user has this nick, or one that is the same to people (RFC 8266 §2.4).
    pub(crate) fn is_taken(&self, nick: &str, jid: &Jid) -> bool {
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
    pub(crate) fn enter(
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
}
