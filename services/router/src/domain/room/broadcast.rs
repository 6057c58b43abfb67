//! An event that a room is about to send, and what it changes in the room.

use std::sync::Arc;

use sestina_proto as proto;
use sestina_xmpp::stanza::Stanza;

use super::occupant::{Home, Occupant, RoomSession};

/// Which receiver gets which variant of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    pub(crate) home: Home,
    pub(crate) session: u128,
    /// Its index.
    pub(crate) variant: u32,
    /// See `RoomTarget.affiliation_and_role`.
    pub(crate) affiliation_and_role: u32,
}

/// A part of a room that an event changes: it is written to the state store together with the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// The occupant with this nick, who may be gone.
    Occupant(String),
    /// The message of the history that was the event with this number. It may be gone.
    History(u64),
}

/// An event that a room is about to send: its variants, and which receiver gets which.
#[derive(Debug, Default)]
pub(crate) struct Broadcast {
    pub(crate) variants: Vec<Arc<proto::Stanza>>,
    pub(crate) targets: Vec<Receiver>,
    pub(crate) changed: Vec<Changed>,
}

impl Broadcast {
    /// Adds a variant for these sessions.
    pub(crate) fn add<'a>(
        &mut self,
        stanza: Stanza,
        to: impl IntoIterator<Item = &'a RoomSession>,
    ) -> &mut Self {
        let variant = u32::try_from(self.variants.len()).unwrap_or(u32::MAX);
        let before = self.targets.len();
        self.targets.extend(to.into_iter().map(|s| Receiver {
            home: s.home,
            session: s.session,
            variant,
            affiliation_and_role: 0,
        }));
        if self.targets.len() > before {
            self.variants.push(Arc::new(stanza.into()));
        }
        self
    }

    /// Adds a session's own presence: it remembers what it is here.
    pub(crate) fn add_own(&mut self, own: Stanza, occupant: &Occupant, to: &RoomSession) {
        self.add_as(own, occupant.affiliation_and_role(), to);
    }

    /// The same for a receiver that is no occupant.
    pub(crate) fn add_as(&mut self, own: Stanza, affiliation_and_role: u32, to: &RoomSession) {
        self.add(own, [to]);
        if let Some(target) = self.targets.last_mut() {
            target.affiliation_and_role = affiliation_and_role;
        }
    }

    /// The event changes the occupant with this nick.
    pub(crate) fn changes(&mut self, nick: &str) {
        self.changed.push(Changed::Occupant(nick.to_owned()));
    }
}
