//! What handlers ask for; the slot performs it by the rules of settlement.

use sestina_proto as proto;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sestina_xmpp::xml::Element;

/// One effect.
#[derive(Debug)]
pub enum Effect {
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
    /// Copies on or off for the asking session.
    SetCarbons(bool),
    /// A page of the asker's archive: result messages and the answer follow when it is read.
    QueryArchive {
        /// What to read.
        request: Box<proto::ArchiveQueryRequest>,
        /// XEP-0313 `queryid`.
        queryid: Option<String>,
        /// Newest first within the page.
        flip: bool,
    },
}
