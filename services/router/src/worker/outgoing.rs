//! The stanzas to a session's client: its queue, up to where others hold it, and which keys of it may
//! still come again.

use std::collections::VecDeque;
use std::sync::Arc;

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::ext::delay::Delay;
use sestina_xmpp::ns;
use sestina_xmpp::stanza::{Kind, Stanza};

use super::channel::{
    Attachment, Channel, OutItem, PreviousAttachment, Source, Taken, is_stored, stanza_weight,
};
use super::core::{Core, LaneRef};
use super::operations::OperationId;
use super::session::Session;
use super::trace_context::TraceContext;
use crate::config::RouterConfig;
use crate::rng::HashSet;

/// A client with more unacknowledged stanzas is given no part of an answer in bulk.
const ROOM_STANZAS: usize = 256;

/// Answers in bulk that wait for a client, in sizes of its queue.
const BULK_QUEUES: usize = 4;

/// The key of a message in the offline store.
fn row_key(key: IdempotencyKey) -> IdempotencyKey {
    match is_stored(key) {
        true => key,
        false => key.sibling(Purpose::Offline),
    }
}

impl Session {
    /// The client acknowledged everything up to `number`; false if it was never sent.
    pub(crate) fn on_acked(&mut self, core: &mut Core, number: u64) -> bool {
        let stored = &mut self.client.stored;
        let took = |row| stored.get_or_insert_default().took(row);
        self.channel.on_acked(core, number, took)
    }
}

impl Channel {
    /// Puts a stanza behind all others. `operation` gets a part that closes when it is held twice.
    pub(crate) fn enqueue(
        &mut self,
        core: &mut Core,
        key: IdempotencyKey,
        stanza: Arc<proto::Stanza>,
        operation: Option<OperationId>,
        source: Source,
    ) -> u64 {
        self.outgoing.next += 1;
        if source == Source::Stored {
            self.outgoing.last_row = self.outgoing.next;
        }
        let operation = operation.filter(|_| guard!("second-holder"));
        if let Some(operation) = operation {
            core.operations.part(operation);
        }
        let weight = stanza_weight(&stanza);
        self.weigh(source, weight);
        let trace_context = match self.attachment {
            Attachment::Edge { .. } => core.trace_context.clone(),
            Attachment::Detached { .. } | Attachment::Ending => TraceContext::default(),
        };
        self.outgoing.queue.push_back(OutItem {
            key,
            stanza,
            operation,
            weight,
            at_ms: core.wall_ms,
            trace_context,
            source,
            row: source == Source::Stored,
            maybe_row: false,
            taken: None,
        });
        self.outgoing.in_flight_keys.insert(self.outgoing.next, key);
        self.outgoing.next
    }

    /// The stanza of that number was given to other sessions of the user as well.
    pub(crate) fn share(&mut self, number: u64, taken: &Taken) {
        let place = number.checked_sub(self.outgoing.acked + 1);
        let place = place.and_then(|place| usize::try_from(place).ok());
        if let Some(item) = place.and_then(|place| self.outgoing.queue.get_mut(place)) {
            item.taken = Some(taken.clone());
        }
    }

    /// The client answers a request of that address. If the session ends before the client acknowledges the request,
    /// the request needs no other answer. Only the stanzas on their way to the client are looked at, which its credit
    /// bounds.
    pub(crate) fn answers(&mut self, id: &str, to: &str) {
        let flying = self.outgoing.sent.saturating_sub(self.outgoing.acked);
        let flying = usize::try_from(flying).unwrap_or(usize::MAX);
        let queue = self.outgoing.queue.iter_mut().take(flying);
        for item in queue.filter(|item| item.stanza.id == id && item.stanza.from == to) {
            if item.is_request() {
                item.taken.get_or_insert_default().set();
            }
        }
    }

    fn weigh(&mut self, source: Source, weight: usize) {
        self.outgoing.queue_bytes.add(weight);
        if source.is_bulk() {
            self.outgoing.bulk_bytes += weight;
        }
    }

    fn weigh_out(&mut self, source: Source, weight: usize) {
        self.outgoing.queue_bytes.sub(weight);
        if source.is_bulk() {
            self.outgoing.bulk_bytes = self.outgoing.bulk_bytes.saturating_sub(weight);
        }
    }

    /// Whether more waits for the client than a queue may hold. Answers in bulk have a bound of their
    /// own: a client that reads never comes near it.
    pub(crate) fn is_full(&self, limit: usize) -> bool {
        let live = self
            .outgoing
            .queue_bytes
            .get()
            .saturating_sub(self.outgoing.bulk_bytes);
        live > limit || self.outgoing.bulk_bytes > limit.saturating_mul(BULK_QUEUES)
    }

    /// How many bytes of an answer in bulk the client has room for now. None if it has no socket, or
    /// much of what it was sent is not acknowledged.
    pub(crate) fn room(&self, config: &RouterConfig) -> Option<usize> {
        let credit = config.limits.session_credit_bytes;
        let little = self.outgoing.queue_bytes.get() <= credit / 2
            && self.outgoing.queue.len() <= ROOM_STANZAS;
        (little && self.edge().is_some()).then(|| credit - self.outgoing.queue_bytes.get())
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
            if self.outgoing.sent >= self.outgoing.next
                || self.outgoing.flying_bytes > core.config.limits.session_credit_bytes
            {
                break;
            }
            if core.lane_full(lane) {
                self.wait_for_lane(core, slot, lane);
                break;
            }
            let index =
                usize::try_from(self.outgoing.sent - self.outgoing.acked).unwrap_or(usize::MAX);
            let Some(item) = self.outgoing.queue.get(index) else {
                break;
            };
            self.outgoing.sent += 1;
            self.outgoing.given = true;
            if self.outgoing.sent <= self.outgoing.edge_wrote {
                // Sent again on a new opening of the lane; the edge does not report it once more.
                self.outgoing.written = self.outgoing.sent;
            } else {
                self.outgoing.flying_bytes += item.weight;
            }
            let target = proto::Target {
                handle,
                generation: self.generation,
                number: self.outgoing.sent,
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
                &item.trace_context,
            );
        }
        // The last stored message has left, and the record that the edge has says that it waits.
        self.state_dirty |= self.outgoing.rows_told && !self.keeps_rows();
    }

    /// Goes on when its lane has room.
    pub(crate) fn wait_for_lane(&mut self, core: &mut Core, slot: u16, lane: LaneRef) {
        if !std::mem::replace(&mut self.outgoing.lane_waits, true) {
            core.wait_for_lane(lane, slot, self.id);
        }
    }

    /// Between what the client does not count and what it counts.
    fn tell_sm(&mut self, core: &mut Core, slot: u16, epoch: u64, lane: LaneRef, handle: u64) {
        if self.sm_told || self.sm.is_some_and(|sm| self.outgoing.sent < sm.out_base) {
            return;
        }
        self.sm_told = true;
        self.outgoing.given = true;
        if let Some(enabled) = self.sm_enabled(handle, slot, &core.config.sm_key) {
            core.send_edge(lane, slot, epoch, proto::to_edge::Body::SmEnabled(enabled));
        }
    }

    /// A second process holds everything up to `number`.
    pub(crate) fn on_held(&mut self, core: &mut Core, number: u64) {
        let number = number.min(self.outgoing.next);
        while self.outgoing.held < number {
            self.outgoing.held += 1;
            if self.outgoing.held <= self.outgoing.acked {
                continue;
            }
            let index =
                usize::try_from(self.outgoing.held - self.outgoing.acked - 1).unwrap_or(usize::MAX);
            if let Some(operation) = self
                .outgoing
                .queue
                .get_mut(index)
                .and_then(|i| i.operation.take())
            {
                core.part_done(operation);
            }
        }
    }

    /// The edge wrote everything up to `number` to the socket.
    pub(crate) fn on_written(&mut self, number: u64) {
        self.outgoing.edge_wrote = self.outgoing.edge_wrote.max(number.min(self.outgoing.next));
        let number = number.min(self.outgoing.sent);
        while self.outgoing.written < number {
            self.outgoing.written += 1;
            if self.outgoing.written > self.outgoing.acked {
                let index = usize::try_from(self.outgoing.written - self.outgoing.acked - 1)
                    .unwrap_or(usize::MAX);
                if let Some(item) = self.outgoing.queue.get(index) {
                    self.outgoing.flying_bytes =
                        self.outgoing.flying_bytes.saturating_sub(item.weight);
                }
            }
        }
    }

    /// The client acknowledged everything up to `number`; false if it was never sent. `took` is called with
    /// the key of each row of the offline store that it has taken.
    fn on_acked(
        &mut self,
        core: &mut Core,
        number: u64,
        mut took: impl FnMut(IdempotencyKey),
    ) -> bool {
        if number > self.outgoing.next {
            return false;
        }
        self.on_written(number);
        self.on_held(core, number);
        while self.outgoing.acked < number {
            self.outgoing.acked += 1;
            if let Some(item) = self.outgoing.queue.pop_front() {
                self.weigh_out(item.source, item.weight);
                if let Some(taken) = &item.taken {
                    taken.set();
                }
                if item.row || item.maybe_row {
                    took(row_key(item.key));
                }
            }
        }
        if self.outgoing.queue.is_empty() {
            self.outgoing.alone.clear();
            // Most sessions are idle most of the time.
            self.outgoing.queue = VecDeque::new();
        }
        self.outgoing.sent = self.outgoing.sent.max(self.outgoing.acked);
        self.outgoing.written = self.outgoing.written.max(self.outgoing.acked);
        self.outgoing.held = self.outgoing.held.max(self.outgoing.acked);
        true
    }

    /// The origin can never replay what this number carried.
    pub(crate) fn release(&mut self, number: u64) {
        if let Some(key) = self.outgoing.in_flight_keys.remove(number) {
            self.outgoing.restored.remove(&key);
        }
    }

    /// The same for all that came from one origin up to its watermark.
    pub(crate) fn release_origin(&mut self, origin: u128, watermark: u64) -> bool {
        self.keep_keys(|key| key.origin != origin || key.n > watermark || is_stored(*key))
    }

    /// Releases all keys but those that stay. True if some was released.
    pub(crate) fn keep_keys(&mut self, stays: impl Fn(&IdempotencyKey) -> bool) -> bool {
        let released = self.outgoing.in_flight_keys.retain(&stays);
        if !self.outgoing.restored.is_empty() {
            self.outgoing.restored.retain(stays);
        }
        released
    }

    /// A stored message is released when storage knows it as delivered.
    pub(crate) fn release_stored(&mut self, keys: &HashSet<IdempotencyKey>) {
        self.keep_keys(|key| !is_stored(*key) || !keys.contains(key));
    }

    /// The cheap part of [`Channel::release_origin`]: what is first in line.
    pub(crate) fn release_front(&mut self, origin: u128, watermark: u64) {
        while let Some((number, key)) = self.outgoing.in_flight_keys.first()
            && key.origin == origin
            && key.n <= watermark
            && !is_stored(key)
        {
            self.outgoing.in_flight_keys.remove(number);
            self.outgoing.restored.remove(&key);
        }
    }

    /// The number under which a slot message was queued, while its origin may replay it.
    pub(crate) fn number_of(&self, key: IdempotencyKey) -> Option<u64> {
        self.outgoing.in_flight_keys.number_of(key)
    }

    /// Whether the session holds a stanza that the same sender has sent to it after the one with this
    /// key.
    pub(crate) fn has_later(&self, key: IdempotencyKey) -> bool {
        let later =
            |k: &IdempotencyKey| k.origin == key.origin && k.n > key.n && k.purpose == key.purpose;
        self.outgoing.in_flight_keys.keys().any(later)
    }

    /// All numbers up to here are released.
    pub(crate) fn released(&self) -> u64 {
        self.outgoing
            .in_flight_keys
            .first()
            .map_or(self.outgoing.next, |(n, _)| n - 1)
    }

    /// Whether nothing is held for it elsewhere that a new owner would need.
    fn needs_no_redundant_copies(&self) -> bool {
        let released = self.released();
        match self.attachment {
            Attachment::Edge { .. } => {
                self.copies.redundant_copies.is_none_or(|redundant_copies| {
                    self.copies.edge_knows
                        && self.copies.edge_has >= redundant_copies.out
                        && released >= redundant_copies.keys
                })
            }
            Attachment::Detached { committed, .. } => committed && released >= self.outgoing.acked,
            Attachment::Ending => true,
        }
    }

    /// The attachments before this one that hold nothing any more that is needed.
    pub(crate) fn previous_done(&mut self) -> Vec<PreviousAttachment> {
        if !self.needs_no_redundant_copies() {
            return Vec::new();
        }
        // The edge of the last attachment must know what is settled, also when its socket is gone. A new
        // owner goes by what that edge reports: if it reported less, the owner would wait for stanzas
        // that no process holds.
        let settled = self.settled_as_reported();
        self.copies
            .previous
            .extract_if(.., |previous| previous.until <= settled)
            .collect()
    }

    /// Whether the spare copies have just become superfluous.
    pub(crate) fn redundant_copies_done(&mut self) -> bool {
        let attached = matches!(self.attachment, Attachment::Edge { .. });
        attached
            && self.needs_no_redundant_copies()
            && self.copies.redundant_copies.take().is_some()
    }

    /// Puts back a delivery that an edge or the state store held. If no process knows when it came, it is as
    /// if it had come now.
    pub(crate) fn restore_item(&mut self, item: proto::Outbound, wall_ms: i64) {
        let (Some(key), Some(stanza)) = (item.key.as_ref().map(IdempotencyKey::from), item.stanza)
        else {
            return;
        };
        self.outgoing.next = item.number;
        let weight = stanza_weight(&stanza);
        let shared = item.key.is_some_and(|key| key.shared);
        let source = match is_stored(key) {
            true => Source::Stored,
            false if key.is(Purpose::Result) => Source::Page,
            false if key.index() > 0 && key.is(Purpose::RoomEvent) => Source::Join,
            false if shared && !self.outgoing.alone.contains(&(key.origin, key.n)) => {
                Source::Shared
            }
            false => Source::Live,
        };
        self.weigh(source, weight);
        if source == Source::Stored {
            self.outgoing.last_row = item.number;
        }
        self.outgoing.queue.push_back(OutItem {
            key,
            stanza: Arc::new(stanza),
            operation: None,
            weight,
            at_ms: if item.at_ms == 0 { wall_ms } else { item.at_ms },
            trace_context: TraceContext::default(),
            source,
            row: source == Source::Stored,
            maybe_row: false,
            taken: None,
        });
        self.outgoing.in_flight_keys.insert(item.number, key);
        self.outgoing.restored.insert(key);
    }

    /// The session was detached when its slot got a new owner: the owner before may have stored its messages.
    pub(crate) fn may_be_stored(&mut self) {
        for item in &mut self.outgoing.queue {
            let message = item.stanza.kind() == proto::StanzaKind::Message;
            item.maybe_row = message && item.key.is(Purpose::Route);
        }
    }

    /// Puts back the key of a delivery that the client has acknowledged: its origin may send it again.
    pub(crate) fn restore_key(&mut self, number: u64, key: IdempotencyKey) {
        self.outgoing.in_flight_keys.insert(number, key);
        self.outgoing.restored.insert(key);
    }

    /// Numbers that the client has acknowledged and whose origins may send them again, with their keys.
    pub(crate) fn acked_keys(&self) -> impl Iterator<Item = (u64, IdempotencyKey)> {
        let rows = self.outgoing.in_flight_keys.rows().copied();
        rows.take_while(|(number, _)| *number <= self.outgoing.acked)
    }

    /// Begins to send again from what the client acknowledged (another edge, or the lane anew).
    pub(crate) fn rewind(&mut self) {
        for item in &mut self.outgoing.queue {
            item.trace_context = TraceContext::default();
        }
        self.outgoing.sent = self.outgoing.acked;
        self.outgoing.written = self.outgoing.acked;
        self.outgoing.flying_bytes = 0;
    }

    /// A stanza that a resumed client gets late says when it came (XEP-0203, by the server), unless it says
    /// already that it is late.
    pub(crate) fn stamp_late(&mut self) {
        for item in &mut self.outgoing.queue {
            let mut stanza = Stanza::from((*item.stanza).clone());
            if stanza.kind == Kind::Iq || stanza.child(ns::DELAY, "delay").is_some() {
                continue;
            }
            let delay = Delay::new(Some(self.jid.domain()), item.at_ms);
            stanza.push_element(&delay.to_element());
            item.stanza = Arc::new(stanza.into());
            let before = std::mem::replace(&mut item.weight, stanza_weight(&item.stanza));
            let grown = item.weight.saturating_sub(before);
            self.outgoing.queue_bytes.add(grown);
            if item.source.is_bulk() {
                self.outgoing.bulk_bytes += grown;
            }
        }
    }

    /// Begins to tell all again to the edge that has its socket.
    pub(crate) fn tell_again(&mut self) {
        self.rewind();
        self.incoming.settled_reported = 0;
        self.incoming.accepted_reported = 0;
        self.outgoing.released_reported = 0;
        self.state_dirty = true;
    }

    /// The edge is being told that it has the session.
    pub(crate) fn attaching(&mut self) {
        self.copies.attached_no += 1;
        self.outgoing.edge_wrote = 0;
        self.outgoing.lane_waits = false;
        self.copies.edge_knows = !guard!("edge-knowledge");
        self.copies.edge_has = 0;
    }
}
