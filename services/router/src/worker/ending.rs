//! The end of a session. Its owner sends unavailable presence to contacts and rooms, stores the stanzas that the
//! client did not acknowledge or returns them to their senders, and then deletes the session, as soon as no process
//! has stanzas of it.
//!
//! A client that closes its stream ends its session. The owner ends a session, too, for example when the time for its
//! resumption is over. In that case the owner first writes to the state store that the session has ended, and sends the
//! unavailable presences when the state store has answered. If the owner sent them first, it could die before the write:
//! the next owner would let the client resume the session, although the session has left its rooms. While the state
//! store is unavailable, the owner sends the presences without the write.

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::Queue;
use sestina_xmpp::jid::Jid;

use super::channel::{Attachment, Channel, OutItem};
use super::client::Farewell;
use super::core::{Core, LaneRef};
use super::operations::{OnDone, OperationId};
use super::slot::Slot;

impl Slot {
    /// Ends a session from the server's side, with a stream error for its socket. After a takeover
    /// its edge first sends again what the owner before may have accepted.
    pub(crate) fn close_session(
        &mut self,
        core: &mut Core,
        id: u128,
        condition: &'static str,
        text: &'static str,
    ) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.channel.is_replaying()
            && !session.channel.is_ending()
        {
            session.channel.close_asked.get_or_insert((condition, text));
            return;
        }
        if let Some(session) = self.sessions.get(&id)
            && let Some((lane, handle)) = session.channel.edge()
        {
            let close = proto::CloseSession {
                handle,
                generation: session.channel.generation,
                condition: condition.to_owned(),
                text: text.to_owned(),
                // Messages that it did not take are stored first.
                keep: true,
                ended: true,
            };
            core.send_edge(lane, self.slot, self.epoch, Body::Close(close));
        }
        self.end_session(core, id);
    }

    /// The queue of a session is over its bound, or its user or slot over theirs: a reader that slow is
    /// cut off, not waited for.
    pub(crate) fn overflowed(&mut self, core: &mut Core, id: u128, queue: Queue) {
        if self
            .sessions
            .get(&id)
            .is_some_and(|s| s.channel.close_asked.is_some())
        {
            return;
        }
        core.metrics.overflowed(queue);
        let (limit, option) = match queue {
            Queue::User => (core.config.limits.user_queue_bytes, "router.user_queue"),
            Queue::Slot => (core.config.limits.slot_queue_bytes, "router.slot_queue"),
            _ => (core.config.limits.session_queue_bytes, "sm.max_queue"),
        };
        tracing::warn!(jid = %self.sessions.get(&id).map(|s| s.channel.jid.as_str().to_owned()).unwrap_or_default(),
            limit, option, "too much waits for clients; ending the session with most of it");
        self.close_session(
            core,
            id,
            "resource-constraint",
            "too much is waiting for this client",
        );
    }

    /// Ends a session that an earlier owner had ended, by its record. The edge of the session may not know that.
    pub(crate) fn end_restored(&mut self, core: &mut Core, id: u128) {
        let session = self.sessions.get(&id);
        if session.is_some_and(|session| session.channel.edge().is_some()) {
            self.close_session(core, id, "undefined-condition", "the session has ended");
        } else {
            self.end_known(core, id);
        }
    }

    /// Ends a session by a decision of its owner: the state store gets the end before rooms and contacts do.
    pub(super) fn end_session(&mut self, core: &mut Core, id: u128) {
        let Some(operation) = self.begin_end(core, id) else {
            return;
        };
        if core.config.state_store && guard!("written-ends") {
            self.write_end(core, id);
        } else {
            self.tell_end(core, id);
        }
        core.part_done(operation);
    }

    /// Ends a session of which the next owner knows that it is over: the edge of the session or the state store says so.
    pub(crate) fn end_known(&mut self, core: &mut Core, id: u128) {
        if let Some(operation) = self.begin_end(core, id) {
            self.tell_end(core, id);
            core.part_done(operation);
        }
    }

    /// Stores the messages that the client of a session did not acknowledge. The session is deleted when that is done,
    /// and when [`tell_end`](Slot::tell_end) has sent its unavailable presences. Returns the operation that deletes the
    /// session, with one part for the caller; none if the session has ended before.
    fn begin_end(&mut self, core: &mut Core, id: u128) -> Option<OperationId> {
        let session = self.sessions.get_mut(&id)?;
        if session.channel.is_ending() {
            return None;
        }
        failpoint!("router.session_ended");
        let edge = session.channel.edge();
        // It belongs to what this turn has given to the edge, from which a new owner may take the session.
        session.tell_record(core, self.slot, self.epoch);
        if edge.is_none() {
            core.metrics.reattached();
        }
        session.channel.attachment = Attachment::Ending;
        let operation = core.operations.open(OnDone::Ended {
            slot: self.slot,
            session: id,
        });
        core.operations.part(operation);
        session.client.farewell = Some(Box::new(Farewell {
            untold: Some(operation),
            available: session.client.available.take(),
            joined: std::mem::take(&mut session.client.joined),
            directed: std::mem::take(&mut session.client.directed),
        }));
        let closing = session.channel.closing;
        let jid = session.channel.jid.clone();
        if session.channel.sm.is_none() {
            // Without acknowledgements, what was written counts as taken.
            let written = session.channel.outgoing.written;
            session.on_acked(core, written);
        }
        let queue: Vec<(u64, OutItem)> = (session.channel.outgoing.acked + 1..)
            .zip(session.channel.outgoing.queue.drain(..))
            .collect();
        session.channel.outgoing.queue_bytes.clear();
        session.channel.outgoing.bulk_bytes = 0;
        // An owner before this one may have begun to end the session: it may have stored messages that need not be
        // stored any more, and died before another session of the user read them.
        session.client.left_stored = session.channel.copies.was_before
            || session.client.stored.as_ref().is_some_and(|c| c.is_open());
        let user = super::slot::entity_of(jid.bare_str());
        let had = session.channel.outgoing.restored.iter();
        let had = had.filter(|key| key.is(Purpose::Route));
        self.inbox
            .given
            .extend(had.map(|key| (key.origin, key.n, user)));
        for operation in session.channel.state_waits.drain(..) {
            core.part_done(operation);
        }
        session.channel.copies.ended_from = edge;
        if let Some((lane, handle)) = edge {
            self.handles.remove(&(lane.edge, handle));
        }
        core.metrics.ended();
        self.release_previous(core, id);
        self.return_unacknowledged(core, id, &jid, queue, operation);
        self.end_stored(core, id, operation);
        self.end_pages(core, id);
        if closing {
            self.go_on_behind(core, &jid.bare());
        }
        Some(operation)
    }

    /// Writes to the state store that a session has ended. The stanzas of the session's queue stay in the state store:
    /// if this owner dies, the next one stores or returns them again.
    fn write_end(&mut self, core: &mut Core, id: u128) {
        if let Some(waiting) = self.put_record(core, id) {
            waiting.ends.push(id);
        }
    }

    /// Sends the unavailable presence of a session that has ended to the user's other sessions, to rooms and contacts.
    pub(super) fn tell_end(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let (n, generation) = (
            session.channel.incoming.accepted + 1,
            session.channel.generation,
        );
        let jid = session.channel.jid.clone();
        let Some(farewell) = &mut session.client.farewell else {
            return;
        };
        let Some(operation) = farewell.untold.take() else {
            return;
        };
        let was_available = farewell.available.is_some();
        let rooms = farewell
            .joined
            .iter()
            .filter_map(|(room, joined)| room.with_resource(&joined.nick).ok());
        let to: Vec<Jid> = rooms.chain(farewell.directed.iter().cloned()).collect();
        if was_available {
            let key = ended_key(id, n, generation, 0);
            self.tell_own(core, key, &jid, operation);
        }
        for (index, to) in to.into_iter().enumerate() {
            let key = ended_key(id, n, generation, 1 + index);
            let stanza = Slot::unavailable_of(&jid, &to);
            self.send_message(core, id, key, &to, stanza, operation);
        }
        core.part_done(operation);
    }

    /// Releases the keys of unavailable presences that an earlier owner of this session may have sent to the user's
    /// other sessions, when the client resumes the session. No owner sends these presences again. The usual release
    /// needs a stanza from the client, so a client that only receives would keep the keys.
    pub(super) fn release_ends(&mut self, core: &mut Core, user: &Jid, id: u128, generation: u32) {
        let others: Vec<u128> = self.users.get(user).cloned().unwrap_or_default();
        for other in others {
            let session = self.sessions.get_mut(&other);
            let stays = |key: &IdempotencyKey| !is_end_before(*key, id, generation);
            if session.is_some_and(|session| session.channel.keep_keys(stays)) {
                self.touch(core, other);
            }
        }
    }

    fn tell_own(
        &mut self,
        core: &mut Core,
        key: IdempotencyKey,
        jid: &Jid,
        operation: OperationId,
    ) {
        // A later session may have its address, and have said that it is there: a new owner of the slot
        // may hear of it before it hears the last of this one.
        let later = self.session_of(jid).and_then(|id| self.sessions.get(&id));
        let later = later.filter(|session| !session.channel.closing);
        let stanza = match later.and_then(|session| session.client.available.as_ref()) {
            Some(available) => available.stanza.clone(),
            None => Slot::unavailable_of(jid, &jid.bare()).into(),
        };
        // The later session knows its own presence.
        let except = later.map(|session| session.channel.id);
        self.tell_available(core, &jid.bare(), key, stanza, except, Some(operation));
    }

    /// Rooms and contacts have the session's unavailable presence. Stanzas that the client sent before may not be
    /// settled yet: until they are, their keys are needed, and the edge holds its copies.
    pub(crate) fn session_ended(&mut self, core: &mut Core, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id)
            && std::mem::take(&mut session.client.left_stored)
        {
            let user = session.channel.jid.bare();
            if let Some(other) = self.offline_left(core, &user) {
                // A new owner is to read it as well: the record of that session says so.
                let operation = core.operations.open(OnDone::Ended {
                    slot: self.slot,
                    session: id,
                });
                self.keep_registry(core, other, operation);
                return core.part_done(operation);
            }
        }
        if let Some(session) = self.sessions.get_mut(&id)
            && session.channel.incoming.settled < session.channel.incoming.accepted
        {
            session.channel.all_told = true;
            return;
        }
        // Keys are needed until no process is left that could send something again.
        let Some(session) = self
            .sessions
            .get_mut(&id)
            .filter(|s| s.channel.copies.holders.is_empty())
        else {
            return;
        };
        let generation = session.channel.generation;
        let last = [
            session.channel.copies.ended_from.take(),
            session.channel.copies.detached_from.take(),
        ];
        let last = last.into_iter().flatten();
        session.channel.copies.holders = last
            .map(|(lane, handle)| (lane, proto::Detached { handle, generation }))
            .chain(session.channel.copies.previous.drain(..).map(|o| {
                let (handle, generation) = (o.handle, o.generation);
                (o.lane, proto::Detached { handle, generation })
            }))
            .collect();
        if session.channel.copies.holders.is_empty() {
            return self.forget_session(core, id);
        }
        for (lane, gone) in session.channel.copies.holders.clone() {
            self.tell_gone(core, id, lane, gone);
        }
    }

    pub(super) fn tell_gone(
        &self,
        core: &mut Core,
        id: u128,
        lane: LaneRef,
        gone: proto::Detached,
    ) {
        let handle = gone.handle;
        core.send_edge(lane, self.slot, self.epoch, Body::Detached(gone));
        core.gone_told(lane, self.slot, id, handle);
    }

    /// An attachment of a session that is over holds nothing any more.
    pub(crate) fn holder_gone(&mut self, core: &mut Core, id: u128, lane: LaneRef, handle: u64) {
        if let Some(session) = self.sessions.get_mut(&id)
            && !session.channel.copies.holders.is_empty()
        {
            session
                .channel
                .copies
                .holders
                .retain(|(l, gone)| (*l, gone.handle) != (lane, handle));
            if session.channel.copies.holders.is_empty() {
                self.forget_session(core, id);
            }
        }
    }

    pub(super) fn forget_session(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.remove_session(id) else {
            return;
        };
        for target in session.channel.incoming.watermark_targets.keys() {
            core.send_watermark(*target, id, u64::MAX);
        }
        let user = session.channel.jid.bare();
        self.release_own(core, &user, id, u64::MAX);
        self.replica_delete_object(core, Channel::replica_name(id));
    }
}

/// The highest number of addressees that one session can have is below this.
const EACH: u32 = 1 << 12;
/// A key holds the generation of its session modulo this number. The indexes of stanzas that the owner returns to their
/// senders (`returned.rs`) begin at `TURNS * EACH`.
const TURNS: u32 = 1 << 8;

/// The key of the unavailable presence that one addressee gets when a session ends. A router may send it and
/// die before the end of the session is written. If the client then resumes the session and sends no
/// stanza, the later end of the session has the same stanza number, and the addressee would drop its
/// presence as a duplicate. The generation, which a resumption raises, makes the two keys different.
pub(super) fn ended_key(id: u128, n: u64, generation: u32, index: usize) -> IdempotencyKey {
    let index = u32::try_from(index).unwrap_or(u32::MAX) % EACH;
    IdempotencyKey::indexed(id, n, Purpose::Ended, (generation % TURNS) * EACH + index)
}

/// Whether a key is that of an unavailable presence which an owner sent when it ended the session in an earlier
/// generation. The client has resumed the session since then.
fn is_end_before(key: IdempotencyKey, id: u128, generation: u32) -> bool {
    let index = key.index();
    let of_end = key.origin == id && key.is(Purpose::Ended) && index < TURNS * EACH;
    of_end && index / EACH != generation % TURNS
}

#[cfg(test)]
#[path = "ending_tests.rs"]
mod tests;
