//! What goes to a session's client: its queue, up to where others hold it, and which keys of it may
//! still come again.

use std::collections::VecDeque;
use std::sync::Arc;

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::core::{Core, LaneRef};
use super::passage::Passage;
use super::session::{
    Attachment, Older, OutItem, Session, Source, Taken, is_stored, stanza_weight,
};
use super::work::WorkId;
use crate::chance::HashSet;
use crate::config::RouterConfig;

/// A client with more unacknowledged stanzas is given no part of an answer in bulk.
const ROOM_STANZAS: usize = 256;

/// Answers in bulk that wait for a client, in sizes of its queue.
const BULK_QUEUES: usize = 4;

/// The key of a message in the offline store.
fn row_key(key: EffectKey) -> EffectKey {
    match is_stored(key) {
        true => key,
        false => key.sibling(EffectKind::Offline),
    }
}

impl Session {
    /// Puts a stanza behind all others. `work` gets a part that closes when it is held twice.
    pub(crate) fn enqueue(
        &mut self,
        core: &mut Core,
        key: EffectKey,
        stanza: Arc<proto::Stanza>,
        work: Option<WorkId>,
        source: Source,
    ) -> u64 {
        self.next += 1;
        let work = work.filter(|_| guard!("second-holder"));
        if let Some(work) = work {
            core.works.part(work);
        }
        let weight = stanza_weight(&stanza);
        self.weigh(source, weight);
        let passage = match self.attachment {
            Attachment::Edge { .. } => core.passage.clone(),
            Attachment::Detached { .. } | Attachment::Ending => Passage::default(),
        };
        self.queue.push_back(OutItem {
            key,
            stanza,
            work,
            weight,
            at_ms: core.wall_ms,
            passage,
            source,
            row: source == Source::Stored,
            taken: None,
        });
        self.unreleased.insert(self.next, key);
        self.next
    }

    /// The stanza of that number was given to other sessions of the user as well.
    pub(crate) fn share(&mut self, number: u64, taken: &Taken) {
        let place = number.checked_sub(self.acked + 1);
        let place = place.and_then(|place| usize::try_from(place).ok());
        if let Some(item) = place.and_then(|place| self.queue.get_mut(place)) {
            item.taken = Some(taken.clone());
        }
    }

    fn weigh(&mut self, source: Source, weight: usize) {
        self.queue_bytes.add(weight);
        if source.is_bulk() {
            self.bulk_bytes += weight;
        }
    }

    fn weigh_out(&mut self, source: Source, weight: usize) {
        self.queue_bytes.sub(weight);
        if source.is_bulk() {
            self.bulk_bytes = self.bulk_bytes.saturating_sub(weight);
        }
    }

    /// Whether more waits for the client than a queue may hold. Answers in bulk have a bound of their
    /// own: a client that reads never comes near it.
    pub(crate) fn is_full(&self, limit: usize) -> bool {
        let live = self.queue_bytes.get().saturating_sub(self.bulk_bytes);
        live > limit || self.bulk_bytes > limit.saturating_mul(BULK_QUEUES)
    }

    /// How many bytes of an answer in bulk the client has room for now. None if it has no socket, or
    /// much of what it was sent is not acknowledged.
    pub(crate) fn room(&self, config: &RouterConfig) -> Option<usize> {
        let credit = config.session_credit_bytes;
        let little = self.queue_bytes.get() <= credit / 2 && self.queue.len() <= ROOM_STANZAS;
        (little && self.edge().is_some()).then(|| credit - self.queue_bytes.get())
    }

    /// Gives the lane what credit allows.
    pub(crate) fn pump(&mut self, core: &mut Core, slot: u16, epoch: u64) {
        let Some((lane, handle)) = self.edge() else {
            return;
        };
        if !core.lanes.contains_key(&lane) {
            return;
        }
        loop {
            self.tell_sm(core, slot, epoch, lane, handle);
            if self.sent >= self.next || self.flying_bytes > core.config.session_credit_bytes {
                break;
            }
            if core.lane_full(lane) {
                self.wait_for_lane(core, slot, lane);
                break;
            }
            let index = usize::try_from(self.sent - self.acked).unwrap_or(usize::MAX);
            let Some(item) = self.queue.get(index) else {
                break;
            };
            self.sent += 1;
            self.given = true;
            if self.sent <= self.edge_wrote {
                // Sent again on a new opening of the lane; the edge does not report it once more.
                self.written = self.sent;
            } else {
                self.flying_bytes += item.weight;
            }
            let target = proto::Target {
                handle,
                generation: self.generation,
                number: self.sent,
                variant: 0,
                epoch,
            };
            core.deliver(
                lane,
                slot,
                self.id,
                target,
                &item.stanza,
                item.wire_key(),
                &item.passage,
            );
        }
    }

    /// Goes on when its lane has room.
    pub(crate) fn wait_for_lane(&mut self, core: &mut Core, slot: u16, lane: LaneRef) {
        if !std::mem::replace(&mut self.lane_waits, true) {
            core.wait_for_lane(lane, slot, self.id);
        }
    }

    /// Between what the client does not count and what it counts.
    fn tell_sm(&mut self, core: &mut Core, slot: u16, epoch: u64, lane: LaneRef, handle: u64) {
        if self.sm_told || self.sm.is_some_and(|sm| self.sent < sm.out_base) {
            return;
        }
        self.sm_told = true;
        self.given = true;
        if let Some(enabled) = self.sm_enabled(handle, slot, &core.config.sm_key) {
            core.send_edge(lane, slot, epoch, proto::to_edge::Body::SmEnabled(enabled));
        }
    }

    /// A second process holds everything up to `number`.
    pub(crate) fn on_held(&mut self, core: &mut Core, number: u64) {
        let number = number.min(self.next);
        while self.held < number {
            self.held += 1;
            if self.held <= self.acked {
                continue;
            }
            let index = usize::try_from(self.held - self.acked - 1).unwrap_or(usize::MAX);
            if let Some(work) = self.queue.get_mut(index).and_then(|i| i.work.take()) {
                core.part_done(work);
            }
        }
    }

    /// The edge wrote everything up to `number` to the socket.
    pub(crate) fn on_written(&mut self, number: u64) {
        self.edge_wrote = self.edge_wrote.max(number.min(self.next));
        let number = number.min(self.sent);
        while self.written < number {
            self.written += 1;
            if self.written > self.acked {
                let index = usize::try_from(self.written - self.acked - 1).unwrap_or(usize::MAX);
                if let Some(item) = self.queue.get(index) {
                    self.flying_bytes = self.flying_bytes.saturating_sub(item.weight);
                }
            }
        }
    }

    /// The client acknowledged everything up to `number`; false if it was never sent.
    pub(crate) fn on_acked(&mut self, core: &mut Core, number: u64) -> bool {
        if number > self.next {
            return false;
        }
        self.on_written(number);
        self.on_held(core, number);
        while self.acked < number {
            self.acked += 1;
            if let Some(item) = self.queue.pop_front() {
                self.weigh_out(item.source, item.weight);
                if let Some(taken) = &item.taken {
                    taken.set();
                }
                if item.row {
                    let cursor = self.stored.get_or_insert_default();
                    cursor.took(row_key(item.key));
                }
            }
        }
        if self.queue.is_empty() {
            self.alone.clear();
            // Most sessions are idle most of the time.
            self.queue = VecDeque::new();
        }
        self.sent = self.sent.max(self.acked);
        self.written = self.written.max(self.acked);
        self.held = self.held.max(self.acked);
        true
    }

    /// The origin can never replay what this number carried.
    pub(crate) fn release(&mut self, number: u64) {
        if let Some(key) = self.unreleased.remove(number) {
            self.restored.remove(&key);
        }
    }

    /// The same for all that came from one origin up to its mark.
    pub(crate) fn release_origin(&mut self, origin: u128, mark: u64) -> bool {
        let stays = |key: &EffectKey| key.origin != origin || key.n > mark || is_stored(*key);
        let released = self.unreleased.retain(stays);
        if !self.restored.is_empty() {
            self.restored.retain(stays);
        }
        released
    }

    /// What came from storage is released when storage knows it as delivered.
    pub(crate) fn release_stored(&mut self, keys: &HashSet<EffectKey>) {
        let stays = |key: &EffectKey| !is_stored(*key) || !keys.contains(key);
        self.unreleased.retain(stays);
        self.restored.retain(stays);
    }

    /// The cheap part of [`Session::release_origin`]: what is first in line.
    pub(crate) fn release_front(&mut self, origin: u128, mark: u64) {
        while let Some((number, key)) = self.unreleased.first()
            && key.origin == origin
            && key.n <= mark
            && !is_stored(key)
        {
            self.unreleased.remove(number);
            self.restored.remove(&key);
        }
    }

    /// The number under which an effect was queued, while its origin may replay it.
    pub(crate) fn number_of(&self, key: EffectKey) -> Option<u64> {
        self.unreleased.number_of(key)
    }

    /// Whether the session holds a stanza that the same sender has sent to it after the one with this
    /// key.
    pub(crate) fn has_later(&self, key: EffectKey) -> bool {
        let later = |k: &EffectKey| k.origin == key.origin && k.n > key.n && k.kind == key.kind;
        self.unreleased.keys().any(later)
    }

    /// All numbers up to here are released.
    pub(crate) fn released(&self) -> u64 {
        self.unreleased.first().map_or(self.next, |(n, _)| n - 1)
    }

    /// Whether nothing is held for it elsewhere that a new owner would need.
    fn needs_no_spare(&self) -> bool {
        let released = self.released();
        match self.attachment {
            Attachment::Edge { .. } => self.spare.is_none_or(|spare| {
                self.edge_knows && self.edge_has >= spare.out && released >= spare.keys
            }),
            Attachment::Detached { committed, .. } => committed && released >= self.acked,
            Attachment::Ending => true,
        }
    }

    /// The attachments before this one that hold nothing any more that is needed.
    pub(crate) fn older_done(&mut self) -> Vec<Older> {
        if !self.needs_no_spare() {
            return Vec::new();
        }
        // The edge of the last attachment must know what is settled, also when its socket is gone. A new
        // owner goes by what that edge reports: if it reported less, the owner would wait for stanzas
        // that no process holds.
        let settled = self.settled_as_reported();
        self.older
            .extract_if(.., |older| older.until <= settled)
            .collect()
    }

    /// Whether the spare copies have just become superfluous.
    pub(crate) fn spare_done(&mut self) -> bool {
        let attached = matches!(self.attachment, Attachment::Edge { .. });
        attached && self.needs_no_spare() && self.spare.take().is_some()
    }

    /// Puts back a delivery that an edge or the shadow held. If nobody knows when it came, it is as
    /// if it had come now.
    pub(crate) fn restore_item(&mut self, item: proto::Outbound, wall_ms: i64) {
        let (Some(key), Some(stanza)) = (item.key.as_ref().map(EffectKey::from), item.stanza)
        else {
            return;
        };
        self.next = item.number;
        let weight = stanza_weight(&stanza);
        let shared = item.key.is_some_and(|key| key.shared);
        let source = match is_stored(key) {
            true => Source::Stored,
            false if key.kind & 0xff == EffectKind::Result as u32 => Source::Page,
            false if key.kind > 0xff && key.kind & 0xff == EffectKind::RoomEvent as u32 => {
                Source::Join
            }
            false if shared && !self.alone.contains(&(key.origin, key.n)) => Source::Shared,
            false => Source::Live,
        };
        self.weigh(source, weight);
        self.queue.push_back(OutItem {
            key,
            stanza: Arc::new(stanza),
            work: None,
            weight,
            at_ms: if item.at_ms == 0 { wall_ms } else { item.at_ms },
            passage: Passage::default(),
            source,
            row: source == Source::Stored,
            taken: None,
        });
        self.unreleased.insert(item.number, key);
        self.restored.insert(key);
    }

    /// Begins to send again from what the client acknowledged (another edge, or the lane anew).
    pub(crate) fn rewind(&mut self) {
        for item in &mut self.queue {
            item.passage = Passage::default();
        }
        self.sent = self.acked;
        self.written = self.acked;
        self.flying_bytes = 0;
    }

    /// What a resumed client gets late says when it came (XEP-0203, by the server), unless it says
    /// already that it is late.
    pub(crate) fn stamp_late(&mut self) {
        for item in &mut self.queue {
            let mut stanza = Stanza::from((*item.stanza).clone());
            if stanza.kind == Kind::Iq || stanza.child(ns::DELAY, "delay").is_some() {
                continue;
            }
            let delay = Delay::new(Some(self.jid.domain()), item.at_ms);
            stanza.push_element(&delay.to_element());
            item.stanza = Arc::new(stanza.into());
            let before = std::mem::replace(&mut item.weight, stanza_weight(&item.stanza));
            let grown = item.weight.saturating_sub(before);
            self.queue_bytes.add(grown);
            if item.source.is_bulk() {
                self.bulk_bytes += grown;
            }
        }
    }

    /// Begins to tell all again to the edge that has its socket.
    pub(crate) fn tell_again(&mut self) {
        self.rewind();
        self.settled_told = 0;
        self.accepted_told = 0;
        self.released_told = 0;
        self.state_dirty = true;
    }

    /// The edge is being told that it has the session.
    pub(crate) fn attaching(&mut self) {
        self.attached_no += 1;
        self.edge_wrote = 0;
        self.lane_waits = false;
        self.edge_knows = !guard!("edge-knowledge");
        self.edge_has = 0;
    }
}
