//! Stored messages on their way to a session (XEP-0160): read as its client makes room for them.
//!
//! The stored messages stand in a session's queue as one element, a *cursor*: rows are read, numbered
//! and queued while the client has room, so that a full store is no load on the session. The row is
//! the second holder of its stanza: it is marked as delivered when the client has taken the stanza,
//! and a session that ends leaves the rest where it is. What comes meanwhile for the bare JID is
//! stored behind it.

use prost::Message as _;
use sestina_api::key::IdempotencyKey;
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::stanza::Stanza;

use super::channel::is_stored;
use super::client::Client;
use super::core::{Core, Job, OfflineRead};
use super::operations::OperationId;
use super::slot::Slot;
use crate::rng::HashSet;

/// How long a session waits before it asks again for what is stored.
const RETRY_MS: u64 = 1000;
/// Rows of one page.
const PAGE_ROWS: u32 = 500;

/// Place of a row among those of its user: (epoch, counter).
pub(super) type Place = (u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct StoredCursor {
    /// There may be rows that no session of the user has.
    pub(super) open: bool,
    /// The question that storage is answering.
    asked: Option<u64>,
    /// Storage is unavailable: it is asked again at a tick.
    waits: bool,
    /// Rows up to here were looked at.
    pub(super) after: Place,
    /// Rows behind this came while messages for the session stood behind the cursor.
    pub(super) since: Place,
    /// How many rows the slot had stored when it was asked; none if some were on their way to
    /// storage.
    complete: Option<u64>,
    /// Rows that were marked as delivered since then: the answer may still have them.
    pub(super) marked: HashSet<IdempotencyKey>,
    /// Rows that the client has taken, to be marked as delivered, and whether others are.
    taken: Vec<IdempotencyKey>,
    marking: bool,
    /// The operation of the session's end, which waits for that.
    ended: Option<OperationId>,
}

impl StoredCursor {
    fn is_idle(&self) -> bool {
        !self.open && self.taken.is_empty() && !self.marking
    }

    /// The client has taken the stanza of this row.
    pub(super) fn took(&mut self, key: IdempotencyKey) {
        self.taken.push(key);
    }

    /// The operation of a session's end, which waits for the rows that its client took.
    pub(super) fn operation(&self) -> Option<OperationId> {
        self.ended
    }

    /// Whether rows may be left in the store.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }
}

impl Client {
    fn drop_idle_cursor(&mut self) {
        if self.stored.as_ref().is_some_and(|cursor| cursor.is_idle()) {
            self.stored = None;
        }
    }
}

impl Slot {
    /// Stores a message for later (XEP-0160), once for each key; the operation waits for the commit.
    /// `at_ms`: when it came, which is the time that it is delivered with (XEP-0203).
    pub(crate) fn store_offline(
        &mut self,
        core: &mut Core,
        key: IdempotencyKey,
        operation: OperationId,
        user: &Jid,
        stanza: &Stanza,
        at_ms: i64,
    ) {
        self.offline_rows.counter += 1;
        let keys = self
            .sessions_of(user)
            .flat_map(|s| s.channel.outgoing.in_flight_keys.keys());
        let queued = keys.filter(|key| is_stored(**key)).count();
        let row = proto::OfflineRow {
            fence: Some(self.fence()),
            bare: user.as_str().to_owned(),
            epoch: self.epoch,
            counter: self.offline_rows.counter,
            key: Some(key.into()),
            at_ms,
            stanza: Some(stanza.clone().into()),
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
        };
        let bytes = row.encoded_len();
        self.offline_rows.open += 1;
        core.operations.part(operation);
        core.storage.offline.push(row, operation, bytes);
    }

    /// A session became reachable: what is stored comes before anything new to the bare JID. One
    /// that is being given it begins anew: it may have passed by what was not for it.
    pub(crate) fn fetch_offline(&mut self, core: &mut Core, id: u128, user: &Jid) {
        let begins = (self.epoch, self.offline_rows.counter);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.client.anonymous || !core.config.services.has_accounts(user.domain()) {
            return;
        }
        session.channel.state_dirty = true;
        if !std::mem::replace(&mut session.client.offline_pending, true) {
            session.client.stored.get_or_insert_default().since = begins;
        }
        self.read_anew(core, id);
    }

    /// Opens the cursor of a session, from the first row on.
    fn read_anew(&mut self, core: &mut Core, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let cursor = session.client.stored.get_or_insert_default();
            (cursor.open, cursor.asked, cursor.after) = (true, None, Place::default());
        }
        self.read_stored(core, id);
    }

    /// Whether a session of the same user is about to end. Messages that it leaves in the store, or adds to it, come
    /// before messages that were stored later, so no other session reads the store until then.
    fn waits_for_closing(&self, id: u128) -> bool {
        let session = self.sessions.get(&id);
        session.is_some_and(|s| s.client.stored.is_some() && self.is_closing(&s.channel.jid.bare()))
    }

    /// Asks storage for the next rows if the client has room for them.
    pub(crate) fn read_stored(&mut self, core: &mut Core, id: u128) {
        if !self.is_active() || self.waits_for_closing(id) {
            return;
        }
        let (slot, epoch) = (self.slot, self.epoch);
        // A row that is still on its way may be committed after the question was answered.
        let complete = (self.offline_rows.open == 0).then_some(self.offline_rows.counter);
        let Some(session) = self.sessions.get_mut(&id).filter(|s| s.channel.is_live()) else {
            return;
        };
        let Some(room) = session.channel.room(&core.config) else {
            return;
        };
        let bare = session.channel.jid.bare_str().to_owned();
        let Some(cursor) = session.client.stored.as_mut() else {
            return;
        };
        if !cursor.open || cursor.waits || cursor.asked.is_some() {
            return;
        }
        self.offline_rows.questions += 1;
        cursor.asked = Some(self.offline_rows.questions);
        cursor.complete = complete;
        cursor.marked.clear();
        let request = proto::OfflineListRequest {
            bare,
            limit: PAGE_ROWS,
            after_epoch: cursor.after.0,
            after_counter: cursor.after.1,
            max_bytes: u64::try_from(room).unwrap_or(u64::MAX),
        };
        core.jobs.push(Job::OfflineList(OfflineRead {
            slot,
            epoch,
            session: id,
            question: self.offline_rows.questions,
            request,
        }));
    }

    /// The next stored messages came: queued with their time (XEP-0203). Behind the last of them,
    /// messages to the bare JID go straight to the session.
    pub(crate) fn stored_rows(
        &mut self,
        core: &mut Core,
        read: &OfflineRead,
        page: Result<proto::OfflineListReply, ()>,
    ) {
        let (id, active) = (read.session, self.is_active());
        let closing = self.waits_for_closing(id);
        let Some(session) = self.sessions.get_mut(&id).filter(|s| s.channel.is_live()) else {
            return;
        };
        let reads = session.channel.edge().is_some();
        let Some(cursor) = session.client.stored.as_mut() else {
            return;
        };
        if cursor.asked != Some(read.question) {
            return;
        }
        cursor.asked = None;
        let Ok(page) = page else {
            // Storage is unavailable: go on live; what is stored comes when it is back.
            cursor.waits = true;
            self.offline_fetched(core, id);
            self.offline_rows.retry.push((core.now_ms + RETRY_MS, id));
            return;
        };
        if !reads || !active || closing {
            // Nothing is queued that no client reads: a resumption asks anew, and so does the end of a session
            // that is about to end.
            return;
        }
        // Only if nothing was on its way when it was asked, nor was stored since.
        let complete = cursor.complete == Some(self.offline_rows.counter);
        self.queue_rows(core, id, page.rows);
        self.mark_stored(core, id);
        if page.more || !complete {
            return self.read_stored(core, id);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(cursor) = session.client.stored.as_mut() {
            cursor.open = false;
        }
        let (user, reachable) = (
            session.channel.jid.bare(),
            session.client.priority() >= Some(0),
        );
        self.offline_fetched(core, id);
        if !reachable {
            // Others have left to it what is not for it now.
            self.offline_left(core, &user);
        }
    }

    /// Messages to its bare JID go straight to the session again.
    fn offline_fetched(&mut self, core: &mut Core, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.client.offline_pending = false;
            session.channel.state_dirty = true;
            session.client.drop_idle_cursor();
            self.touch(core, id);
        }
    }

    /// The client took something: rows of it are marked as delivered, and the next may come.
    pub(crate) fn stored_taken(&mut self, core: &mut Core, id: u128) {
        if self
            .sessions
            .get(&id)
            .is_some_and(|s| s.client.stored.is_some())
        {
            self.mark_stored(core, id);
            self.read_stored(core, id);
        }
    }

    /// Marks what a client has taken as delivered.
    pub(super) fn mark_stored(&mut self, core: &mut Core, id: u128) {
        let fence = self.fence();
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(cursor) = session.client.stored.as_mut() else {
            return;
        };
        if cursor.marking || cursor.taken.is_empty() {
            return;
        }
        cursor.marking = true;
        let keys = std::mem::take(&mut cursor.taken);
        let request = proto::OfflineRemoveRequest {
            fence: Some(fence),
            bare: session.channel.jid.bare_str().to_owned(),
            keys: keys.into_iter().map(Into::into).collect(),
        };
        core.jobs.push(Job::OfflineRemove {
            slot: self.slot,
            session: id,
            request,
        });
    }

    /// Rows are marked as delivered: no session needs to know their keys any more.
    pub(crate) fn stored_marked(
        &mut self,
        core: &mut Core,
        id: u128,
        request: &proto::OfflineRemoveRequest,
    ) {
        let keys: HashSet<IdempotencyKey> = request.keys.iter().map(IdempotencyKey::from).collect();
        let user = Jid::from_wire(&request.bare);
        for other in self.users.get(&user).cloned().unwrap_or_default() {
            let session = self.sessions.get_mut(&other);
            let cursor = session.and_then(|s| s.client.stored.as_mut());
            if let Some(cursor) = cursor.filter(|c| c.asked.is_some()) {
                cursor.marked.extend(keys.iter().copied());
            }
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.channel.release_stored(&keys);
        if let Some(cursor) = session.client.stored.as_mut() {
            cursor.marking = false;
            if let Some(operation) = cursor.ended.take_if(|_| cursor.taken.is_empty()) {
                core.part_done(operation);
            }
        }
        session.client.drop_idle_cursor();
        self.mark_stored(core, id);
        self.touch(core, id);
    }

    /// A session ends: what its client took of the store is marked before it is forgotten.
    pub(super) fn end_stored(&mut self, core: &mut Core, id: u128, operation: OperationId) {
        let cursor = self
            .sessions
            .get_mut(&id)
            .and_then(|s| s.client.stored.as_mut());
        let Some(cursor) = cursor else {
            return;
        };
        (cursor.open, cursor.asked) = (false, None);
        if !cursor.is_idle() {
            core.operations.part(operation);
            cursor.ended = Some(operation);
            self.mark_stored(core, id);
        }
    }

    /// A session that ended has left something in the store: another one of its user gets it, beside
    /// what comes live. Tells which.
    pub(super) fn offline_left(&mut self, core: &mut Core, user: &Jid) -> Option<u128> {
        let reachable = self
            .sessions_of(user)
            .filter(|s| s.client.priority() >= Some(0));
        let best = reachable.max_by_key(|s| (s.channel.edge().is_some(), s.client.priority()));
        let id = best.map(|s| s.channel.id)?;
        self.read_anew(core, id);
        // A new owner, too, is to read it for that session: its record says so.
        match self
            .sessions
            .get_mut(&id)
            .filter(|s| s.channel.edge().is_some())
        {
            Some(session) => {
                session.channel.state_dirty = true;
                self.touch(core, id);
            }
            None => self.replica_session_changed(core, id),
        }
        Some(id)
    }

    /// After a takeover: goes on giving stored messages to sessions that were getting them, and
    /// marks what their clients have taken.
    pub(crate) fn offline_restored(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let known = session.channel.outgoing.in_flight_keys.rows();
        let taken: Vec<IdempotencyKey> = known
            .filter(|(number, key)| *number <= session.channel.outgoing.acked && is_stored(*key))
            .map(|(_, key)| *key)
            .collect();
        if !taken.is_empty() {
            session.client.stored.get_or_insert_default().taken = taken;
        }
        if session.client.offline_pending {
            session.client.stored.get_or_insert_default().open = true;
        }
        self.stored_taken(core, id);
    }

    /// Asks again for what could not be had while storage was unavailable; run at each tick.
    pub(crate) fn retry_offline(&mut self, core: &mut Core) {
        let now = core.now_ms;
        let due: Vec<u128> = self
            .offline_rows
            .retry
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, id)| id)
            .collect();
        for id in due {
            let session = self.sessions.get_mut(&id);
            if let Some(cursor) = session.and_then(|s| s.client.stored.as_mut()) {
                cursor.waits = false;
                self.read_stored(core, id);
            }
        }
    }
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;
