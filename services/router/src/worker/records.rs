//! Records of a message beside its delivery: a row of an archive (trailing), and copies for
//! other devices.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_xmpp::ext::carbons::{self, Direction};
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sha2::{Digest, Sha256};

use super::channel::Taken;
use super::core::Core;
use super::operations::OperationId;
use super::slot::Slot;

/// The XEP-0359 id under which an archive holds a stanza: a hash of the archive and the origin's
/// number, so that a replay gets the same.
pub(crate) fn stanza_id(archive: &str, key: IdempotencyKey) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(archive.as_bytes());
    hash.update([0]);
    hash.update(key.origin.to_be_bytes());
    hash.update(key.n.to_be_bytes());
    let digest = hash.finalize();
    let mut id = [0u8; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

/// Its form in stanzas.
pub fn id_text(id: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(id.len() * 2);
    for byte in id {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

impl Slot {
    /// Appends to the archive of a user of this slot; returns the stanza-id. With `moves`, a row
    /// that is further ahead moves here.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn archive(
        &mut self,
        core: &mut Core,
        user: &Jid,
        peer: &Jid,
        key: IdempotencyKey,
        stanza: &Stanza,
        operation: OperationId,
        moves: bool,
    ) -> String {
        let id = stanza_id(user.as_str(), key);
        let (epoch, counter) = self.next_archive_place();
        let row = proto::ArchiveRow {
            fence: Some(self.fence()),
            archive: user.as_str().to_owned(),
            epoch,
            counter,
            stanza_id: Bytes::copy_from_slice(&id),
            at_ms: core.wall_ms,
            with_bare: peer.bare_str().to_owned(),
            with_resource: peer.resource().unwrap_or_default().to_owned(),
            stanza: Some(stanza.clone().into()),
            moves,
        };
        let bytes = row.encoded_len();
        core.operations.part(operation);
        self.archive_rows.open += 1;
        core.storage.archive.push(row, operation, bytes);
        if let Some(trace) = &core.trace_context.trace {
            core.storage.archive.trace(trace);
        }
        id_text(&id)
    }

    pub(crate) fn fence(&self) -> proto::Fence {
        proto::Fence {
            slot: u32::from(self.slot),
            epoch: self.epoch,
        }
    }

    /// XEP-0280 §7: copies of a sent message for the sender's other sessions.
    pub(crate) fn carbons_sent(
        &mut self,
        core: &mut Core,
        id: u128,
        key: IdempotencyKey,
        stanza: &Stanza,
        archived: Option<&str>,
        operation: OperationId,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let user = session.channel.jid.bare();
        let others: Vec<(u128, Jid)> = self
            .sessions_of(&user)
            .filter(|s| s.channel.id != id && s.client.carbons && s.client.available.is_some())
            .map(|s| (s.channel.id, s.channel.jid.clone()))
            .collect();
        if others.is_empty() {
            return;
        }
        let mut inner = stanza.clone();
        if let Some(archived) = archived {
            super::receive::stamp(&mut inner, &user, archived);
        }
        let copy = carbons::wrap(Direction::Sent, &inner, user.as_str(), "");
        let copy = Arc::new(proto::Stanza::from(copy));
        let key = key.sibling(Purpose::CarbonSent);
        for (other, _) in others {
            self.deliver_to(core, other, key, copy.clone(), Some(operation));
        }
    }

    /// The sessions that get a copy of a message which others get directly.
    pub(crate) fn carbon_targets(&self, user: &Jid, direct: &[u128]) -> Vec<u128> {
        self.sessions_of(user)
            .filter(|s| {
                !direct.contains(&s.channel.id) && s.client.carbons && s.client.available.is_some()
            })
            .map(|s| s.channel.id)
            .collect()
    }

    /// XEP-0280 §6: copies of a received message for sessions that do not get it itself.
    pub(crate) fn carbons_received(
        &mut self,
        core: &mut Core,
        hand: super::receive::InHand,
        user: &Jid,
        stanza: &Stanza,
        direct: &[u128],
        taken: Option<&Taken>,
    ) {
        let others = self.carbon_targets(user, direct);
        if others.is_empty() {
            return;
        }
        let copy = carbons::wrap(Direction::Received, stanza, user.as_str(), "");
        let copy = Arc::new(proto::Stanza::from(copy));
        for other in others {
            let purpose = Purpose::CarbonReceived;
            self.deliver_message_as(core, hand, other, purpose, &copy, taken);
        }
    }
}

/// Whether a child is something that only this server may say of its archives.
pub(crate) fn is_stanza_id_by(child: &sestina_xmpp::stanza::Child<'_>, by: &str) -> bool {
    child.ns == ns::STANZA_ID
        && child.name == "stanza-id"
        && sestina_xmpp::xml::Element::parse(child.xml)
            .is_ok_and(|e| e.attr("by").is_some_and(|b| b == by))
}
