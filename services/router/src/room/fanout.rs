//! Events of rooms: committed, sent to the owners of the receivers' sessions, kept until all have acknowledged them.

use std::collections::BTreeSet;

use sestina_api::key::{IdempotencyKey, Purpose, join};
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::ext::muc::status;
use sestina_xmpp::jid::Jid;

use super::logged_event::LoggedEvent;
use super::record::key_field;
use crate::domain::room::{Broadcast, Home, Receiver};
use crate::rng::HashMap;
use crate::worker::core::{Core, PeerRef, room_target};
use crate::worker::operations::OperationId;
use crate::worker::receive::InHand;
use crate::worker::slot::Slot;

impl Slot {
    /// Emits the event that a slot message causes: the operation of the message waits for it.
    pub(super) fn room_emit_for(
        &mut self,
        core: &mut Core,
        hand: InHand,
        room: &Jid,
        broadcast: Broadcast,
    ) {
        self.room_emit(core, room, broadcast, Some(hand.key), Some(hand.operation));
    }

    /// Numbers an event and commits it; it leaves when the commit is done.
    pub(super) fn room_emit(
        &mut self,
        core: &mut Core,
        room: &Jid,
        broadcast: Broadcast,
        cause: Option<IdempotencyKey>,
        operation: Option<OperationId>,
    ) {
        let replica = core.config.state_store;
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let log = &mut this.log;
        let seq = log.next_seq(self.epoch);
        if let Some(operation) = operation {
            core.operations.part(operation);
        }
        let event = LoggedEvent {
            waiting: broadcast.targets.iter().map(|t| (t.home.0, None)).collect(),
            variants: broadcast.variants,
            targets: broadcast.targets,
            operation,
            sent: false,
            trace_context: core.trace_context.clone(),
        };
        let (mut set, mut remove) = (Vec::new(), std::mem::take(&mut log.stale_fields));
        let trimmed = log.trimmed;
        if replica {
            let (changed, gone) = this.changed_fields(&broadcast.changed);
            set.extend(changed);
            remove.extend(gone);
            set.push(this.meta_field());
            if guard!("event-log") {
                set.push(event.field(seq));
            }
            if let Some(key) = cause {
                this.log.keys.insert((key.origin, key.n, key.purpose));
                set.push(key_field(key));
            }
        }
        this.log.events.insert(seq, event);
        failpoint!("router.room_event");
        self.replica_room(core, room, set, remove, Some(seq), Some(trimmed));
    }

    /// The state store has the event: it is settled for its sender, and leaves.
    pub(crate) fn room_committed(&mut self, core: &mut Core, room: &Jid, seq: u64, durable: bool) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let Some(event) = this.log.events.get_mut(&seq) else {
            return;
        };
        if durable
            && core.config.state_store
            && let Some(operation) = event.operation.take()
        {
            core.part_done(operation);
        }
        if !event.sent {
            event.sent = true;
            failpoint!("router.room_committed");
            self.room_send(core, room, seq, None);
        }
        self.room_trim(core, room);
    }

    /// Sends an event to the owners of its receivers, or again to one slot, or those of one router.
    fn room_send(&mut self, core: &mut Core, room: &Jid, seq: u64, only: Option<u16>) {
        let (room_slot, room_epoch) = (self.slot, self.epoch);
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let log = &mut this.log;
        let (identity, watermark) = (log.identity, log.watermark);
        let Some(mut event) = log.events.remove(&seq) else {
            return;
        };
        let mut frames: HashMap<PeerRef, proto::RoomEvent> = HashMap::default();
        let mut last: Option<(u16, Option<PeerRef>)> = None;
        for Receiver {
            home: Home(slot),
            session,
            variant,
            affiliation_and_role,
        } in &event.targets
        {
            if only.map_or_else(|| log.stalled.contains(slot), |only| only != *slot) {
                continue;
            }
            let owner = match last {
                Some((s, owner)) if s == *slot => owner,
                _ => {
                    let owner = core.owner_of(*slot).filter(|o| core.peer_takes(*o));
                    last = Some((*slot, owner));
                    owner
                }
            };
            if !event.waiting.contains_key(slot) {
                continue;
            }
            let Some(owner) = owner else {
                log.stalled.insert(*slot);
                continue;
            };
            log.sent_to(*slot);
            event.waiting.insert(*slot, Some(owner));
            let frame = frames.entry(owner).or_insert_with(|| proto::RoomEvent {
                key: Some(IdempotencyKey::new(identity, seq, Purpose::RoomEvent).into()),
                room_slot: u32::from(room_slot),
                room_epoch,
                watermark,
                variants: event.variants.iter().map(|v| (**v).clone()).collect(),
                targets: Vec::new(),
                trace: event.trace_context.traceparent(),
                age_us: event.trace_context.received_at,
            });
            let mut target = room_target(*slot, *session, *variant);
            let previous = log.last_sent.insert(*session, seq).unwrap_or(0);
            target.previous = if previous > seq { 0 } else { previous };
            target.affiliation_and_role = *affiliation_and_role;
            frame.targets.push(target);
        }
        log.events.insert(seq, event);
        for (owner, mut event) in frames {
            strip_unused(&mut event);
            let frame = proto::PeerFrame {
                slot: u32::from(room_slot),
                epoch: room_epoch,
                body: Some(proto::peer_frame::Body::RoomEvent(event)),
            };
            core.send_peer(owner, frame);
        }
    }

    /// A session owner answered.
    pub(crate) fn room_acked(&mut self, core: &mut Core, ack: proto::RoomAck) {
        let Some(key) = ack.key.as_ref().map(IdempotencyKey::from) else {
            return;
        };
        let Some(room) = self
            .rooms
            .values()
            .find(|r| r.log.identity == key.origin)
            .map(|r| r.jid().clone())
        else {
            return;
        };
        failpoint!("router.room_acked");
        let Some(this) = self.rooms.get_mut(&room) else {
            return;
        };
        if let Some(event) = this.log.events.get_mut(&key.n) {
            for slot in &ack.done {
                if let Ok(slot) = u16::try_from(*slot) {
                    event.waiting.remove(&slot);
                }
            }
        }
        this.log
            .stalled
            .extend(ack.not_owner.iter().filter_map(|s| u16::try_from(*s).ok()));
        if !this.log.stalled.is_empty() {
            core.rooms.stalled.push((self.slot, room.clone()));
        }
        // The owner of a session that is entering has a part of the occupants: the session gets the next one.
        let told = this.told_by(key.n);
        for gone in &ack.gone {
            let gone = join(gone.session_hi, gone.session_lo);
            self.room_ghost(core, &room, gone, &[status::REMOVED_ERROR]);
        }
        for (_, session) in told
            .into_iter()
            .filter(|(slot, _)| ack.done.contains(&u32::from(*slot)))
        {
            self.room_tells_on(core, &room, session);
        }
        self.room_trim(core, &room);
    }

    /// Drops events that all have, in order; forgets a room that is empty and flushed.
    pub(super) fn room_trim(&mut self, core: &mut Core, room: &Jid) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let (room_state, log) = (&mut this.room, &mut this.log);
        while let Some(first) = log.events.first_entry() {
            if !first.get().sent || !first.get().waiting.is_empty() {
                break;
            }
            let (seq, event) = first.remove_entry();
            log.trimmed = seq;
            if let Some(operation) = event.operation {
                core.part_done(operation);
            }
            if core.config.state_store {
                log.stale_fields.push(format!("e:{seq}"));
            } else {
                log.watermark = seq;
            }
            if log.events.is_empty() {
                log.trimmed = log.seq.max(log.trimmed);
                if std::mem::take(&mut room_state.any_left) {
                    log.forget_sessions(|session| room_state.has_to_do_with(session));
                }
            }
        }
        let watermark = log.watermark;
        if room_state.is_empty() && log.events.is_empty() && !log.deleted {
            log.deleted = true;
            let (identity, targets) = (log.identity, log.watermark_slots());
            for slot in targets {
                core.send_watermark(slot, identity, u64::MAX);
            }
            self.rooms_seq = self.rooms_seq.max(log.seq);
            self.rooms.remove(room);
            core.metrics.rooms(-1);
            self.replica_delete_object(core, crate::worker::replica::room_object(room));
        } else if watermark > log.watermark_reported + core.config.room_watermark_batch {
            log.watermark_reported = watermark;
            let (identity, targets) = (log.identity, log.watermark_slots());
            for slot in targets {
                core.send_watermark(slot, identity, watermark);
            }
        }
    }

    /// Sends the watermarks of rooms that went quiet, and tries blocked receivers again; run
    /// at each tick.
    pub(crate) fn rooms_tick(&mut self, core: &mut Core) {
        let rooms: Vec<Jid> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.room_resume_stalled(core, &room);
            self.room_check(core, &room);
            // A slot that is being released writes nothing more to the state store. This process tells the new owner
            // what the state store has; were a write under way, it could not know that.
            if !self.is_releasing() {
                self.room_cut(core, &room);
            }
            let Some(this) = self.rooms.get_mut(&room) else {
                continue;
            };
            let log = &mut this.log;
            let watermark = log.watermark;
            if watermark > log.watermark_reported {
                log.watermark_reported = watermark;
                let (identity, targets) = (log.identity, log.watermark_slots());
                for slot in targets {
                    core.send_watermark(slot, identity, watermark);
                }
            }
        }
    }

    /// Removes events that all receivers have from the state store, if no later event has removed them already.
    pub(crate) fn room_cut(&mut self, core: &mut Core, room: &Jid) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        if this.log.stale_fields.is_empty() || this.log.deleted {
            return;
        }
        let remove = std::mem::take(&mut this.log.stale_fields);
        let (set, trimmed) = (vec![this.meta_field()], this.log.trimmed);
        self.replica_room(core, room, set, remove, None, Some(trimmed));
    }

    /// The state store does not have a room's events up to a number any more.
    pub(crate) fn room_trim_committed(&mut self, room: &Jid, seq: u64) {
        if let Some(this) = self.rooms.get_mut(room) {
            this.log.watermark = this.log.watermark.max(seq);
        }
    }

    /// Sends each slot that has stalled all events that it has not acknowledged, in order; receivers take the first of
    /// them as the start of a new sequence.
    fn room_resume_stalled(&mut self, core: &mut Core, room: &Jid) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let stalled: Vec<u16> = this.log.stalled.drain().collect();
        for slot in stalled {
            let Some(this) = self.rooms.get_mut(room) else {
                return;
            };
            let missing: Vec<u64> = this
                .log
                .events
                .iter()
                .filter(|(_, e)| e.sent && e.waiting.contains_key(&slot))
                .map(|(seq, _)| *seq)
                .collect();
            if let Some(first) = missing.first().and_then(|seq| this.log.events.get(seq)) {
                let sessions: BTreeSet<u128> = first
                    .targets
                    .iter()
                    .filter(|t| t.home.0 == slot)
                    .map(|t| t.session)
                    .collect();
                let later = this
                    .log
                    .events
                    .values()
                    .flat_map(|e| &e.targets)
                    .filter(|t| t.home.0 == slot);
                let all: BTreeSet<u128> = later.map(|t| t.session).chain(sessions).collect();
                for session in all {
                    this.log.last_sent.remove(&session);
                }
            }
            for seq in missing {
                self.room_send(core, room, seq, Some(slot));
            }
        }
    }

    /// The map changed, or a lane to a router is new: what it did not acknowledge goes again.
    pub(crate) fn rooms_resend(&mut self, core: &mut Core, lane_to: Option<PeerRef>) {
        for room in self.rooms.values_mut() {
            for event in room.log.events.values().filter(|e| e.sent) {
                for (slot, sent_to) in &event.waiting {
                    let owner = core.owner_of(*slot);
                    if *sent_to != owner || (sent_to.is_some() && *sent_to == lane_to) {
                        room.log.stalled.insert(*slot);
                    }
                }
            }
        }
        self.rooms_tick(core);
    }

    /// After rooms were loaded from the state store: sends their logged events again, before any new one.
    pub(crate) fn rooms_restored(&mut self, core: &mut Core) {
        let epoch = self.epoch;
        for room in self.rooms.values_mut() {
            room.log.begin_epoch(epoch);
            let entity = crate::worker::slot::entity_of(room.jid().as_str());
            for (origin, n, purpose) in &room.log.keys {
                let done = crate::worker::slot::Handled::Done {
                    reply: None,
                    sessions: Vec::new(),
                };
                self.inbox
                    .dedup
                    .insert((*origin, *n, entity, *purpose), done);
            }
            core.metrics.event_log_replayed();
            core.metrics.rooms(1);
            core.metrics
                .occupants(i64::try_from(room.occupant_count()).unwrap_or(i64::MAX));
        }
        self.rooms_resend(core, None);
    }

    /// An origin's keys up to its watermark will not come again.
    pub(crate) fn rooms_forget(&mut self, core: &Core, origin: u128, watermark: u64) {
        for room in self.rooms.values_mut() {
            room.log
                .forget_keys(origin, watermark, core.config.state_store);
        }
    }
}

/// A frame carries only the variants that its targets use.
fn strip_unused(event: &mut proto::RoomEvent) {
    let used: BTreeSet<u32> = event.targets.iter().map(|t| t.variant).collect();
    if used.len() == event.variants.len() {
        return;
    }
    for (index, variant) in event.variants.iter_mut().enumerate() {
        // The index is part of the key, so variants keep their places and only lose their payload.
        if !used.contains(&u32::try_from(index).unwrap_or(u32::MAX)) {
            *variant = proto::Stanza::default();
        }
    }
}
