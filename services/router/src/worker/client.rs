//! What the server knows of the client of a session: presence, rooms, copies, what it reads.

use std::collections::BTreeSet;

use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::operations::OperationId;
use super::pages::PageCursor;
use super::residents::Residents;
use super::stored::StoredCursor;
use crate::rng::{HashMap, HashSet};

/// A room that the session has asked to enter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    /// As it was asked for.
    pub(crate) nick: String,
    /// As the room said it is in.
    pub(crate) member: Option<Box<proto::RoomMember>>,
}

/// Presence as last broadcast.
#[derive(Clone, Debug)]
pub(crate) struct Available {
    pub(crate) priority: i8,
    pub(crate) stanza: proto::Stanza,
}

/// The presence and the rooms that a session had when it ended. The owner of the session sends unavailable presence to
/// these rooms, and to the contacts that saw the presence.
#[derive(Debug)]
pub(crate) struct Farewell {
    /// The operation that deletes the session. It has a part for the unavailable presences; none once the owner has sent
    /// them.
    pub(crate) untold: Option<OperationId>,
    pub(crate) available: Option<Box<Available>>,
    pub(crate) joined: HashMap<Jid, Joined>,
    pub(crate) directed: HashSet<Jid>,
}

/// What the server knows of the client of a session, beside its connection.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) anonymous: bool,
    pub(crate) query: std::collections::BTreeMap<String, String>,
    pub(crate) available: Option<Box<Available>>,
    /// The session was detached when its slot got a new owner. The previous owner may have announced the
    /// end of the session and died before the end was written. When the client resumes the session, its
    /// presence is therefore sent again to the user's other sessions.
    pub(crate) waited: bool,
    pub(crate) carbons: bool,
    /// Offline messages are being read: bare-JID messages queue behind them.
    pub(crate) offline_pending: bool,
    /// How far what is stored was read, and what of it was taken; none if there is nothing to do.
    pub(crate) stored: Option<Box<StoredCursor>>,
    /// Its questions to archives; none if there are none.
    pub(crate) pages: Option<Box<PageCursor>>,
    /// It ended, and something of its user is in the store that it did not take.
    pub(crate) left_stored: bool,
    pub(crate) joined: HashMap<Jid, Joined>,
    pub(crate) directed: HashSet<Jid>,
    /// Once the session has ended. Its rooms and presence are here then, and no longer above.
    pub(crate) farewell: Option<Box<Farewell>>,
    /// The names under which the session gets pushes ([`Action::Push`](crate::hooks::Action::Push)).
    pub(crate) interests: BTreeSet<String>,
    pub(crate) residents: Residents,
    /// The router has asked the edge of the session to send stanzas again, because resident data is not known yet.
    pub(crate) sent_back: bool,
    /// When its user's keys were asked for ([`now_ms`](super::core::Core::now_ms)); 0: not by this owner.
    pub(crate) keys_ms: u64,
}

impl Client {
    /// Priority of an available session.
    pub(crate) fn priority(&self) -> Option<i8> {
        self.available.as_ref().map(|a| a.priority)
    }
}
