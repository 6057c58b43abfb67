//! A session: the channel of one full JID, and what the server knows of its client.

use sestina_xmpp::jid::Jid;

use super::channel::{Attachment, Channel};
use super::client::Client;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) client: Client,
}

impl Session {
    pub(crate) fn new(id: u128, jid: Jid, attachment: Attachment) -> Session {
        Session {
            channel: Channel::new(id, jid, attachment),
            client: Client::default(),
        }
    }
}
