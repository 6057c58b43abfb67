//! Stanzas that a session which has ended did not take: messages are stored for its user, or sent back to their
//! senders; requests are answered with an error.

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::archive_again::is_from_others;
use super::channel::{OutItem, Source, Taken};
use super::core::Core;
use super::operations::{OnDone, OperationId};
use super::session::Session;
use super::slot::Slot;
use crate::rng::{HashMap, HashSet};

/// The messages that other sessions of a user have, or had.
#[derive(Debug, Default)]
struct Elsewhere {
    /// Messages in their queues: session and place.
    queued: HashMap<IdempotencyKey, Vec<(u128, usize)>>,
    /// The same by the name of the message, of which others have copies.
    originals: HashMap<(u128, u64), Vec<(u128, usize)>>,
    /// Copies of messages in their queues.
    copies: HashSet<(u128, u64)>,
    /// Messages that they got and still know.
    known: HashSet<(u128, u64)>,
}

impl Slot {
    /// Stanzas that a session did not acknowledge (XEP-0198 §5, last paragraphs): messages that no other
    /// session of the user got are stored, or go back to who sent them; what came from the store is
    /// there still. IQ requests that the client has not answered are answered with `service-unavailable` (RFC 6121
    /// §8.5.3.2.3). A new owner does not know which requests the client had answered under the owner before, or
    /// which the owner before has answered: then the requester may get this error and an answer. Operations that wait for a second holder wait until all
    /// of that is done: until then this process may be the only one that has the stanza.
    pub(super) fn return_unacknowledged(
        &mut self,
        core: &mut Core,
        id: u128,
        jid: &Jid,
        queue: Vec<(u64, OutItem)>,
        operation: OperationId,
    ) {
        let user = jid.bare();
        let elsewhere = self.elsewhere(&user);
        for (number, mut item) in queue {
            let waits = item.operation.take();
            if item.row {
                self.leaves_rows(id);
            } else if is_from_others(item.key)
                && item.stanza.kind() == proto::StanzaKind::Message
                && !self.has_another(core, &elsewhere, id, &item, operation)
            {
                self.return_message(core, id, &user, number, &item, (operation, waits));
                continue;
            } else if item.is_request() && !item.taken.as_ref().is_some_and(Taken::is_set) {
                let part = self.returned(core, id, number, (operation, waits));
                let request = Stanza::from((*item.stanza).clone());
                let error = request.error_reply(Condition::ServiceUnavailable, None);
                self.send_back(core, id, number, error, part);
                core.part_done(part);
                continue;
            } else if !is_from_others(item.key) {
                // A copy that was not taken: the message depends on the session that has it.
                let message = (item.key.origin, item.key.n);
                let places = elsewhere.originals.get(&message);
                self.depends_on(core, &item, places.map(Vec::as_slice), operation);
            }
            if let Some(waits) = waits {
                core.part_done(waits);
            }
        }
    }

    fn leaves_rows(&mut self, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.client.left_stored = true;
        }
    }

    fn return_message(
        &mut self,
        core: &mut Core,
        id: u128,
        user: &Jid,
        number: u64,
        item: &OutItem,
        (operation, waits): (OperationId, Option<OperationId>),
    ) {
        let part = self.returned(core, id, number, (operation, waits));
        let stanza = Stanza::from((*item.stanza).clone());
        if core.config.services.has_accounts(user.domain())
            && core.config.offline_limit > 0
            && core.pipelines.of(user.domain()).has("offline")
            && sestina_xmpp::ext::offline::should_store(&stanza)
        {
            let key = item.key.sibling(Purpose::Offline);
            self.store_offline(core, key, part, user, &stanza, item.at_ms);
            self.leaves_rows(id);
        } else if !matches!(stanza.type_.as_str(), "error" | "headline" | "groupchat") {
            let error = stanza.error_reply(Condition::RecipientUnavailable, None);
            self.send_back(core, id, number, error, part);
        }
        core.part_done(part);
    }

    /// Opens the operation of one stanza that is stored or goes back, with one part.
    fn returned(
        &self,
        core: &mut Core,
        session: u128,
        number: u64,
        (ended, waits): (OperationId, Option<OperationId>),
    ) -> OperationId {
        core.operations.part(ended);
        core.operations.open(OnDone::Returned {
            slot: self.slot,
            session,
            number,
            ended,
            waits,
        })
    }

    fn elsewhere(&self, user: &Jid) -> Elsewhere {
        let mut elsewhere = Elsewhere::default();
        for session in self.sessions_of(user) {
            for (place, item) in session.channel.outgoing.queue.iter().enumerate() {
                if is_from_others(item.key) {
                    let places = elsewhere.queued.entry(item.key).or_default();
                    places.push((session.channel.id, place));
                    let message = (item.key.origin, item.key.n);
                    let places = elsewhere.originals.entry(message).or_default();
                    places.push((session.channel.id, place));
                } else {
                    elsewhere.copies.insert((item.key.origin, item.key.n));
                }
            }
            let keys = session.channel.outgoing.in_flight_keys.keys();
            elsewhere.known.extend(keys.map(|key| (key.origin, key.n)));
        }
        elsewhere
    }

    /// Whether another session of the user has, or took, a message that this one did not take.
    fn has_another(
        &mut self,
        core: &mut Core,
        elsewhere: &Elsewhere,
        id: u128,
        item: &OutItem,
        operation: OperationId,
    ) -> bool {
        let message = (item.key.origin, item.key.n);
        if let Some(places) = elsewhere.queued.get(&item.key) {
            self.depends_on(core, item, Some(places), operation);
            return true;
        }
        if item.taken.as_ref().is_some_and(Taken::is_set) {
            return true;
        }
        // A copy that is not taken may come to nothing as well.
        if elsewhere.copies.contains(&message) {
            return false;
        }
        if elsewhere.known.contains(&message) {
            return true;
        }
        if item.source != Source::Shared {
            return false;
        }
        self.may_come_again(id, item.key);
        true
    }

    /// A session ended without a message, or its copy, which sessions at these places wait with. Where
    /// that is a single one, the message depends on it, unless some other has taken the message.
    fn depends_on(
        &mut self,
        core: &mut Core,
        item: &OutItem,
        places: Option<&[(u128, usize)]>,
        operation: OperationId,
    ) {
        let taken = item.taken.as_ref().is_some_and(Taken::is_set);
        if let Some([(session, place)]) = places
            && !taken
        {
            self.is_alone(core, *session, *place, operation);
        }
    }

    /// A message was sent to other sessions of the user as well, and none of them has it or knows its
    /// key. Usually they have taken it, and it is settled. But the owner before this one may have died
    /// before they got it: then the sender's owner sends the message again, and it must not count as
    /// given to this session.
    fn may_come_again(&mut self, id: u128, key: IdempotencyKey) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.channel.outgoing.restored.contains(&key) {
            let user = super::slot::entity_of(session.channel.jid.bare_str());
            self.inbox.given.remove(&(key.origin, key.n, user));
        }
    }

    /// A message was sent again, and now this session alone is to get it; it has it since an owner
    /// before this one. The other sessions that were to get it then have ended.
    pub(super) fn is_alone_now(
        &mut self,
        core: &mut Core,
        id: u128,
        key: IdempotencyKey,
        operation: OperationId,
    ) {
        let place = |session: &Session| {
            session
                .channel
                .number_of(key)?
                .checked_sub(session.channel.outgoing.acked + 1)
        };
        if let Some(place) = self.sessions.get(&id).and_then(|s| place(s)) {
            self.is_alone(
                core,
                id,
                usize::try_from(place).unwrap_or(usize::MAX),
                operation,
            );
        }
    }

    /// A session that was given a message too has ended without it: the operation waits until a second
    /// process knows that the message depends on this one.
    fn is_alone(&mut self, core: &mut Core, id: u128, place: usize, operation: OperationId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(item) = session.channel.outgoing.queue.get_mut(place) else {
            return;
        };
        if item.source != Source::Shared {
            return;
        }
        item.source = Source::Live;
        let message = (item.key.origin, item.key.n);
        if session.channel.outgoing.alone.len() > session.channel.outgoing.queue.len() {
            let queue = session.channel.outgoing.queue.iter();
            let queued: HashSet<_> = queue.map(|i| (i.key.origin, i.key.n)).collect();
            session
                .channel
                .outgoing
                .alone
                .retain(|message| queued.contains(message));
        }
        session.channel.outgoing.alone.insert(message);
        core.operations.part(operation);
        session.channel.state_waits.push(operation);
        if session.channel.edge().is_some() {
            session.channel.state_dirty = true;
            self.touch(core, id);
        } else {
            self.replica_replace_session(core, id);
        }
    }

    /// Sends an error for the outbound stanza of that number, which a session that ended did not
    /// take and that is not stored for it.
    pub(crate) fn send_back(
        &mut self,
        core: &mut Core,
        id: u128,
        number: u64,
        error: Stanza,
        operation: OperationId,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        // Apart from those of rooms and contacts; the number is the same at each replay.
        const RETURNED: u32 = 1 << 20;
        let index = RETURNED | (number as u32 & (RETURNED - 1));
        let key = IdempotencyKey::indexed(
            id,
            session.channel.incoming.accepted + 1,
            Purpose::Ended,
            index,
        );
        let to = Jid::from_wire(&error.to);
        self.send_message(core, id, key, &to, error, operation);
    }
}

#[cfg(test)]
#[path = "returned_tests.rs"]
mod tests;
