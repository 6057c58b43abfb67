//! Sessions end: everybody is told, what was not taken is kept or sent back, and the session is
//! forgotten once nobody holds anything of it.

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_proto::to_edge::Body;
use sestina_runtime::failpoint;
use sestina_telemetry::Queue;
use sestina_xmpp::jid::Jid;

use super::core::{Core, LaneRef};
use super::session::{Attachment, Joined, OutItem, Session};
use super::slot::Slot;
use super::work::{OnDone, WorkId};

impl Slot {
    /// Ends a session from the server's side, with a stream error for its socket. After a takeover
    /// its edge first sends again what its client knows to be accepted.
    pub(crate) fn close_session(
        &mut self,
        core: &mut Core,
        id: u128,
        condition: &'static str,
        text: &'static str,
    ) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.owes()
            && session.edge().is_some()
        {
            session.close_asked.get_or_insert((condition, text));
            return;
        }
        if let Some(session) = self.sessions.get(&id)
            && let Some((lane, handle)) = session.edge()
        {
            let close = proto::CloseSession {
                handle,
                generation: session.generation,
                condition: condition.to_owned(),
                text: text.to_owned(),
                // What it did not take is stored first.
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
            .is_some_and(|s| s.close_asked.is_some())
        {
            return;
        }
        core.metrics.overflowed(queue);
        let (limit, option) = match queue {
            Queue::User => (core.config.user_queue_bytes, "router.user_queue"),
            Queue::Slot => (core.config.slot_queue_bytes, "router.slot_queue"),
            _ => (core.config.session_queue_bytes, "sm.max_queue"),
        };
        tracing::warn!(jid = %self.sessions.get(&id).map(|s| s.jid.as_str().to_owned()).unwrap_or_default(),
            limit, option, "too much waits for clients; ending the session with most of it");
        self.close_session(
            core,
            id,
            "resource-constraint",
            "too much is waiting for this client",
        );
    }

    /// Tells everybody that a session is over: its own resources, rooms, contacts; what it did not
    /// take goes to the offline store. Forgotten when all of that is done.
    pub(crate) fn end_session(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.is_ending() {
            return;
        }
        failpoint!("router.session_ended");
        let edge = session.edge();
        // It belongs to what this turn has given to the edge, from which a new owner may take the session.
        session.tell_record(core, self.slot, self.epoch);
        if edge.is_none() {
            core.metrics.reattached();
        }
        session.attachment = Attachment::Ending;
        let work = core.works.open(OnDone::Ended {
            slot: self.slot,
            session: id,
        });
        let was = session.available.take();
        let jid = session.jid.clone();
        let joined: Vec<(Jid, Joined)> = session.joined.drain().collect();
        let directed: Vec<Jid> = session.directed.drain().collect();
        if session.sm.is_none() {
            // Without acknowledgements, what was written counts as taken.
            let written = session.written;
            session.on_acked(core, written);
        }
        let queue: Vec<(u64, OutItem)> =
            (session.acked + 1..).zip(session.queue.drain(..)).collect();
        session.queue_bytes.clear();
        session.bulk_bytes = 0;
        session.left_stored = session.stored.as_ref().is_some_and(|c| c.is_open());
        let user = super::slot::entity_of(jid.bare_str());
        let had = session.restored.iter();
        let had = had.filter(|key| key.kind == EffectKind::Route as u32);
        self.given.extend(had.map(|key| (key.origin, key.n, user)));
        for work in session.state_waits.drain(..) {
            core.part_done(work);
        }
        let n = session.accepted + 1;
        let generation = session.generation;
        session.ended_from = edge;
        if let Some((lane, handle)) = edge {
            self.handles.remove(&(lane.edge, handle));
        }
        core.metrics.ended();
        self.release_older(core, id);
        self.return_unacknowledged(core, id, &jid, queue, work);
        self.end_stored(core, id, work);
        self.end_pages(core, id);
        if was.is_some() {
            let key = ended_key(id, n, generation, 0);
            self.tell_own(core, key, &jid, work);
        }
        let rooms = joined
            .iter()
            .filter_map(|(room, joined)| room.with_resource(&joined.nick).ok());
        for (index, to) in rooms.chain(directed).enumerate() {
            let key = ended_key(id, n, generation, 1 + index);
            let stanza = Slot::unavailable_of(&jid, &to);
            self.send_effect(core, id, key, &to, stanza, work);
        }
        core.part_done(work);
    }

    fn tell_own(&mut self, core: &mut Core, key: EffectKey, jid: &Jid, work: WorkId) {
        // A later session may have its address, and have said that it is there: a new owner of the slot
        // may hear of it before it hears the last of this one.
        let later = self.session_of(jid).and_then(|id| self.sessions.get(&id));
        let stanza = match later.and_then(|session| session.available.as_ref()) {
            Some(available) => available.stanza.clone(),
            None => Slot::unavailable_of(jid, &jid.bare()).into(),
        };
        self.tell_available(core, &jid.bare(), key, stanza, None, Some(work));
    }

    /// Everybody was told. What the client sent before may still be under way: until it is settled
    /// its keys are needed, and the edge holds its copies.
    pub(crate) fn session_ended(&mut self, core: &mut Core, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id)
            && std::mem::take(&mut session.left_stored)
        {
            let user = session.jid.bare();
            if let Some(other) = self.offline_left(core, &user) {
                // A new owner is to read it as well: the record of that session says so.
                let work = core.works.open(OnDone::Ended {
                    slot: self.slot,
                    session: id,
                });
                self.keep_registry(core, other, work);
                return core.part_done(work);
            }
        }
        if let Some(session) = self.sessions.get_mut(&id)
            && session.settled < session.accepted
        {
            session.all_told = true;
            return;
        }
        // Keys are needed until nobody is left who could send something again.
        let Some(session) = self.sessions.get_mut(&id).filter(|s| s.holders.is_empty()) else {
            return;
        };
        let generation = session.generation;
        let last = [session.ended_from.take(), session.detached_from.take()];
        let last = last.into_iter().flatten();
        session.holders = last
            .map(|(lane, handle)| (lane, proto::Detached { handle, generation }))
            .chain(session.older.drain(..).map(|o| {
                let (handle, generation) = (o.handle, o.generation);
                (o.lane, proto::Detached { handle, generation })
            }))
            .collect();
        if session.holders.is_empty() {
            return self.forget_session(core, id);
        }
        for (lane, gone) in session.holders.clone() {
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
            && !session.holders.is_empty()
        {
            session
                .holders
                .retain(|(l, gone)| (*l, gone.handle) != (lane, handle));
            if session.holders.is_empty() {
                self.forget_session(core, id);
            }
        }
    }

    pub(super) fn forget_session(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.remove_session(id) else {
            return;
        };
        for target in session.mark_targets.keys() {
            core.send_mark(*target, id, u64::MAX);
        }
        let user = session.jid.bare();
        self.release_own(core, &user, id, u64::MAX);
        self.shadow_delete_object(core, Session::shadow_object(id));
    }
}

/// The key of the unavailable presence that one addressee gets when a session ends. A router may send it and
/// die before the end of the session is written. If the client then resumes the session and sends no
/// stanza, the later end of the session has the same stanza number, and the addressee would drop its
/// presence as a duplicate. The generation, which a resumption raises, makes the two keys different.
pub(super) fn ended_key(id: u128, n: u64, generation: u32, index: usize) -> EffectKey {
    /// More than there are addressees of one session.
    const EACH: u32 = 1 << 12;
    /// Numbers above these are those of what goes back to senders (`returned.rs`).
    const TURNS: u32 = 1 << 8;
    let index = u32::try_from(index).unwrap_or(u32::MAX) % EACH;
    EffectKey::indexed(
        id,
        n,
        EffectKind::Ended,
        (generation % TURNS) * EACH + index,
    )
}

#[cfg(test)]
#[path = "ending_tests.rs"]
mod tests;
