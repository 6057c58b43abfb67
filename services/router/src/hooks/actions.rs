//! Actions: a handler returns them, and the slot performs them by the rules of settlement.

use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

use super::Written;

/// One action.
#[derive(Debug)]
pub enum Action {
    /// A row in the user's archive: trailing, the message travels meanwhile.
    Archive,
    /// Copies to the user's sessions that asked for them and do not get the message itself.
    Carbons,
    /// A row in the user's offline store: binding, answered when it is committed.
    StoreOffline,
    /// The answer to an IQ.
    Result(Option<Element>),
    /// A whole stanza as the answer.
    Reply(Stanza),
    /// An error as the answer.
    Error(Condition, Option<String>),
    /// New data of the asked user: binding. Storage commits it with the answer, an IQ result with this payload; the
    /// actions after it are performed then. At most one, by a handler that needs this data
    /// ([`Registrar::needs`](super::Registrar::needs)). If a request comes again after a takeover, the data may hold
    /// what it has written: the handler must ask for the same again, and the client gets the first answer.
    Store(Written, Option<Element>),
    /// The asking session gets what is pushed under this name from now on.
    Interest(&'static str),
    /// An IQ set with this payload, for the user's sessions that are interested in this name.
    Push(&'static str, Element),
    /// Unavailable presence of the user's sessions, for those to whom they have directed their presence (RFC 6121 §4.6) at
    /// one of these addresses, or within one ([`Jid::is_within`](sestina_xmpp::jid::Jid::is_within)).
    WithdrawPresence(Vec<Jid>),
    /// Copies on or off for the asking session.
    SetCarbons(bool),
    /// A page of the asker's archive: result messages and the answer follow when it is read.
    QueryArchive {
        /// The page to read.
        request: Box<proto::ArchiveQueryRequest>,
        /// XEP-0313 `queryid`.
        queryid: Option<String>,
        /// Newest first within the page.
        flip: bool,
    },
}
