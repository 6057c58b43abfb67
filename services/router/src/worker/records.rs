//! What goes to storage for a message: archive rows (trailing), offline rows (binding), and the
//! reading of both.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_xmpp::ext::carbons::{self, Direction};
use sestina_xmpp::ext::delay::{Delay, is_delay_by};
use sestina_xmpp::ext::mam;
use sestina_xmpp::ext::rsm::Page;
use sestina_xmpp::jid::Jid;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::Stanza;
use sestina_xmpp::stanza::error::Condition;
use sha2::{Digest, Sha256};

use super::core::{Core, Job};
use super::slot::Slot;
use super::work::{OnDone, WorkId};

/// How long a session waits before it asks again for what is stored.
const OFFLINE_RETRY_MS: u64 = 1000;

/// The XEP-0359 id under which an archive holds a stanza: a hash of the archive and the origin's
/// number, so that a replay gets the same.
pub(crate) fn stanza_id(archive: &str, key: EffectKey) -> [u8; 16] {
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
    /// Appends to the archive of a user of this slot; returns the stanza-id. With `moves`, a row of
    /// an older epoch moves here.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn archive(
        &mut self,
        core: &mut Core,
        user: &Jid,
        peer: &Jid,
        key: EffectKey,
        stanza: &Stanza,
        work: WorkId,
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
        core.works.part(work);
        self.archive_open += 1;
        core.archive.push(row, work, bytes);
        if let Some(trace) = &core.passage.trace {
            core.archive.trace(trace);
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
        key: EffectKey,
        stanza: &Stanza,
        archived: Option<&str>,
        work: WorkId,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let user = session.jid.bare();
        let others: Vec<(u128, Jid)> = self
            .sessions_of(&user)
            .filter(|s| s.id != id && s.carbons && s.available.is_some())
            .map(|s| (s.id, s.jid.clone()))
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
        let key = key.sibling(EffectKind::CarbonSent);
        for (other, _) in others {
            self.deliver_to(core, other, key, copy.clone(), Some(work));
        }
    }

    /// XEP-0280 §6: copies of a received message for sessions that do not get it itself.
    pub(crate) fn carbons_received(
        &mut self,
        core: &mut Core,
        hand: super::receive::InHand,
        user: &Jid,
        stanza: &Stanza,
        direct: &[u128],
    ) {
        let others: Vec<u128> = self
            .sessions_of(user)
            .filter(|s| !direct.contains(&s.id) && s.carbons && s.available.is_some())
            .map(|s| s.id)
            .collect();
        if others.is_empty() {
            return;
        }
        let copy = carbons::wrap(Direction::Received, stanza, user.as_str(), "");
        let copy = Arc::new(proto::Stanza::from(copy));
        for other in others {
            self.deliver_effect(core, hand, other, EffectKind::CarbonReceived, &copy);
        }
    }

    /// Stores a message for later (XEP-0160), once for each key; the work waits for the commit.
    /// `at_ms`: when it came, which is the time that it is delivered with (XEP-0203).
    pub(crate) fn store_offline(
        &mut self,
        core: &mut Core,
        key: EffectKey,
        work: WorkId,
        user: &Jid,
        stanza: &Stanza,
        at_ms: i64,
    ) {
        self.offline_counter += 1;
        let row = proto::OfflineRow {
            fence: Some(self.fence()),
            bare: user.as_str().to_owned(),
            epoch: self.epoch,
            counter: self.offline_counter,
            key: Some(key.into()),
            at_ms,
            stanza: Some(stanza.clone().into()),
        };
        let bytes = row.encoded_len();
        self.offline_open += 1;
        core.works.part(work);
        core.offline.push(row, work, bytes);
    }

    /// A session became reachable: read what was stored, before anything new to the bare JID.
    pub(crate) fn fetch_offline(&mut self, core: &mut Core, id: u128, user: &Jid) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.anonymous || session.offline_pending || !core.config.has_accounts(user.domain())
        {
            return;
        }
        session.offline_pending = true;
        self.ask_offline(core, id, user.as_str());
    }

    /// Asks storage for what is stored, and notes what cannot be in its answer.
    pub(crate) fn ask_offline(&mut self, core: &mut Core, id: u128, bare: &str) {
        if self.offline_removing > 0 {
            // What a session before this one was given must not come again.
            return self.offline_waiting.push((id, bare.to_owned()));
        }
        // A row that is still on its way may be committed after the question was answered.
        let complete = self.offline_open == 0;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.offline_asked = complete.then_some(self.offline_counter);
        }
        core.jobs.push(Job::OfflineList {
            slot: self.slot,
            session: id,
            bare: bare.to_owned(),
        });
    }

    /// The stored messages of a user came: deliver them with their time (XEP-0203), then look for
    /// more until there is none; only then messages to the bare JID go straight to the session.
    pub(crate) fn offline_rows(
        &mut self,
        core: &mut Core,
        id: u128,
        bare: &str,
        rows: Result<Vec<proto::OfflineRow>, ()>,
    ) {
        let Some(session) = self.sessions.get_mut(&id).filter(|s| s.is_live()) else {
            return;
        };
        let Ok(rows) = rows else {
            // Storage is away: go on live; what is stored comes when it is back.
            self.offline_fetched(core, id);
            return self
                .offline_retry
                .push((core.now_ms + OFFLINE_RETRY_MS, id));
        };
        if rows.is_empty() {
            // Only if nothing was on its way when it was asked, nor was stored since.
            if session.offline_asked == Some(self.offline_counter) {
                session.release_stored(None);
                self.offline_fetched(core, id);
            } else {
                self.ask_offline(core, id, bare);
            }
            return;
        }
        let keys: Vec<proto::Key> = rows.iter().filter_map(|r| r.key).collect();
        let request = proto::OfflineRemoveRequest {
            fence: Some(self.fence()),
            bare: bare.to_owned(),
            keys,
        };
        let done = OnDone::OfflineDelivered {
            slot: self.slot,
            session: id,
            request: Box::new(request),
        };
        let work = core.works.open(done);
        let domain = Jid::from_wire(bare).domain().to_owned();
        for row in rows {
            let (Some(key), Some(stanza)) = (row.key.as_ref(), row.stanza) else {
                continue;
            };
            let mut stanza = Stanza::from(stanza);
            let delay = Delay {
                from: Some(domain.clone()),
                stamp_ms: row.at_ms,
                reason: Some("Offline storage".to_owned()),
            };
            let key = EffectKey::from(key);
            // A dead owner may have stored what its successor delivered.
            if self.sessions.get(&id).is_some_and(|s| s.has_had(key)) {
                continue;
            }
            // What was stored again has its time already; what was repeated to a session that
            // ended later has the same, which says less.
            if key.kind == EffectKind::Offline as u32 {
                stanza.retain_children(|c| !is_delay_by(c, &domain));
                stanza.push_element(&delay.to_element());
            }
            self.deliver_to(core, id, key, Arc::new(stanza.into()), Some(work));
        }
        core.part_done(work);
    }

    /// Messages to its bare JID go straight to the session again.
    fn offline_fetched(&mut self, core: &mut Core, id: u128) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.offline_pending = false;
            session.state_dirty = true;
            self.touch(core, id);
        }
    }

    /// After a takeover: goes on giving stored messages to sessions that were getting them, and
    /// finds out whether those that they have got are known as delivered.
    pub(crate) fn offline_restored(&mut self, core: &mut Core, id: u128) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let pending = std::mem::take(&mut session.offline_pending);
        if pending || session.has_stored() {
            let user = session.jid.bare();
            self.fetch_offline(core, id, &user);
        }
    }

    /// Asks again for what could not be had while storage was away; run at each tick.
    pub(crate) fn retry_offline(&mut self, core: &mut Core) {
        let now = core.now_ms;
        let due: Vec<u128> = self
            .offline_retry
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, id)| id)
            .collect();
        for id in due {
            if let Some(session) = self.sessions.get(&id).filter(|s| s.is_live()) {
                let bare = session.jid.bare();
                self.ask_offline(core, id, bare.as_str());
            }
        }
    }

    /// Stored messages are held by the owner and an edge: they can go, and the next page may come.
    pub(crate) fn offline_delivered(
        &mut self,
        core: &mut Core,
        session: u128,
        request: proto::OfflineRemoveRequest,
    ) {
        self.offline_removing += 1;
        core.jobs.push(Job::OfflineRemove {
            slot: self.slot,
            session,
            request,
        });
    }

    /// They are gone: look for more, and for whom had to wait for that.
    pub(crate) fn offline_removed(
        &mut self,
        core: &mut Core,
        session: u128,
        request: proto::OfflineRemoveRequest,
    ) {
        self.offline_removing = self.offline_removing.saturating_sub(1);
        if let Some(session) = self.sessions.get_mut(&session) {
            let keys = request.keys.iter().map(EffectKey::from).collect();
            session.release_stored(Some(&keys));
        }
        self.touch(core, session);
        self.offline_waiting.push((session, request.bare));
        if self.offline_removing == 0 {
            for (id, bare) in std::mem::take(&mut self.offline_waiting) {
                self.ask_offline(core, id, &bare);
            }
        }
    }

    /// A page of the archive was asked for by a stanza of a session (XEP-0313 §4).
    pub(crate) fn query_archive(
        &mut self,
        core: &mut Core,
        query: ArchiveQuery,
        request: proto::ArchiveQueryRequest,
    ) {
        core.works.part(query.work);
        core.archive_queries += 1;
        let job = Job::ArchiveQuery {
            query: Box::new(query),
            request,
        };
        core.queries.push((core.archive.barrier(), job));
    }

    /// The page came: one message for each row, then the answer.
    pub(crate) fn archive_page(
        &mut self,
        core: &mut Core,
        query: ArchiveQuery,
        page: Result<proto::ArchiveQueryReply, ()>,
    ) {
        let ArchiveQuery {
            session: id,
            n,
            iq,
            queryid,
            flip,
            work,
            ..
        } = query;
        let Some(session) = self.sessions.get(&id) else {
            return core.part_done(work);
        };
        let (full, bare) = (session.jid.clone(), session.jid.bare());
        let reply = match page {
            Err(()) => {
                let text = Some("storage is away; try again later");
                iq.error_reply(Condition::ResourceConstraint, text)
            }
            Ok(page) if page.item_not_found => iq.error_reply(Condition::ItemNotFound, None),
            Ok(mut page) => {
                let edge = |row: Option<&proto::ArchiveRow>| row.map(|r| id_text(&r.stanza_id));
                let set = Page {
                    first: edge(page.rows.first()),
                    last: edge(page.rows.last()),
                    // None of a page from the end: some clients take the page whose index and items
                    // make up the count for the last one, whichever way they go.
                    first_index: page.first_index,
                    count: Some(page.count),
                };
                if flip {
                    page.rows.reverse();
                }
                for (index, row) in page.rows.into_iter().enumerate() {
                    let Some(stanza) = row.stanza else { continue };
                    let message = mam::result(
                        bare.as_str(),
                        full.as_str(),
                        queryid.as_deref(),
                        &id_text(&row.stanza_id),
                        row.at_ms,
                        &Stanza::from(stanza),
                    );
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    let key = EffectKey::indexed(id, n, EffectKind::Result, index);
                    self.deliver_to(core, id, key, Arc::new(message.into()), Some(work));
                }
                iq.result_reply(Some(&mam::fin(&set, page.complete, true)))
            }
        };
        self.reply_to(core, id, n, reply, work);
        core.part_done(work);
    }
}

/// A question to an archive that storage is answering.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ArchiveQuery {
    pub slot: u16,
    pub session: u128,
    pub n: u64,
    pub iq: Stanza,
    pub queryid: Option<String>,
    pub flip: bool,
    pub work: WorkId,
}

/// Whether a child is something that only this server may say of its archives.
pub(crate) fn is_stanza_id_by(child: &sestina_xmpp::stanza::Child<'_>, by: &str) -> bool {
    child.ns == ns::STANZA_ID
        && child.name == "stanza-id"
        && sestina_xmpp::xml::Element::parse(child.xml)
            .is_ok_and(|e| e.attr("by").is_some_and(|b| b == by))
}
