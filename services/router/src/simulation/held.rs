//! The memory that a worker holds: whether it keeps within its bounds after each turn, what is left of it
//! when nothing is under way, and whether a given message is in it.

use std::collections::BTreeMap;

use sestina_proto as proto;

use super::Worker;
use crate::room::OwnedRoom;
use crate::worker::channel::OutItem;
use crate::worker::core::Core;
use crate::worker::session::Session;
use crate::worker::slot::Slot;

/// About how many bytes of small frames (answers, changes of sessions) a worker puts in one turn on a lane
/// that is full: lanes never refuse these.
const SMALL_FRAMES: usize = 16 << 10;

impl Worker {
    /// Describes queues that exceed their bounds, and those whose bytes are counted wrongly.
    pub fn over_bounds(&self) -> Vec<String> {
        let core = &self.0.core;
        let mut wrong = Vec::new();
        for slot in self.0.slots.iter() {
            slot_over_bounds(core, slot, &mut wrong);
        }
        let limit = core.config.limits.lane_bytes + SMALL_FRAMES;
        for (lane, bytes) in core.lane_levels() {
            if bytes > limit {
                wrong.push(format!("{bytes} bytes are on their way on {lane:?}"));
            }
        }
        for (peer, bytes) in core.peer_levels() {
            if bytes > limit {
                wrong.push(format!("{bytes} bytes wait for {peer:?}"));
            }
        }
        wrong
    }

    /// Describes what is left over: there must be nothing when nothing is under way. `name` is the name of
    /// its process.
    pub fn leftovers(&self, name: &str) -> Vec<String> {
        let core = &self.0.core;
        let mut left = Left {
            at: name.to_owned(),
            wrong: Vec::new(),
        };
        left.none("questions to archives", core.storage.queries.len());
        left.none("archive pages", core.storage.pages);
        left.none("events of rooms", core.rooms.held_events.len());
        left.none("slots to hand over", core.slots.quiescing.len());
        left.none("refused rows", core.doubted.bytes());
        left.none("rows for archives", core.storage.archive.level().0);
        left.none("rows to store", core.storage.offline.level().0);
        left.none(
            "bytes for edges",
            core.lane_levels().map(|(_, bytes)| bytes).sum(),
        );
        left.none(
            "bytes for routers",
            core.peer_levels().map(|(_, bytes)| bytes).sum(),
        );
        for slot in self.0.slots.iter() {
            left.at = format!("{name} slot {}@{}", slot.slot, slot.epoch);
            slot_leftovers(slot, &mut left);
            for session in slot.sessions.values() {
                left.at = format!(
                    "{name} {} ({:04x})",
                    session.channel.jid,
                    session.channel.id & 0xffff
                );
                session_leftovers(session, &mut left);
            }
            for room in slot.rooms.values() {
                left.at = format!("{name} room {}", room.jid());
                for (what, count) in room.leftovers(core.config.limits.room_history) {
                    left.none(what, count);
                }
            }
        }
        left.wrong
    }

    /// All sessions that it holds, ended ones included: identity and full JID of each.
    pub fn sessions(&self) -> impl Iterator<Item = (u128, &str)> {
        let sessions = self.all_sessions();
        sessions.map(|session| (session.channel.id, session.channel.jid.as_str()))
    }

    /// For each session, its identity and the highest number up to which all of its stanzas are settled.
    pub fn settled(&self) -> impl Iterator<Item = (u128, u64)> {
        let sessions = self.all_sessions();
        sessions.map(|session| (session.channel.id, session.channel.incoming.settled))
    }

    /// The highest number up to which all stanzas of a session are accepted; `None` if it does not hold the
    /// session.
    pub fn accepted(&self, id: u128) -> Option<u64> {
        let mut slots = self.0.slots.iter();
        slots.find_map(|slot| Some(slot.sessions.get(&id)?.channel.incoming.accepted))
    }

    /// The sessions of a user in whose queues a message with `body` in its payload is: identity of each, and the epoch
    /// of its slot.
    pub fn queued(&self, user: &str, body: &[u8]) -> Vec<(u128, u64)> {
        let mut queued = Vec::new();
        for slot in self.0.slots.iter() {
            let of_user = slot
                .sessions
                .values()
                .filter(|session| session.channel.jid.bare_str() == user);
            for session in of_user {
                let mut queue = session.channel.outgoing.queue.iter();
                if queue.any(|item| contains(&item.stanza.payload, body)) {
                    queued.push((session.channel.id, slot.epoch));
                }
            }
        }
        queued
    }

    /// Rows for archives that it has not sent to storage yet.
    pub fn archive_rows(&self) -> &[proto::ArchiveRow] {
        self.0.core.storage.archive.rows()
    }

    /// Whether a message is in the queue of a session, in a room, or among the rows for the offline store.
    /// It is one with `body` in its payload, or an error with `error_id` as its id.
    pub fn holds(&self, body: &[u8], error_id: &str) -> bool {
        let is = |item: &OutItem| {
            contains(&item.stanza.payload, body)
                || (item.stanza.id == error_id && item.stanza.r#type == "error")
        };
        let rows = self.0.core.storage.offline.rows().iter();
        let mut rows = rows.filter_map(|row| row.stanza.as_ref());
        if rows.any(|stanza| contains(&stanza.payload, body)) {
            return true;
        }
        let mut slots = self.0.slots.iter();
        slots.any(|slot| {
            let mut sessions = slot.sessions.values();
            sessions.any(|session| session.channel.outgoing.queue.iter().any(is))
                || slot.rooms.values().any(|room| room.holds(body))
        })
    }
}

/// Whether `part` occurs in `bytes`; `part` must not be empty.
pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn slot_over_bounds(core: &Core, slot: &Slot, wrong: &mut Vec<String>) {
    let config = &core.config;
    let (mut in_slot, mut closes) = (0, false);
    let mut users: BTreeMap<&str, (usize, usize, bool)> = BTreeMap::new();
    for session in slot.sessions.values() {
        let weights: usize = session
            .channel
            .outgoing
            .queue
            .iter()
            .map(|item| item.weight)
            .sum();
        let held = session.channel.outgoing.queue_bytes.get();
        let (of_user, of_slot) = session.channel.outgoing.queue_bytes.totals();
        let at = || format!("slot {} {}", slot.slot, session.channel.jid);
        if weights != held {
            wrong.push(format!("{}: {weights} bytes count as {held}", at()));
        }
        if of_slot != slot.held.load(std::sync::atomic::Ordering::Relaxed) {
            wrong.push(format!("{}: counts in another slot", at()));
        }
        // It is to end, but after a takeover only when its edge has sent again what was accepted.
        let ends = session.channel.close_asked.is_some();
        closes |= ends;
        if session.channel.is_live()
            && !ends
            && session.channel.is_full(config.limits.session_queue_bytes)
        {
            wrong.push(format!("{}: holds {held} bytes", at()));
        }
        if session.client.joined.len() > config.limits.max_rooms_per_session {
            wrong.push(format!("{}: is in too many rooms", at()));
        }
        in_slot += weights;
        let user = users.entry(session.channel.jid.bare_str()).or_default();
        *user = (user.0 + weights, of_user, user.2 || ends);
    }
    for (user, (bytes, counted, ends)) in users {
        if bytes != counted || (bytes > config.limits.user_queue_bytes && !ends) {
            wrong.push(format!("{user} holds {bytes} bytes, counted as {counted}"));
        }
    }
    let counted = slot.held.load(std::sync::atomic::Ordering::Relaxed);
    if in_slot != counted || (in_slot > config.limits.slot_queue_bytes && !closes) {
        let slot = slot.slot;
        wrong.push(format!(
            "slot {slot} holds {in_slot} bytes, counted as {counted}"
        ));
    }
}

/// Collects descriptions of what is left over.
struct Left {
    at: String,
    wrong: Vec<String>,
}

impl Left {
    /// Notes something of which there must be none.
    fn none(&mut self, what: &str, count: usize) {
        if count > 0 {
            self.wrong
                .push(format!("{}: {count} {what} are left", self.at));
        }
    }
}

fn slot_leftovers(slot: &Slot, left: &mut Left) {
    left.none("keys of ended sessions", slot.inbox.given.len());
    left.none("slots with slot messages that wait", slot.outbox.stuck());
    left.none("users who are asked about", slot.deferred.len());
    left.none("users with data", slot.data.len());
    left.none("sessions that ask again", slot.offline_rows.retry.len());
    left.none("bytes of queues", {
        slot.held.load(std::sync::atomic::Ordering::Relaxed)
    });
    left.none("unwritten objects", slot.replica.unwritten());
    left.none("rewrites", usize::from(slot.replica.is_rewriting()));
    let stored = slot.replica.versions().count();
    left.none(
        "objects too many in the store",
        stored.saturating_sub(slot.rooms.len()),
    );
}

fn session_leftovers(session: &Session, left: &mut Left) {
    left.none(
        "messages for it alone",
        session.channel.outgoing.alone.len(),
    );
    left.none(
        "slots with its keys",
        session.channel.incoming.watermark_targets.len(),
    );
    left.none("older attachments", session.channel.copies.previous.len());
    left.none(
        "spare copies",
        usize::from(session.channel.copies.redundant_copies.is_some()),
    );
    left.none("holders to tell", session.channel.copies.holders.len());
    left.none(
        "works that wait for its record",
        session.channel.state_waits.len(),
    );
    left.none(
        "unsettled stanzas",
        session.channel.incoming.unsettled.len(),
    );
    left.none("bytes on their way", session.channel.outgoing.flying_bytes);
    left.none("bytes in bulk", session.channel.outgoing.bulk_bytes);
    left.none(
        "waits for its lane",
        usize::from(session.channel.outgoing.lane_waits),
    );
}

impl OwnedRoom {
    /// Counts what must be gone when nothing is under way; `history` is how many messages it may keep.
    fn leftovers(&self, history: usize) -> [(&'static str, usize); 6] {
        let (joining, stalled, strangers, keys, stale, told) = self.open_ends();
        let over = told.saturating_sub(history);
        [
            ("sessions that enter", joining),
            ("slots that missed events", stalled),
            ("sessions that have left", strangers),
            ("keys", keys),
            ("fields to take out of the store", stale),
            ("messages beyond its history", over),
        ]
    }
}
