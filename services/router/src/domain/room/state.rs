//! A room as XEP-0045 has it: occupants, subject, history. It decides what a stanza does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sestina_xmpp::ext::muc;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::stanza::{Kind, Stanza};
use sestina_xmpp::xml::Element;

use super::broadcast::Broadcast;
use super::entering::Entering;
use super::occupant::{Home, Occupant, RoomSession};
use super::presence::retain_own;
use crate::config::RouterConfig;
use crate::hooks::{Bounce, Pipeline, RoomContext};
use crate::rng::HashMap;

/// A message that a room remembers.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    /// The number of its event.
    pub(crate) seq: u64,
    /// As it was sent to the occupants.
    pub(crate) message: Stanza,
    /// Unix milliseconds.
    pub(crate) at_ms: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) jid: Jid,
    pub(crate) occupants: BTreeMap<String, Occupant>,
    pub(crate) by_session: HashMap<u128, String>,
    pub(crate) subject: Option<Stanza>,
    /// When the subject was set (Unix milliseconds).
    pub(crate) subject_at_ms: i64,
    /// New: its owner has not accepted its configuration, and no other session has entered.
    pub(crate) unconfigured: bool,
    /// In the order of their events.
    pub(crate) history: VecDeque<Remembered>,
    /// Sessions that are being told the occupants before they are in.
    pub(crate) entering: Vec<Entering>,
    /// Sessions of which it is not known whether they are in.
    pub(crate) to_check: BTreeSet<u128>,
    /// Sessions may have left since the event log was empty.
    pub(crate) any_left: bool,
}

/// A session that sends a stanza to a room.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The session.
    pub(crate) session: u128,
    /// Where its owner is found.
    pub(crate) home: Home,
    /// Its full JID.
    pub(crate) jid: Jid,
    /// The session has ended: it gets no stanza any more.
    pub(crate) ended: bool,
}

/// What is around a room when it gets a stanza.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Environment<'a> {
    /// The number of the event that the stanza makes, if it makes one.
    pub(crate) seq: u64,
    /// The identity of the room, which no client knows.
    pub(crate) identity: u128,
    /// Unix milliseconds.
    pub(crate) wall_ms: i64,
    /// The configuration.
    pub(crate) config: &'a RouterConfig,
    /// The handlers of the room.
    pub(crate) pipeline: &'a Pipeline,
}

impl<'a> Environment<'a> {
    /// The context of the handlers of a room.
    pub(crate) fn of(self, room: &'a Room) -> RoomContext<'a> {
        RoomContext {
            room,
            config: self.config,
            wall_ms: self.wall_ms,
        }
    }
}

/// What a room decides about a stanza.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing happens.
    Ignored,
    /// The sender gets this answer.
    Answered(Stanza),
    /// This event happens. The sender may get an answer as well.
    Happens(Broadcast, Option<Stanza>),
    /// The sender (session, and where its owner is) enters when it has been told all occupants; this event tells it the first ones.
    Enters((u128, Home), Broadcast),
    /// These go to the users in their `to`, each once, for the session with this full JID: its stanza waits until they
    /// have been taken, and it gets their errors.
    Sends(Jid, Vec<Stanza>),
    /// A module that needs no room answers this IQ of a session with this full JID.
    ForModules(Jid, Stanza),
}

impl Decision {
    /// The sender gets an error, unless its stanza is one.
    pub(crate) fn refused(stanza: &Stanza, condition: Condition, text: Option<&str>) -> Decision {
        if stanza.is_error() {
            return Decision::Ignored;
        }
        Decision::Answered(stanza.error_reply(condition, text))
    }

    /// A handler has stopped the stanza.
    pub(crate) fn bounced(stanza: &Stanza, bounce: &Bounce) -> Decision {
        match bounce.0.as_deref().filter(|_| !stanza.is_error()) {
            Some(error) => Decision::Answered(stanza.error_reply_with(error)),
            None => Decision::Ignored,
        }
    }
}

impl Room {
    pub(crate) fn new(jid: Jid) -> Room {
        Room {
            jid,
            occupants: BTreeMap::new(),
            by_session: HashMap::default(),
            subject: None,
            subject_at_ms: 0,
            unconfigured: false,
            history: VecDeque::new(),
            entering: Vec::new(),
            to_check: BTreeSet::new(),
            // An owner before may have sent an event to sessions that have left.
            any_left: true,
        }
    }

    /// Decides about a stanza to the room, or to one of its occupants.
    pub(crate) fn stanza(
        &mut self,
        environment: Environment<'_>,
        origin: Origin,
        to: &Jid,
        stanza: Stanza,
    ) -> Decision {
        match stanza.kind {
            Kind::Presence => self.presence(environment, origin, to, stanza),
            Kind::Message if stanza.type_ == "groupchat" => {
                self.groupchat(environment, &origin, to, stanza)
            }
            Kind::Message => self.private_message(environment, &origin, to, stanza),
            Kind::Iq => self.iq(environment, &origin, to, stanza),
        }
    }

    /// Decides about a stanza to a room that does not exist, and that the stanza does not make.
    pub(crate) fn absent(to: &Jid, stanza: &Stanza) -> Decision {
        let (condition, text) = match stanza.kind {
            Kind::Iq if !matches!(stanza.type_.as_str(), "get" | "set") => {
                return Decision::Ignored;
            }
            Kind::Message if stanza.type_ == "groupchat" && to.resource().is_some() => {
                (Condition::BadRequest, Some("groupchat goes to the room"))
            }
            _ => (Condition::ItemNotFound, None),
        };
        Decision::refused(stanza, condition, text)
    }

    pub(crate) fn jid(&self) -> &Jid {
        &self.jid
    }

    pub(crate) fn occupant_count(&self) -> usize {
        self.occupants.len()
    }

    /// How many sessions are in.
    pub(crate) fn session_count(&self) -> usize {
        self.by_session.len()
    }

    /// Whether a user (bare JID) is in.
    pub(crate) fn has_user(&self, user: &Jid) -> bool {
        self.occupants
            .values()
            .any(|occupant| occupant.main.jid.bare() == *user)
    }

    /// The bare JID of the occupant with this nick.
    pub(crate) fn user_of(&self, nick: &str) -> Option<Jid> {
        Some(self.occupants.get(nick)?.main.jid.bare())
    }

    /// Whether a session is in.
    pub(crate) fn is_inside(&self, session: u128) -> bool {
        self.by_session.contains_key(&session)
    }

    /// Whether a session is in, or about to enter.
    pub(crate) fn has_to_do_with(&self, session: u128) -> bool {
        self.is_inside(session) || self.is_entering(session)
    }

    /// Whether no session is in, or about to enter.
    pub(crate) fn is_empty(&self) -> bool {
        self.occupants.is_empty() && self.entering.is_empty()
    }

    /// The message that was the event with this number, if the history has it.
    pub(crate) fn remembered(&self, seq: u64) -> Option<&Remembered> {
        let at = self.history.binary_search_by_key(&seq, |m| m.seq).ok()?;
        self.history.get(at)
    }

    /// Adds an occupant that the state store had.
    pub(crate) fn restore(&mut self, occupant: Occupant) {
        for session in occupant.sessions() {
            let nick = occupant.nick.clone();
            self.by_session.insert(session.session, nick);
        }
        self.occupants.insert(occupant.nick.clone(), occupant);
    }

    /// The messages that it remembers, the oldest first.
    pub(crate) fn history(&self) -> impl Iterator<Item = &Remembered> {
        self.history.iter()
    }

    /// The message that has set the subject, and when that was (Unix milliseconds).
    pub(crate) fn subject(&self) -> Option<(&Stanza, i64)> {
        Some((self.subject.as_ref()?, self.subject_at_ms))
    }

    /// Whether it is new: its owner has not accepted its configuration, and no other session has entered.
    pub(crate) fn is_unconfigured(&self) -> bool {
        self.unconfigured
    }

    pub(crate) fn occupant_of(&self, session: u128) -> Option<&Occupant> {
        self.by_session
            .get(&session)
            .and_then(|nick| self.occupants.get(nick))
    }

    /// The occupant of a session, and the session as the occupant has it.
    pub(crate) fn find(&self, session: u128) -> Option<(&Occupant, &RoomSession)> {
        let occupant = self.occupant_of(session)?;
        Some((occupant, occupant.session(session)?))
    }

    /// Address of an occupant, as others see it.
    pub(crate) fn address(&self, nick: &str) -> String {
        format!("{}/{nick}", self.jid)
    }

    /// All occupants.
    #[cfg(feature = "simulation")]
    pub(crate) fn seen(&self) -> impl Iterator<Item = &Occupant> {
        self.occupants.values()
    }

    /// The nick, role and session identity of every session in the room.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn inside(&self) -> Vec<(String, &'static str, u128)> {
        let members = self.members();
        members
            .map(|(occupant, s)| (occupant.nick.clone(), occupant.role.name(), s.session))
            .collect()
    }

    /// All sessions in the room, each with its occupant.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn members(&self) -> impl Iterator<Item = (&Occupant, &RoomSession)> {
        let occupants = self.occupants.values();
        occupants.flat_map(|occupant| occupant.sessions().map(move |s| (occupant, s)))
    }

    /// All sessions that get the messages of the room.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &RoomSession> {
        self.occupants.values().flat_map(Occupant::sessions)
    }

    /// The presence of an occupant's session as the room sends it (XEP-0045 §7.2.3).
    pub(crate) fn presence_of(
        &self,
        occupant: &Occupant,
        session: &RoomSession,
        show_jid: bool,
        statuses: &[u16],
    ) -> Stanza {
        let mut stanza = session.presence.clone();
        stanza.from = self.address(&occupant.nick);
        stanza.to = String::new();
        stanza.push_element(&user_element(
            occupant.affiliation.name(),
            occupant.role.name(),
            show_jid.then_some(session.jid.as_str()),
            None,
            statuses,
        ));
        stanza
    }

    /// A session's last presence (§7.14), or the last under this nick (§7.6), which keeps the
    /// role.
    pub(crate) fn unavailable_of(
        &self,
        occupant: &Occupant,
        session: &RoomSession,
        show_jid: bool,
        status: Option<&Stanza>,
        new_nick: Option<&str>,
        statuses: &[u16],
    ) -> Stanza {
        let mut stanza = Stanza::new(Kind::Presence);
        if let Some(said) = status {
            stanza.payload = said.payload.clone();
            stanza.index = said.index.clone();
            stanza.lang = said.lang.clone();
            retain_own(&mut stanza, &self.jid);
        }
        stanza.type_ = "unavailable".to_owned();
        stanza.from = self.address(&occupant.nick);
        stanza.push_element(&user_element(
            occupant.affiliation.name(),
            new_nick.map_or("none", |_| occupant.role.name()),
            show_jid.then_some(session.jid.as_str()),
            new_nick,
            statuses,
        ));
        stanza
    }

    /// An occupant's last presence in a room that is destroyed (§10.9).
    pub(crate) fn destroyed(&self, occupant: &Occupant) -> Stanza {
        let item = muc::Item::new(muc::Affiliation::None, muc::Role::None);
        let x = muc::UserInfo {
            item: Some(item),
            statuses: vec![muc::status::SELF],
            destroy: Some(muc::Destroy::default()),
        };
        let mut stanza = Stanza::new(Kind::Presence);
        stanza.type_ = "unavailable".to_owned();
        stanza.from = self.address(&occupant.nick);
        stanza.push_element(&x.to_element());
        stanza
    }
}

/// `<x xmlns='…muc#user'>` with its item and status codes.
fn user_element(
    affiliation: &str,
    role: &str,
    jid: Option<&str>,
    nick: Option<&str>,
    statuses: &[u16],
) -> Element {
    let mut item = Element::new("item", ns::MUC_USER)
        .with_attr("affiliation", affiliation)
        .with_attr("role", role);
    if let Some(jid) = jid {
        item = item.with_attr("jid", jid);
    }
    if let Some(nick) = nick {
        item = item.with_attr("nick", nick);
    }
    let mut x = Element::new("x", ns::MUC_USER).with_child(item);
    for status in statuses {
        x.push(Element::new("status", ns::MUC_USER).with_attr("code", status.to_string()));
    }
    x
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
