//! A client's record of the numbered stanzas that it received.

use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::xml::Element;

/// One stanza that a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) when: When,
    /// The client's session, counted from its first.
    pub(crate) session: u32,
    pub(crate) what: What,
    /// The number that the sender put into the stanza.
    pub(crate) number: u64,
    pub(crate) came: Came,
    /// Its archive id (XEP-0359); empty if it has none.
    pub(crate) stanza_id: String,
    pub(crate) from: String,
}

/// When a client received something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    /// The step of the simulation.
    pub(crate) step: u64,
    /// The epoch of the client's slot in the table.
    pub(crate) epoch: u64,
}

/// The kind of a received stanza.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Message,
    /// An invitation that a room has passed on.
    Invite,
    Groupchat,
    CarbonSent,
    CarbonReceived,
    Reply,
    Error,
}

impl What {
    /// Whether it is a message for a user, who may be offline.
    pub(crate) fn is_for_user(self) -> bool {
        matches!(self, What::Message | What::Invite)
    }
}

/// By which way a stanza came, read from its delay element (XEP-0203).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Came {
    /// It has no delay element.
    Live,
    /// The server held it until the session was resumed.
    Late,
    /// From the offline store.
    Stored,
    /// From the history that a room sends to a new occupant.
    History,
}

impl Came {
    pub(super) fn of(stanza: &Stanza) -> Came {
        let Some(delay) = stanza.child(ns::DELAY, "delay") else {
            return Came::Live;
        };
        let delay = Element::parse(delay.xml).ok();
        let delay = delay.as_ref().and_then(Delay::parse);
        let by_room = |delay: &Delay| delay.from.as_ref().is_some_and(|from| from.contains('@'));
        match delay {
            Some(delay) if by_room(&delay) => Came::History,
            Some(delay) if delay.reason.is_some() => Came::Stored,
            _ => Came::Late,
        }
    }
}
