//! Pages of archives on their way to a session (XEP-0313): read as its client makes room for them.
//!
//! A question stands in line until its session has room; then storage is asked for a page that is no
//! larger than that, and shorter than the client wanted if need be (XEP-0059 §2.1). The second holder
//! of the answer is the question: it is not settled before an edge has all of the answer.

use std::collections::VecDeque;
use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_xmpp::ext::mam;
use sestina_xmpp::ext::rsm::Page;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;

use super::channel::Source;
use super::core::{Core, Job};
use super::operations::OperationId;
use super::records::id_text;
use super::slot::Slot;
use crate::rng::HashSet;

/// Questions of one session that may stand in line.
const QUESTIONS: usize = 16;
/// A question that has waited for so long is answered if the client has read all that it was sent:
/// the edge holds what the client sent behind it, and reads the client only up to a bound, so that
/// its acknowledgements may stand behind that. Such an answer counts as live.
const WAIT_MS: u64 = 500;

/// A question to an archive that storage is answering, or will be asked.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ArchiveQuery {
    pub slot: u16,
    pub session: u128,
    pub n: u64,
    pub iq: Stanza,
    pub queryid: Option<String>,
    pub flip: bool,
    pub operation: OperationId,
    /// How the messages of its page come into the queue.
    pub(crate) source: Source,
}

/// The questions of a session to archives.
#[derive(Debug, Default)]
pub(crate) struct PageCursor {
    waiting: VecDeque<(ArchiveQuery, proto::ArchiveQueryRequest)>,
    /// Storage is reading a page.
    asked: bool,
    /// Since when the first one waits.
    since_ms: u64,
    /// It is looked at when the first one has waited for long.
    listed: bool,
}

impl PageCursor {
    /// How many questions wait for room.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The operations that wait for their answers.
    pub(super) fn operations(&self) -> impl Iterator<Item = OperationId> {
        self.waiting.iter().map(|(query, _)| query.operation)
    }
}

impl Slot {
    /// A page of the archive was asked for by a stanza of a session (XEP-0313 §4).
    pub(crate) fn query_archive(
        &mut self,
        core: &mut Core,
        mut query: ArchiveQuery,
        request: proto::ArchiveQueryRequest,
    ) {
        let id = query.session;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let cursor = session.client.pages.get_or_insert_default();
        if cursor.waiting.len() >= QUESTIONS {
            let text = Some("too many questions wait; read what came before");
            let error = query.iq.error_reply(Condition::ResourceConstraint, text);
            return self.reply_to(core, id, query.n, error, query.operation);
        }
        // The answer needs its addresses alone.
        query.iq.retain_children(|_| false);
        core.operations.part(query.operation);
        if cursor.waiting.is_empty() {
            cursor.since_ms = core.now_ms;
        }
        cursor.waiting.push_back((query, request));
        self.read_page(core, id, false);
    }

    /// The client took something: what is stored, and pages of archives, may go on.
    pub(crate) fn read_on(&mut self, core: &mut Core, id: u128) {
        self.stored_taken(core, id);
        if self
            .sessions
            .get(&id)
            .is_some_and(|s| s.client.pages.is_some())
        {
            self.read_page(core, id, false);
        }
    }

    /// Asks storage for the next page if the client has room for it, or the question is `late`.
    fn read_page(&mut self, core: &mut Core, id: u128, late: bool) {
        if !self.is_active() {
            return;
        }
        let Some(session) = self.sessions.get_mut(&id).filter(|s| s.channel.is_live()) else {
            return;
        };
        let read = session.channel.outgoing.flying_bytes == 0
            && session.channel.outgoing.sent == session.channel.outgoing.next;
        let late = late && read && session.channel.edge().is_some();
        let room = session.channel.room(&core.config);
        let room = room.or_else(|| late.then_some(core.config.limits.session_credit_bytes));
        let Some(cursor) = session.client.pages.as_mut().filter(|cursor| !cursor.asked) else {
            return;
        };
        let next = room.and_then(|room| Some((room, cursor.waiting.pop_front()?)));
        if let Some((room, (mut query, mut request))) = next {
            cursor.asked = true;
            cursor.since_ms = core.now_ms;
            query.source = match late {
                true => Source::Live,
                false => Source::Page,
            };
            request.max_bytes = u64::try_from(room).unwrap_or(u64::MAX);
            core.storage.pages += 1;
            let job = Job::ArchiveQuery {
                query: Box::new(query),
                request,
            };
            core.storage
                .queries
                .push((core.storage.archive.barrier(), job));
        }
        if cursor.waiting.is_empty() {
            if !cursor.asked {
                session.client.pages = None;
            }
        } else if !std::mem::replace(&mut cursor.listed, true) {
            let due = (cursor.since_ms + WAIT_MS).max(core.now_ms + 1);
            self.archive_rows.pages_late.push((due, id));
        }
    }

    /// The page came: one message for each row, then the answer.
    pub(crate) fn archive_page(
        &mut self,
        core: &mut Core,
        query: ArchiveQuery,
        page: Result<proto::ArchiveQueryReply, ()>,
    ) {
        let (id, operation) = (query.session, query.operation);
        let cursor = self
            .sessions
            .get_mut(&id)
            .and_then(|s| s.client.pages.as_mut());
        if let Some(cursor) = cursor {
            cursor.asked = false;
        }
        let reply = match page {
            Err(()) => {
                let text = Some("storage is unavailable; try again later");
                query.iq.error_reply(Condition::ResourceConstraint, text)
            }
            Ok(page) if page.item_not_found => query.iq.error_reply(Condition::ItemNotFound, None),
            Ok(page) => self.queue_page(core, &query, page),
        };
        self.reply_to(core, id, query.n, reply, operation);
        core.part_done(operation);
        self.read_page(core, id, false);
    }

    /// Queues the messages of a page; returns the answer that follows them.
    fn queue_page(
        &mut self,
        core: &mut Core,
        query: &ArchiveQuery,
        mut page: proto::ArchiveQueryReply,
    ) -> Stanza {
        let edge = |row: Option<&proto::ArchiveRow>| row.map(|r| id_text(&r.stanza_id));
        let set = Page {
            first: edge(page.rows.first()),
            last: edge(page.rows.last()),
            // None of a page from the end: some clients take the page whose index and items make up
            // the count for the last one, whichever way they go.
            first_index: page.first_index,
            count: Some(page.count),
        };
        let complete = page.complete;
        if query.flip {
            page.rows.reverse();
        }
        let (id, n) = (query.session, query.n);
        let jid = self
            .sessions
            .get(&id)
            .map(|session| session.channel.jid.clone());
        let indexes = indexes(&page.rows);
        for (row, index) in page.rows.into_iter().zip(indexes) {
            let (Some(stanza), Some(jid)) = (row.stanza, &jid) else {
                continue;
            };
            let message = mam::result(
                jid.bare_str(),
                jid.as_str(),
                query.queryid.as_deref(),
                &id_text(&row.stanza_id),
                row.at_ms,
                &Stanza::from(stanza),
            );
            let key = IdempotencyKey::indexed(id, n, Purpose::Result, index);
            let message = Arc::new(message.into());
            self.deliver_as(core, id, key, message, Some(query.operation), query.source);
        }
        query.iq.result_reply(Some(&mam::fin(&set, complete, true)))
    }

    /// A session ends: its pages are not needed any more.
    pub(super) fn end_pages(&mut self, core: &mut Core, id: u128) {
        let pages = self
            .sessions
            .get_mut(&id)
            .and_then(|s| s.client.pages.take());
        for operation in pages.iter().flat_map(|pages| pages.operations()) {
            core.part_done(operation);
        }
    }

    /// Answers questions that have waited for long; run at each tick.
    pub(crate) fn late_pages(&mut self, core: &mut Core) {
        let now = core.now_ms;
        let due = self
            .archive_rows
            .pages_late
            .extract_if(.., |(at, _)| *at <= now);
        for id in due.map(|(_, id)| id).collect::<Vec<_>>() {
            let session = self.sessions.get_mut(&id);
            let Some(cursor) = session.and_then(|s| s.client.pages.as_mut()) else {
                continue;
            };
            cursor.listed = false;
            let late = now >= cursor.since_ms + WAIT_MS;
            self.read_page(core, id, late);
        }
    }
}

/// The index of a row in its key: the same at each replay, whatever else is in
/// the page. Rows whose ids begin alike take the next that is free.
fn indexes(rows: &[proto::ArchiveRow]) -> Vec<u32> {
    const ALL: u32 = 0xff_ffff;
    let mut order: Vec<(&[u8], usize)> = rows.iter().map(|r| &r.stanza_id[..]).zip(0..).collect();
    order.sort_unstable();
    let mut used = HashSet::default();
    let mut indexes = vec![0; rows.len()];
    for (stanza_id, place) in order {
        let first = stanza_id.iter().take(3);
        let mut index = first.fold(0, |index, byte| index << 8 | u32::from(*byte));
        while !used.insert(index) {
            index = (index + 1) & ALL;
        }
        if let Some(at) = indexes.get_mut(place) {
            *at = index;
        }
    }
    indexes
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
