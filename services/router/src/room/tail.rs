//! Events of a room: numbered, committed, sent to every session owner, kept until all have them.

use std::collections::BTreeSet;

use sestina_api::key::{EffectKey, EffectKind, join};
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::jid::Jid;

use super::state::{Emission, Receiver, Room};
use super::tail_event::TailEvent;
use crate::chance::HashMap;
use crate::worker::core::{Core, PeerRef, room_target};
use crate::worker::slot::Slot;
use crate::worker::work::WorkId;

impl Slot {
    /// Numbers an event and commits it; it leaves when the commit is done.
    pub(super) fn room_emit(
        &mut self,
        core: &mut Core,
        room: &Jid,
        emission: Emission,
        cause: Option<EffectKey>,
        work: Option<WorkId>,
    ) {
        let shadow = core.config.shadow;
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let seq = this.next_seq(self.epoch);
        if let Some(work) = work {
            core.works.part(work);
        }
        let event = TailEvent {
            waiting: emission.targets.iter().map(|t| (t.slot, None)).collect(),
            variants: emission.variants,
            targets: emission.targets,
            work,
            sent: false,
            passage: core.passage.clone(),
        };
        let mut set = emission.fields;
        let mut remove = std::mem::take(&mut this.stale_fields);
        let trimmed = this.trimmed;
        remove.extend(emission.removed);
        if shadow {
            set.push(this.meta_field());
            if guard!("tail") {
                set.push(event.field(seq));
            }
            if let Some(key) = cause {
                this.keys.insert((key.origin, key.n, key.kind));
                set.push(Room::key_field(key));
            }
        }
        this.tail.insert(seq, event);
        failpoint!("router.room_event");
        self.shadow_room(core, room, set, remove, Some(seq), Some(trimmed));
    }

    /// The shadow has the event: it is settled for its sender, and leaves.
    pub(crate) fn room_committed(&mut self, core: &mut Core, room: &Jid, seq: u64, durable: bool) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let Some(event) = this.tail.get_mut(&seq) else {
            return;
        };
        if durable
            && core.config.shadow
            && let Some(work) = event.work.take()
        {
            core.part_done(work);
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
        let (identity, mark) = (this.identity, this.mark());
        let Some(event) = this.tail.get_mut(&seq) else {
            return;
        };
        let mut frames: HashMap<PeerRef, proto::RoomEvent> = HashMap::default();
        let mut last: Option<(u16, Option<PeerRef>)> = None;
        for Receiver {
            slot,
            session,
            variant,
            standing,
        } in &event.targets
        {
            if only.map_or_else(|| this.blocked.contains(slot), |only| only != *slot) {
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
                this.blocked.insert(*slot);
                continue;
            };
            this.mark_targets.insert(*slot);
            event.waiting.insert(*slot, Some(owner));
            let frame = frames.entry(owner).or_insert_with(|| proto::RoomEvent {
                key: Some(EffectKey::new(identity, seq, EffectKind::RoomEvent).into()),
                room_slot: u32::from(room_slot),
                room_epoch,
                mark,
                variants: event.variants.iter().map(|v| (**v).clone()).collect(),
                targets: Vec::new(),
                trace: event.passage.traceparent(),
                age_us: event.passage.born,
            });
            let mut target = room_target(*slot, *session, *variant);
            let previous = this.last_sent.insert(*session, seq).unwrap_or(0);
            target.previous = if previous > seq { 0 } else { previous };
            target.standing = *standing;
            frame.targets.push(target);
        }
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
        let Some(key) = ack.key.as_ref().map(EffectKey::from) else {
            return;
        };
        let Some(room) = self
            .rooms
            .values()
            .find(|r| r.identity == key.origin)
            .map(|r| r.jid.clone())
        else {
            return;
        };
        failpoint!("router.room_acked");
        let Some(this) = self.rooms.get_mut(&room) else {
            return;
        };
        if let Some(event) = this.tail.get_mut(&key.n) {
            for slot in &ack.done {
                if let Ok(slot) = u16::try_from(*slot) {
                    event.waiting.remove(&slot);
                }
            }
        }
        this.blocked
            .extend(ack.not_owner.iter().filter_map(|s| u16::try_from(*s).ok()));
        if !this.blocked.is_empty() {
            core.rooms_blocked.push((self.slot, room.clone()));
        }
        let told = this.told_by(key.n);
        for gone in &ack.gone {
            self.room_ghost(core, &room, join(gone.session_hi, gone.session_lo));
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
    fn room_trim(&mut self, core: &mut Core, room: &Jid) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        while let Some(first) = this.tail.first_entry() {
            if !first.get().sent || !first.get().waiting.is_empty() {
                break;
            }
            let (seq, event) = first.remove_entry();
            this.trimmed = seq;
            if let Some(work) = event.work {
                core.part_done(work);
            }
            if core.config.shadow {
                this.stale_fields.push(format!("e:{seq}"));
            } else {
                this.marked = seq;
            }
            if this.tail.is_empty() {
                this.trimmed = this.seq.max(this.trimmed);
                this.forget_sessions();
            }
        }
        let mark = this.mark();
        let left = this.occupants.is_empty() && this.joining.is_empty();
        if left && this.tail.is_empty() && !this.deleted {
            this.deleted = true;
            let (identity, targets) = (this.identity, this.mark_slots());
            for slot in targets {
                core.send_mark(slot, identity, u64::MAX);
            }
            self.rooms_seq = self.rooms_seq.max(this.seq);
            self.rooms.remove(room);
            core.metrics.rooms(-1);
            self.shadow_delete_object(core, crate::worker::shadow::room_object(room));
        } else if mark > this.mark_told + core.config.room_mark_batch {
            this.mark_told = mark;
            let (identity, targets) = (this.identity, this.mark_slots());
            for slot in targets {
                core.send_mark(slot, identity, mark);
            }
        }
    }

    /// Sends the low-water marks of rooms that went quiet, and tries blocked receivers again; run
    /// at each tick.
    pub(crate) fn rooms_tick(&mut self, core: &mut Core) {
        let rooms: Vec<Jid> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.room_unblock(core, &room);
            self.room_check(core, &room);
            // A slot that is being released writes nothing more to the shadow. This process tells the new owner
            // what the shadow has; were a write under way, it could not know that.
            if !self.is_releasing() {
                self.room_cut(core, &room);
            }
            let Some(this) = self.rooms.get_mut(&room) else {
                continue;
            };
            let mark = this.mark();
            if mark > this.mark_told {
                this.mark_told = mark;
                let (identity, targets) = (this.identity, this.mark_slots());
                for slot in targets {
                    core.send_mark(slot, identity, mark);
                }
            }
        }
    }

    /// Takes out of the shadow what all have, if no event did it meanwhile.
    pub(crate) fn room_cut(&mut self, core: &mut Core, room: &Jid) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        if this.stale_fields.is_empty() || this.deleted {
            return;
        }
        let remove = std::mem::take(&mut this.stale_fields);
        let (set, trimmed) = (vec![this.meta_field()], this.trimmed);
        self.shadow_room(core, room, set, remove, None, Some(trimmed));
    }

    /// The shadow does not have a room's events up to a number any more.
    pub(crate) fn room_trim_committed(&mut self, room: &Jid, seq: u64) {
        if let Some(this) = self.rooms.get_mut(room) {
            this.marked = this.marked.max(seq);
        }
    }

    /// Sends everything a blocked slot misses, in order, as a new beginning.
    fn room_unblock(&mut self, core: &mut Core, room: &Jid) {
        let Some(this) = self.rooms.get_mut(room) else {
            return;
        };
        let blocked: Vec<u16> = this.blocked.drain().collect();
        for slot in blocked {
            let Some(this) = self.rooms.get_mut(room) else {
                return;
            };
            let missing: Vec<u64> = this
                .tail
                .iter()
                .filter(|(_, e)| e.sent && e.waiting.contains_key(&slot))
                .map(|(seq, _)| *seq)
                .collect();
            if let Some(first) = missing.first().and_then(|seq| this.tail.get(seq)) {
                let sessions: BTreeSet<u128> = first
                    .targets
                    .iter()
                    .filter(|t| t.slot == slot)
                    .map(|t| t.session)
                    .collect();
                let later = this
                    .tail
                    .values()
                    .flat_map(|e| &e.targets)
                    .filter(|t| t.slot == slot);
                let all: BTreeSet<u128> = later.map(|t| t.session).chain(sessions).collect();
                for session in all {
                    this.last_sent.remove(&session);
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
            for event in room.tail.values().filter(|e| e.sent) {
                for (slot, sent_to) in &event.waiting {
                    let owner = core.owner_of(*slot);
                    if *sent_to != owner || (sent_to.is_some() && *sent_to == lane_to) {
                        room.blocked.insert(*slot);
                    }
                }
            }
        }
        self.rooms_tick(core);
    }

    /// Rooms came from the shadow: their tail goes to everyone again, first.
    pub(crate) fn rooms_restored(&mut self, core: &mut Core) {
        let epoch = self.epoch;
        for room in self.rooms.values_mut() {
            room.begin_epoch(epoch);
            let entity = crate::worker::slot::entity_of(room.jid.as_str());
            for (origin, n, kind) in &room.keys {
                let done = crate::worker::slot::Seen::Done {
                    reply: None,
                    sessions: Vec::new(),
                };
                self.seen.insert((*origin, *n, entity, *kind), done);
            }
            core.metrics.tail_replayed();
            core.metrics.rooms(1);
            core.metrics
                .occupants(i64::try_from(room.occupants.len()).unwrap_or(i64::MAX));
        }
        self.rooms_resend(core, None);
    }

    /// An origin's keys up to its mark will not come again.
    pub(crate) fn rooms_forget(&mut self, core: &Core, origin: u128, mark: u64) {
        for room in self.rooms.values_mut() {
            let last = (origin, mark, u32::MAX);
            let gone: Vec<_> = room.keys.range((origin, 0, 0)..=last).copied().collect();
            for key in gone {
                room.keys.remove(&key);
                if core.config.shadow {
                    let (origin, n, kind) = key;
                    room.stale_fields
                        .push(Room::key_field(EffectKey { origin, n, kind }).0);
                }
            }
        }
    }
}

impl Room {
    /// Forgets sessions that have left: they have got all their events, so nothing that they get
    /// later can come behind one of these.
    fn forget_sessions(&mut self) {
        if std::mem::take(&mut self.any_left) {
            let (inside, joining) = (&self.by_session, &self.joining);
            self.last_sent.retain(|session, _| {
                inside.contains_key(session) || joining.iter().any(|j| j.is_of(*session))
            });
        }
    }

    /// The number of the next event. Events that were sent while the shadow was away, or that it
    /// has lost, had higher numbers than the shadow gives the next owner, and receivers drop an
    /// event whose number is not higher than the last. So the numbers of each epoch are above all
    /// that an earlier epoch can have given.
    fn next_seq(&mut self, epoch: u64) -> u64 {
        let seq = self.coming_seq(epoch);
        if self.seq == 0 {
            self.mark_told = seq - 1;
        }
        self.seq = seq;
        seq
    }

    /// The number that the next event will have.
    pub(super) fn coming_seq(&self, epoch: u64) -> u64 {
        let floor = epoch.min(u64::from(u32::MAX)) << 32;
        let last = if guard!("room-sequence") { floor } else { 0 };
        self.seq.max(last) + 1
    }

    /// A new owner has the room: an event with a lower number that is not in its tail is never sent
    /// again.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        if self.tail.is_empty() {
            self.trimmed = self.coming_seq(epoch) - 1;
            self.marked = self.trimmed;
        }
    }

    /// Its mark, if it is that origin.
    pub(crate) fn mark_of(&self, origin: u128) -> Option<u64> {
        (self.identity == origin).then(|| self.mark())
    }

    /// The slots that may hold keys of this room: all of them when no event is open.
    fn mark_slots(&mut self) -> BTreeSet<u16> {
        if self.tail.is_empty() {
            std::mem::take(&mut self.mark_targets)
        } else {
            self.mark_targets.clone()
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

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
