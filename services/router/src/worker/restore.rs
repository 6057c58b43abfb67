//! Sessions of a slot that was taken, rebuilt from what edges reported of them.

use std::collections::BTreeMap;

use prost::Message as _;
use sestina_api::key::{IdempotencyKey, join};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::jid::Jid;

use super::archive_again::Held;
use super::channel::{Attachment, Channel, PreviousAttachment, RedundantCopies, acked_outbound};
use super::core::{Core, LaneRef};
use super::session::Session;
use super::slot::Slot;

impl Channel {
    /// Keeps an attachment that the session was resumed from, if its edge holds stanzas that the edge
    /// of the attachment after it does not: it sends those first. False if nothing of it is needed.
    pub(super) fn keep_previous(
        &mut self,
        lane: LaneRef,
        report: &proto::SessionReport,
        until: u64,
    ) -> bool {
        let needed = self.incoming.settled < until || self.copies.redundant_copies.is_some();
        if needed {
            self.copies.previous.push(PreviousAttachment {
                lane,
                handle: report.handle,
                generation: report.generation,
                until,
                knew: true,
            });
        }
        needed
    }
}

/// What edges reported of the attachments of a session before its present one.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// The deliveries that the edges hold for the client, by number.
    pub(super) held: BTreeMap<u64, proto::Outbound>,
    /// The edges hold the unsettled stanzas of the client after this number.
    pub(super) began: Option<u64>,
    /// The edges know that the stanzas of the client up to this number are settled.
    settled: u64,
    /// The last stanza of the client that one of them has got.
    sent: u64,
}

impl Before {
    /// Adds the report of one, and takes from it what it holds for the client.
    pub(super) fn add(&mut self, report: &mut proto::SessionReport) {
        let held = std::mem::take(&mut report.held).into_iter();
        self.held.extend(held.map(|item| (item.number, item)));
        self.began = Some(self.began.map_or(report.began, |n| n.min(report.began)));
        self.settled = self.settled.max(report.settled);
        self.sent = self.sent.max(report.sent).max(report.accepted);
    }
}

impl Slot {
    /// Completes a session of which the state store has a later generation than any edge: its owner died before the edge
    /// that resumed it had the answer, or after that edge had let go of it. Earlier attachments hold what its client
    /// sent there and is not settled, and a resumption waits until they have sent that again. Returns the last number
    /// that they are to send. None if they do not have all of it: their edges count what is lost.
    pub(super) fn restore_stored(
        &mut self,
        core: &Core,
        id: u128,
        before: &Before,
        taken: &mut Held,
    ) -> Option<u64> {
        let ending = core.slots.end_after_restore.contains(&(self.slot, id));
        let channel = &mut self.sessions.get_mut(&id)?.channel;
        let until = channel.incoming.accepted;
        let settled = channel.copies.settled_stored.max(before.settled);
        let needed = settled < until.min(before.sent);
        if needed && (before.sent < until || ending) {
            return None;
        }
        // The state store has all keys. What the client has taken may be missing in the archive.
        for (number, key) in channel.acked_keys() {
            let item = before.held.get(&number);
            taken.extend(item.and_then(|item| Some((key, item.stanza.clone()?))));
        }
        if !needed {
            return Some(until);
        }
        let from = before.began.unwrap_or(0).min(until).max(settled);
        channel.incoming.accepted = from;
        channel.incoming.settled = from;
        channel.incoming.watermark = before.settled;
        channel.incoming.replay_until = until;
        if guard!("predecessor-accepted") {
            channel.incoming.predecessor_accepted = until;
        }
        if from > settled {
            let jid = channel.jid.clone();
            self.count_lost(core, jid.as_str(), from - settled);
        }
        Some(until)
    }

    /// After more than one fault (the edge of an older attachment and the owner are dead), accepted stanzas of the client
    /// may be in no process, or no process may know that they are settled. The session counts them as lost and goes on
    /// with the stanza after them.
    pub(super) fn give_up_lost(
        &self,
        core: &Core,
        id: u128,
        report: &mut proto::SessionReport,
        held_from: u64,
    ) {
        let known = self
            .sessions
            .get(&id)
            .map_or(0, |replica| replica.channel.copies.settled_stored);
        let settled = report.settled.max(known);
        if held_from > settled {
            self.count_lost(core, &report.jid, held_from - settled);
        }
        // No process holds the stanzas before this one, whether they are settled or not.
        report.settled = report.settled.max(held_from);
    }

    pub(super) fn count_lost(&self, core: &Core, session: &str, lost: u64) {
        tracing::warn!(
            slot = self.slot,
            session,
            lost,
            "stanzas of a session are lost: an edge and the owner died at once"
        );
        core.metrics.input_lost(lost);
    }

    /// Takes the copy of a session that the state store had, if it is of no later generation than its edge: what it
    /// holds for the client goes to `before`. Returns the later one of its record and that of the edge; none if the
    /// edge's report is the outdated one.
    fn take_replica(
        &mut self,
        core: &mut Core,
        id: u128,
        generation: u32,
        reported: proto::SessionState,
        before: &mut BTreeMap<u64, proto::Outbound>,
    ) -> Option<proto::SessionState> {
        let Some(replica) = self.sessions.get(&id) else {
            return Some(reported);
        };
        if replica.channel.generation > generation {
            return None;
        }
        // What the client was told in stanzas of the copy, such as a new nick in a room, is in the copy's record alone.
        let stored = replica.record();
        let (reads_stored, offline_pending) = (stored.reads_stored, stored.offline_pending);
        let mut record = match replica.is_newer_than(&reported) {
            true => stored,
            false => reported,
        };
        // These marks may have been set without a stanza. To read what is stored once more does no harm.
        record.reads_stored |= reads_stored;
        record.offline_pending |= offline_pending;
        if let Some(replica) = self.remove_session(id) {
            let queue = (replica.channel.outgoing.acked + 1..).zip(&replica.channel.outgoing.queue);
            before.extend(queue.map(|(number, item)| (number, item.outbound(number))));
            for (number, key) in replica.channel.acked_keys() {
                let item = || acked_outbound(number, key);
                before.entry(number).or_insert_with(item);
            }
        }
        core.metrics.reattached();
        core.metrics.ended();
        Some(record)
    }

    /// Rebuilds a session from the stanzas that its edge holds, and from those that the edge had not got when the older
    /// owner died: the state store, and the attachments `before` this one, have these. A message that the client has
    /// `taken` may be missing in the archive.
    pub(super) fn restore_reported(
        &mut self,
        core: &mut Core,
        lane: LaneRef,
        report: proto::SessionReport,
        mut before: BTreeMap<u64, proto::Outbound>,
        taken: &mut Held,
    ) -> Option<proto::ProgressItem> {
        let record = proto::SessionState::decode(report.state.clone()).ok()?;
        let id = join(report.session_hi, report.session_lo);
        let record = self.take_replica(core, id, report.generation, record, &mut before)?;
        let mut session = session_of_report(core, record, lane, id, &report);
        let mut take = |item: proto::Outbound| {
            if let (Some(key), Some(stanza)) = (item.key, item.stanza) {
                taken.push_back((IdempotencyKey::from(&key), stanza));
            }
        };
        let mut redundant_copies = false;
        let after = before.split_off(&(report.received + 1));
        for (number, item) in before {
            if number <= report.acked && number > report.released {
                if let Some(key) = item.key.as_ref().map(IdempotencyKey::from) {
                    redundant_copies = true;
                    session.channel.restore_key(number, key);
                }
                take(item);
            }
        }
        for item in report.held {
            if item.number <= report.acked {
                // Taken by the client, but its origin may still replay it.
                if let Some(key) = item.key.as_ref().map(IdempotencyKey::from) {
                    session.channel.restore_key(item.number, key);
                }
                take(item);
            } else if item.number == session.channel.outgoing.next + 1 {
                session.channel.restore_item(item, core.wall_ms);
            }
        }
        session.channel.outgoing.next = session.channel.outgoing.next.max(report.received);
        session.channel.outgoing.sent = session.channel.outgoing.next;
        session.channel.outgoing.written = session.channel.outgoing.acked;
        session.channel.outgoing.flying_bytes = session.channel.outgoing.queue_bytes.get();
        session.channel.copies.edge_has = session.channel.outgoing.next;
        for (number, item) in after {
            if number == session.channel.outgoing.next + 1 {
                redundant_copies = true;
                session.channel.restore_item(item, core.wall_ms);
            }
        }
        session.channel.outgoing.held = session.channel.outgoing.next;
        if redundant_copies && guard!("spare-copies") {
            session.channel.copies.redundant_copies = Some(RedundantCopies {
                out: session.channel.outgoing.next,
                keys: session.channel.outgoing.acked,
            });
        }
        self.inbox.any_restored |= !session.channel.outgoing.restored.is_empty();
        core.metrics.bound();
        let item = proto::ProgressItem {
            handle: report.handle,
            generation: report.generation,
            accepted: session.channel.incoming.accepted,
            settled: session.channel.incoming.settled,
            released: session
                .channel
                .released()
                .min(session.channel.outgoing.sent),
        };
        self.handles.insert((lane.edge, report.handle), id);
        self.insert_session(session);
        self.ask_rooms(id);
        // The replica of the time without a socket is removed, unless something is in there alone.
        self.replica_delete_spilled(core, id);
        Some(item)
    }
}

impl Session {
    /// Whether the owner wrote this session, as the state store had it, later than the record that its edge has. Under
    /// one owner neither number falls within a generation.
    fn is_newer_than(&self, record: &proto::SessionState) -> bool {
        let (incoming, outgoing) = (&self.channel.incoming, &self.channel.outgoing);
        self.channel.generation == record.generation
            && incoming.accepted >= record.accepted
            && outgoing.next >= record.next
            && (incoming.accepted, outgoing.next) != (record.accepted, record.next)
    }
}

/// A session as its edge reports it, without what it holds for its client.
fn session_of_report(
    core: &Core,
    record: proto::SessionState,
    lane: LaneRef,
    id: u128,
    report: &proto::SessionReport,
) -> Session {
    let attachment = Attachment::Edge {
        lane,
        handle: report.handle,
    };
    let mut session = Session::from_record(record, attachment, &core.pipelines);
    session.channel.id = id;
    session.channel.jid = Jid::from_wire(&report.jid);
    session.channel.generation = report.generation;
    session.channel.transport = report.transport.clone();
    session.channel.remote = report.remote.clone();
    session.channel.incoming.accepted = report.settled;
    session.channel.incoming.settled = report.settled;
    session.channel.closing = report.ended;
    session.channel.incoming.replay_until = report.sent.max(report.accepted);
    if guard!("predecessor-accepted") {
        // The owner before may have accepted more than it had told the edge, and died when a part of what a stanza
        // causes was done: the stanza is handled again, although its client may not know that it was accepted.
        session.channel.incoming.predecessor_accepted = session.channel.incoming.replay_until;
    }
    session.channel.incoming.watermark = report.settled;
    session.channel.outgoing.acked = report.acked;
    session.channel.outgoing.next = report.acked;
    session
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
