//! Hooks: typed points in the life of a stanza, ordered by named stages.
//!
//! A module registers *filters* (which may stop a stanza, and exist only in the first two stages),
//! *observers* (which cannot) and IQ handlers. All of them are plain functions: they see a
//! read-only context and return actions as data; the slot executes them. Within a stage, order is
//! that of the list of modules ([`crate::modules::MODULES`]).
//!
//! Each domain has the [`Pipeline`] of the modules that are switched on there, with their settings there; domains where
//! both are the same share one.

mod actions;
mod context;
mod data;
mod pipeline;
mod pipelines;
mod registrar;
mod room;

pub use actions::Action;
pub use context::{IqContext, MessageContext, StanzaContext};
pub use data::{DataType, EntityData, Loaded, Written};
pub use pipeline::{Pipeline, PipelineEntry};
pub use pipelines::Pipelines;
pub use registrar::{Bounce, IqKey, IqTarget, Registrar};
pub(crate) use room::{
    Entrance, Newcomer, RoomAction, RoomContext, RoomHandlers, RoomIq, RoomMessage, RoomReply,
    RoomRequest,
};
use sestina_config::modules::SettingsType;

/// When a handler runs, within one hook point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Stage {
    /// Takes out what a client must not say (forged ids). Filters.
    Sanitize,
    /// Allows or refuses (block lists, limits). Filters.
    Policy,
    /// Archives (before anything that carries the archive's id).
    Archive,
    /// Indexes of conversations.
    Index,
    /// Copies for other devices.
    Mirror,
    /// Tells the outside world.
    Notify,
}

/// Where in the life of a stanza a handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Point {
    /// A stanza of any kind from a session of this user to another entity, before it leaves the user's slot.
    StanzaOut,
    /// A message from a session of this user, before it leaves the user's slot.
    MessageOut,
    /// A stanza of any kind for a user from another entity, in the user's slot.
    StanzaIn,
    /// A message for a user, in the user's slot, before and after it is delivered to sessions.
    MessageIn,
    /// A message for a user of whom nothing can take it.
    Undeliverable,
    /// A session asks to enter a room (XEP-0045 §7.2).
    RoomPreJoin,
    /// A session is in a room now, and has been told the presences of the occupants.
    RoomJoined,
    /// An occupant sends a message to all occupants of a room.
    RoomPreMessage,
    /// The same after no handler has refused the message, before it is sent.
    RoomMessage,
}

/// The description of a module.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Name in the configuration and in every file of the feature.
    pub name: &'static str,
    /// (XEP or RFC, version) that it implements.
    pub specs: &'static [(&'static str, &'static str)],
    /// disco#info features that hosts have with it.
    pub host_features: &'static [&'static str],
    /// disco#info features that accounts have with it.
    pub account_features: &'static [&'static str],
}

/// One feature of the router.
pub trait Module: Send + Sync + 'static {
    /// Its description.
    fn meta(&self) -> &'static Meta;
    /// Adds its handlers, once for each pipeline.
    fn register(&self, registrar: &mut Registrar<'_>);
    /// Its settings, if it has any: the section `[modules.<name>]` of the configuration. Handlers have them from
    /// [`Registrar::settings`].
    fn settings(&self) -> Option<SettingsType> {
        None
    }
    /// Whether other parts of the server need it: it cannot be switched off.
    fn is_required(&self) -> bool {
        false
    }
}
