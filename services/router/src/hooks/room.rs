//! Points of rooms: what modules decide about entering a room, and about what is said in it.
//!
//! Handlers see the room as it is, and return what is to happen; the room does it. They run in the slot of the room, in
//! the order of their stages, and within a stage in that of their registration.

use std::collections::HashMap;

use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use super::registrar::{Bounce, Registrar};
use super::{Pipeline, Stage};
use crate::config::RouterConfig;
use crate::domain::room::{Occupant, Room};

/// The context of every handler of a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomContext<'a> {
    /// The room as it is.
    pub(crate) room: &'a Room,
    /// Configuration.
    pub(crate) config: &'a RouterConfig,
    /// Unix milliseconds.
    pub(crate) wall_ms: i64,
}

/// A session that asks to enter a room (XEP-0045 §7.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrance {
    /// The session. It may be in already, and ask for everything again.
    pub(crate) session: u128,
}

/// A session that is in now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer<'a> {
    /// The presence with which it has asked to enter.
    pub(crate) request: &'a Stanza,
}

/// A message of an occupant to all others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomMessage<'a> {
    /// The sender.
    pub(crate) sender: &'a Occupant,
    /// As it came from the sender.
    pub(crate) stanza: &'a Stanza,
}

/// A message to the room itself, and not to all occupants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomRequest<'a> {
    /// The occupant that sends it; none if the sender is not in the room.
    pub(crate) asker: Option<&'a Occupant>,
    /// Full JID of the sender.
    pub(crate) from: &'a Jid,
    /// As it came from the sender.
    pub(crate) stanza: &'a Stanza,
}

/// An IQ get or set for a room itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomIq<'a> {
    /// The occupant that asks; none if the asker is not in the room.
    pub(crate) asker: Option<&'a Occupant>,
    /// Get or set.
    pub(crate) set: bool,
    /// Its child.
    pub(crate) payload: &'a Element,
}

/// What a message to all changes in the room, apart from being sent to the occupants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomAction {
    /// The message is the subject from now on.
    SetSubject,
    /// The message is added to the history, which keeps so many messages.
    Remember {
        /// The oldest messages beyond this number are forgotten.
        at_most: usize,
    },
}

/// The answer to an IQ for a room, and what the room does with it.
#[derive(Debug)]
pub(crate) enum RoomReply {
    /// A result with this payload.
    Result(Option<Element>),
    /// An error.
    Error(Condition, Option<String>),
    /// The room is configured from now on: a result follows.
    Configured,
    /// The room is destroyed (XEP-0045 §10.9): a result follows.
    Destroy,
}

/// Lets a session enter, or refuses it.
type PreJoin = fn(&RoomContext<'_>, &Entrance) -> Result<(), Bounce>;
/// Adds stanzas that a newcomer gets, after the presences of all occupants.
type Joined = fn(&RoomContext<'_>, &Newcomer<'_>, &mut Vec<Stanza>);
/// Lets an occupant send a message to all, or refuses it.
type PreMessage = fn(&RoomContext<'_>, &RoomMessage<'_>) -> Result<(), Bounce>;
/// Sees a message to all that no handler has refused.
type Message = fn(&RoomContext<'_>, &RoomMessage<'_>, &mut Vec<RoomAction>);
/// Takes a message to the room itself. The messages that it returns are sent to the users in their `to`.
type Request = fn(&RoomContext<'_>, &RoomRequest<'_>) -> Result<Vec<Stanza>, Bounce>;
/// Answers an IQ.
type Iq = fn(&RoomContext<'_>, &RoomIq<'_>) -> RoomReply;

/// (is it a set, namespace, name)
type RoomIqKey<'a> = (bool, &'a str, &'a str);

/// A handler with its stage and its module.
type Staged<H> = (Stage, &'static str, H);

/// What modules have registered at the points of rooms.
#[derive(Default)]
pub(crate) struct RoomHandlers {
    pre_join: Vec<Staged<PreJoin>>,
    joined: Vec<Staged<Joined>>,
    pre_message: Vec<Staged<PreMessage>>,
    message: Vec<Staged<Message>>,
    /// By namespace and name of a child.
    requests: HashMap<(&'static str, &'static str), (&'static str, Request)>,
    iqs: HashMap<RoomIqKey<'static>, (&'static str, Iq)>,
}

impl RoomHandlers {
    /// Sorts the handlers by stage; those of a stage keep the order of their registration.
    pub(super) fn sort(&mut self) {
        self.pre_join.sort_by_key(|h| h.0);
        self.joined.sort_by_key(|h| h.0);
        self.pre_message.sort_by_key(|h| h.0);
        self.message.sort_by_key(|h| h.0);
    }

    /// All handlers of entrances and messages: name of the point, stage, module, and whether it may refuse.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = (super::Point, Stage, &'static str, bool)> {
        use super::Point::{RoomJoined, RoomMessage, RoomPreJoin, RoomPreMessage};
        let pre_join = self.pre_join.iter().map(|h| (RoomPreJoin, h.0, h.1, true));
        let joined = self.joined.iter().map(|h| (RoomJoined, h.0, h.1, false));
        let pre_message = self.pre_message.iter();
        let pre_message = pre_message.map(|h| (RoomPreMessage, h.0, h.1, true));
        let message = self.message.iter();
        let message = message.map(|h| (RoomMessage, h.0, h.1, false));
        pre_join.chain(joined).chain(pre_message).chain(message)
    }

    /// The keys of all IQ handlers with their modules.
    pub(super) fn iqs(&self) -> impl Iterator<Item = (RoomIqKey<'static>, &'static str)> {
        self.iqs.iter().map(|(key, (module, _))| (*key, *module))
    }
}

impl Registrar<'_> {
    /// Registers a handler that lets sessions enter rooms, or refuses them.
    pub(crate) fn room_pre_join(&mut self, stage: Stage, handler: PreJoin) {
        let handlers = &mut self.collected.rooms.pre_join;
        handlers.push((stage, self.module, handler));
    }

    /// Registers a handler of what newcomers get, after the presences of the occupants and their own.
    pub(crate) fn room_joined(&mut self, stage: Stage, handler: Joined) {
        let handlers = &mut self.collected.rooms.joined;
        handlers.push((stage, self.module, handler));
    }

    /// Registers a handler that lets occupants send messages to all, or refuses them.
    pub(crate) fn room_pre_message(&mut self, stage: Stage, handler: PreMessage) {
        let handlers = &mut self.collected.rooms.pre_message;
        handlers.push((stage, self.module, handler));
    }

    /// Registers a handler of messages to all.
    pub(crate) fn room_message(&mut self, stage: Stage, handler: Message) {
        let handlers = &mut self.collected.rooms.message;
        handlers.push((stage, self.module, handler));
    }

    /// Registers the handler of messages to rooms themselves that have this child.
    ///
    /// # Panics
    /// At start, when another module has it: a defect of the list of modules.
    pub(crate) fn room_request(&mut self, ns: &'static str, name: &'static str, handler: Request) {
        let requests = &mut self.collected.rooms.requests;
        let before = requests.insert((ns, name), (self.module, handler));
        assert!(
            before.is_none(),
            "modules {} and {} both handle messages with {ns} {name} to rooms",
            self.module,
            before.map_or("", |b| b.0)
        );
    }

    /// Registers the handler of an IQ for rooms that needs the room.
    ///
    /// # Panics
    /// At start, when another module has it: a defect of the list of modules.
    pub(crate) fn room_iq(&mut self, set: bool, ns: &'static str, name: &'static str, handler: Iq) {
        let iqs = &mut self.collected.rooms.iqs;
        let before = iqs.insert((set, ns, name), (self.module, handler));
        assert!(
            before.is_none(),
            "modules {} and {} both handle {ns} {name} in rooms",
            self.module,
            before.map_or("", |b| b.0)
        );
    }
}

impl Pipeline {
    /// Whether a session may enter.
    pub(crate) fn room_pre_join(
        &self,
        context: &RoomContext<'_>,
        entrance: &Entrance,
    ) -> Result<(), Bounce> {
        let mut handlers = self.rooms().pre_join.iter();
        handlers.try_for_each(|(_, _, handler)| handler(context, entrance))
    }

    /// What a newcomer gets, after the presences.
    pub(crate) fn room_joined(
        &self,
        context: &RoomContext<'_>,
        newcomer: &Newcomer<'_>,
    ) -> Vec<Stanza> {
        let mut stanzas = Vec::new();
        for (_, _, handler) in &self.rooms().joined {
            handler(context, newcomer, &mut stanzas);
        }
        stanzas
    }

    /// Whether an occupant may send a message to all.
    pub(crate) fn room_pre_message(
        &self,
        context: &RoomContext<'_>,
        message: &RoomMessage<'_>,
    ) -> Result<(), Bounce> {
        let mut handlers = self.rooms().pre_message.iter();
        handlers.try_for_each(|(_, _, handler)| handler(context, message))
    }

    /// What a message to all changes in the room.
    pub(crate) fn room_message(
        &self,
        context: &RoomContext<'_>,
        message: &RoomMessage<'_>,
    ) -> Vec<RoomAction> {
        let mut actions = Vec::new();
        for (_, _, handler) in &self.rooms().message {
            handler(context, message, &mut actions);
        }
        actions
    }

    /// What a message to a room itself makes the room send to users; none if no handler knows the message.
    pub(crate) fn room_request(
        &self,
        context: &RoomContext<'_>,
        request: &RoomRequest<'_>,
    ) -> Option<Result<Vec<Stanza>, Bounce>> {
        let requests: &HashMap<(&str, &str), _> = &self.rooms().requests;
        let mut children = request.stanza.children();
        let (_, handler) = children.find_map(|child| requests.get(&(child.ns, child.name)))?;
        Some(handler(context, request))
    }

    /// Answers an IQ get or set for a room; none if no handler of rooms has it.
    pub(crate) fn room_iq(
        &self,
        context: &RoomContext<'_>,
        asker: Option<&Occupant>,
        stanza: &Stanza,
    ) -> Option<RoomReply> {
        let (child, set) = super::pipeline::only_child(stanza)?;
        let iqs: &HashMap<RoomIqKey<'_>, _> = &self.rooms().iqs;
        let (_, handler) = iqs.get(&(set, child.ns, child.name))?;
        let Ok(payload) = Element::parse(child.xml) else {
            return Some(RoomReply::Error(Condition::BadRequest, None));
        };
        let iq = RoomIq {
            asker,
            set,
            payload: &payload,
        };
        Some(handler(context, &iq))
    }
}

impl RoomContext<'_> {
    /// The address of the room.
    pub(crate) fn jid(&self) -> &Jid {
        self.room.jid()
    }
}
