//! The contexts that handlers are given.

use sestina_api::key::IdempotencyKey;
use sestina_xmpp::jid::Jid;

use super::Loaded;
use crate::config::RouterConfig;

/// A message at one of the hook points.
#[derive(Debug)]
pub struct MessageContext<'a> {
    /// Whose pipeline it is: the sender's at `MessageOut`, else the addressee's (bare JID).
    pub user: &'a Jid,
    /// The other side, as addressed.
    pub peer: &'a Jid,
    /// Key of the stanza.
    pub key: IdempotencyKey,
    /// Whether the user may have an archive (anonymous users have none).
    pub has_account: bool,
    /// Whether the other side is in a room.
    pub from_room: bool,
    /// Configuration.
    pub config: &'a RouterConfig,
}

/// A stanza of any kind at one of the hook points.
#[derive(Clone, Copy, Debug)]
pub struct StanzaContext<'a> {
    /// Whose pipeline it is: the sender's at `StanzaOut`, else the addressee's (bare JID).
    pub user: &'a Jid,
    /// The other side: the addressee at `StanzaOut`, else the sender.
    pub peer: &'a Jid,
}

/// An IQ for a target of this server.
#[derive(Debug)]
pub struct IqContext<'a> {
    /// Full JID of the asker.
    pub from: &'a Jid,
    /// The addressed entity (the asker's bare JID if the IQ had no `to`).
    pub to: &'a Jid,
    /// Whether the asker's account is anonymous.
    pub anonymous: bool,
    /// Number of sessions of the asked account (0 for others).
    pub sessions: usize,
    /// Full JIDs of the asked account's available sessions, for its owner.
    pub resources: &'a [Jid],
    /// The data of the addressed user that the handler needs.
    pub data: &'a Loaded,
    /// All handlers, for service discovery.
    pub pipeline: &'a super::Pipeline,
    /// Configuration.
    pub config: &'a RouterConfig,
    /// Unix milliseconds.
    pub wall_ms: i64,
}
