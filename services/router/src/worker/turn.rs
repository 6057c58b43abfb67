//! One turn of a worker: inputs in, state changed, everything collected let out.

use std::sync::Arc;

use sestina_cluster::slot_map::newer;
use sestina_proto as proto;
use sestina_proto::peer_frame::Body as PeerBody;
use sestina_proto::to_edge::Body as EdgeBody;
use sestina_runtime::clock::steady_ms;

use super::Slots;
use super::core::{Core, Job, LaneRef, PeerRef};
use super::gauges::Gauges;
use super::handover_states::HandoverStates;
use super::input::Input;
use super::operations::OnDone;
use super::peers::PeerState;
use super::places::Places;
use super::slot::{Phase, Slot};
use crate::rng::HashMap;

/// How often a worker looks whether what it gives away has settled, and whether lanes have room.
const SETTLING_MS: u64 = 5;
/// How often refused slot messages are sent again.
pub(super) const RETRY_MS: u64 = 20;
/// In so many ticks every slot is looked at for sessions whose time is over.
const EXPIRING: u16 = 8;

/// A worker: slots, and what they share.
pub(crate) struct Worker {
    pub(crate) slots: Slots,
    pub(crate) core: Core,
    last_tick_ms: u64,
    /// Ticks so far, modulo 2^16.
    ticks: u16,
    last_sweep_ms: u64,
    pub(super) last_retry_ms: u64,
    pub(super) measured_ms: u64,
    pub(super) gauges: Gauges,
    pub(super) handover_states: HandoverStates,
    /// Gathered when it is first asked for in a turn.
    pub(super) places: Option<Places>,
}

impl Worker {
    pub(crate) fn new(core: Core) -> Worker {
        let worker = u16::try_from(core.me.worker).unwrap_or(0);
        let workers = u16::try_from(core.me.workers).unwrap_or(1).max(1);
        Worker {
            slots: Slots::new(worker, workers),
            core,
            last_tick_ms: 0,
            ticks: 0,
            last_sweep_ms: 0,
            last_retry_ms: 0,
            measured_ms: 0,
            gauges: Gauges::default(),
            handover_states: HandoverStates::default(),
            places: None,
        }
    }

    /// Works a batch of inputs. What is to leave this worker is in `core` afterwards: frames on
    /// their lanes (sent here), frames for other workers, and jobs.
    pub(crate) fn turn(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        now_ms: u64,
        wall_ms: i64,
        other_workers: &mut Vec<proto::PeerFrame>,
        jobs: &mut Vec<Job>,
    ) {
        self.core.now_ms = now_ms;
        self.places = None;
        self.core.wall_ms = steady_ms(self.core.wall_ms, wall_ms);
        for input in inputs {
            self.input(input);
        }
        if now_ms >= self.last_tick_ms + self.core.config.times.tick_ms {
            self.last_tick_ms = now_ms;
            self.tick();
            self.measure();
        }
        self.send_anew();
        self.settle_all(other_workers);
        if self.core.progress.hurried || now_ms >= self.core.progress.at_ms {
            self.tell_progress();
        }
        self.hand_over();
        for slot in std::mem::take(&mut self.core.slots.replicas_dirty) {
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.replica_flush(&mut self.core);
            }
        }
        self.core.flush_watermarks();
        self.settle_all(other_workers);
        // Stanzas that settled in this turn may have changed records: the records leave with the deliveries.
        if self.core.progress.hurried {
            self.tell_progress();
        }
        if let Some((rows, operations)) = self.core.storage.archive.take() {
            self.core.jobs.push(Job::Archive { rows, operations });
        }
        if let Some((rows, operations)) = self.core.storage.offline.take() {
            self.core.jobs.push(Job::Offline { rows, operations });
        }
        self.core.release_queries();
        jobs.append(&mut self.core.jobs);
        self.core.flush_edges();
        self.core.flush_peers();
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Edge { lane, frame } => self.edge_frame(lane, frame),
            Input::Peer { from, frame } => self.peer_frame(from, frame),
            Input::Done(done) => self.job_done(done),
            Input::EdgeLane {
                lane,
                instance,
                lanes,
                sink,
            } => {
                self.core.lane_opened(lane, instance, lanes, sink);
                for slot in self.slots.iter_mut() {
                    slot.install_at_edge(&mut self.core, lane);
                    slot.lane_reopened(&mut self.core, lane);
                }
            }
            Input::EdgeLaneClosed { lane, instance } => self.core.lane_closed(lane, instance),
            Input::PeerLane { node, sink } => {
                let peer = PeerRef(node.incarnation);
                self.core.peer_opened(peer, sink);
                for slot in self.slots.iter_mut() {
                    slot.install_at_router(&mut self.core, peer);
                }
                self.peer_anew(peer);
            }
            Input::PeerLaneClosed { peer } => self.core.peer_closed(peer),
            Input::PeerReturned { peer } => {
                for slot in self.slots.iter_mut() {
                    slot.install_at_router(&mut self.core, peer);
                }
                self.peer_anew(peer);
            }
            Input::Table(table) => self.new_table(table),
            Input::Take { slot, epoch, live } => {
                let known = self.slots.get_mut(slot).is_some_and(|s| s.epoch >= epoch);
                if !known && epoch >= self.core.known_epoch(slot) {
                    self.drop_slot(slot);
                    self.core
                        .slots
                        .quiescing
                        .retain(|quiescing| *quiescing != slot);
                    let taken = Slot::take(&mut self.core, slot, epoch, &live);
                    self.slots.insert(taken);
                }
            }
            Input::Lose { slot, epoch } => self.lose(slot, epoch),
            Input::NodeGone { incarnation } => {
                for slot in self.slots.iter_mut() {
                    slot.node_gone(&mut self.core, incarnation);
                    slot.edge_gone(&mut self.core, incarnation);
                }
                self.core.forget_node(incarnation);
            }
            Input::Installed { installed } => {
                for slot in self.slots.iter_mut().filter(|slot| slot.is_taking()) {
                    slot.installed_elsewhere(&mut self.core, &installed);
                }
            }
            Input::Command(command) => self.command(command),
        }
        // A slot serves from here on: what its rooms had sent comes before anything newer.
        for (from, event) in std::mem::take(&mut self.core.rooms.held_events) {
            self.take_room_event(from, event);
        }
    }

    /// Frames that the router did not answer are sent again, slot by slot, as its lane takes them.
    fn peer_anew(&mut self, peer: PeerRef) {
        let slots = self.slots.iter().map(|slot| slot.slot);
        self.core.peer_anew(peer, slots.collect());
    }

    fn send_anew(&mut self) {
        // Nearly always there is none, and this runs in every turn.
        if !self.core.peers.values().any(PeerState::has_anew) {
            return;
        }
        let peers: Vec<PeerRef> = self.core.peers.keys().copied().collect();
        for peer in peers {
            while let Some(slot) = self.core.next_anew(peer) {
                if let Some(slot) = self.slots.get_mut(slot) {
                    let sender = slot.sender();
                    slot.outbox.resend_to(&mut self.core, sender, peer);
                    slot.rooms_resend(&mut self.core, Some(peer));
                }
            }
        }
    }

    fn new_table(&mut self, table: Arc<sestina_cluster::slot_map::SlotTable>) {
        if newer(self.core.owners.table.position(), table.position()) {
            return;
        }
        self.core.owners.table = table;
        for slot in self.slots.iter_mut() {
            slot.retry_messages(&mut self.core);
            let sender = slot.sender();
            slot.outbox.owners_changed(&mut self.core, sender);
            slot.rooms_resend(&mut self.core, None);
        }
    }

    /// Works off what became due, until nothing is.
    fn settle_all(&mut self, other_workers: &mut Vec<proto::PeerFrame>) {
        loop {
            let mut idle = true;
            while let Some(done) = self.core.operations.due.pop_front() {
                idle = false;
                self.due(done);
            }
            for (slot, room, seq) in std::mem::take(&mut self.core.rooms.committed) {
                idle = false;
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.room_committed(&mut self.core, &room, seq, true);
                }
            }
            for (slot, room, seq) in std::mem::take(&mut self.core.rooms.uncommitted) {
                idle = false;
                self.core.metrics.room_uncommitted();
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.room_committed(&mut self.core, &room, seq, false);
                }
            }
            for (slot, room, seq) in std::mem::take(&mut self.core.rooms.trimmed) {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.room_trim_committed(&room, seq);
                }
            }
            for (slot, session) in std::mem::take(&mut self.core.slots.end_after_restore) {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.end_restored(&mut self.core, session);
                }
            }
            while let Some(frame) = self.core.local.pop_front() {
                idle = false;
                self.local_frame(frame, other_workers);
            }
            if idle {
                return;
            }
        }
    }

    /// A frame for a slot of this process: ours, or another worker's.
    fn local_frame(&mut self, frame: proto::PeerFrame, other_workers: &mut Vec<proto::PeerFrame>) {
        let me = PeerRef(self.core.me.node.incarnation);
        if let Some(PeerBody::RoomEvent(event)) = frame.body {
            let parts = split_event(event, self.core.me.workers);
            for (worker, part) in parts {
                if worker == self.core.me.worker {
                    self.take_room_event(me, part);
                } else {
                    let body = Some(PeerBody::RoomEvent(part));
                    other_workers.push(proto::PeerFrame {
                        slot: worker,
                        epoch: 0,
                        body,
                    });
                }
            }
        } else if let Some(PeerBody::RoomAsk(ask)) = frame.body {
            for worker in (0..self.core.me.workers).filter(|w| *w != self.core.me.worker) {
                let body = Some(PeerBody::RoomAsk(ask));
                other_workers.push(proto::PeerFrame {
                    slot: worker,
                    epoch: 0,
                    body,
                });
            }
            self.room_ask(me, &ask);
        } else if frame.slot % self.core.me.workers == self.core.me.worker {
            self.peer_frame(me, frame);
        } else {
            other_workers.push(frame);
        }
    }

    fn due(&mut self, done: OnDone) {
        let core = &mut self.core;
        match done {
            OnDone::Stanza { slot, session, n } => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.stanza_settled(core, session, n);
                }
            }
            OnDone::SlotMessage { slot, entity, key } => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.message_complete(core, entity, key);
                }
            }
            OnDone::RoomEvent {
                from,
                room_slot,
                room_epoch,
                key,
                ack,
            } => {
                // Of what is held until its slot serves there is nothing to say yet.
                if ack.is_empty() {
                    return;
                }
                let frame = proto::PeerFrame {
                    slot: u32::from(room_slot),
                    epoch: room_epoch,
                    body: Some(PeerBody::RoomAck(crate::room::room_ack(key, *ack))),
                };
                core.send_peer(from, frame);
            }
            OnDone::Ended { slot, session } => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.session_ended(core, session);
                }
            }
            OnDone::Returned { ended, waits, .. } => {
                core.part_done(ended);
                if let Some(waits) = waits {
                    core.part_done(waits);
                }
            }
            OnDone::Nothing => {}
        }
    }

    /// Tells edges what was accepted, settled and released since the last time, one frame for each
    /// lane and epoch.
    fn tell_progress(&mut self) {
        self.core.progress.hurried = false;
        let mut items: HashMap<(LaneRef, u16, u64), Vec<proto::ProgressItem>> = HashMap::default();
        for (slot, session) in std::mem::take(&mut self.core.progress.touched) {
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.progress(&mut self.core, session, &mut items);
            }
        }
        for ((lane, slot, epoch), items) in items {
            self.core.send_edge(
                lane,
                slot,
                epoch,
                EdgeBody::Progress(proto::Progress { items }),
            );
        }
    }

    fn tick(&mut self) {
        if self.core.now_ms >= self.last_sweep_ms + self.core.config.times.sweep_ms {
            self.last_sweep_ms = self.core.now_ms;
            self.tell_waiting();
            self.handover_states.expire(self.core.now_ms);
            for slot in self
                .slots
                .iter_mut()
                .filter(|s| s.is_active() && !s.is_idle())
            {
                slot.sweep_watermarks(&mut self.core);
            }
        }
        self.ask_again();
        self.raise_outdated();
        self.check_replicas();
        self.ticks = self.ticks.wrapping_add(1);
        let turn = self.ticks % EXPIRING;
        for slot in self.slots.iter_mut().filter(|s| !s.is_idle()) {
            if slot.is_active() {
                slot.retry_messages(&mut self.core);
                slot.retry_offline(&mut self.core);
                slot.late_pages(&mut self.core);
                slot.data_tick(&mut self.core);
                slot.residents_tick(&mut self.core);
                // All sessions of a worker in one tick would be felt, and time-outs are in seconds.
                if (slot.slot >> 4) % EXPIRING == turn {
                    slot.expire(&mut self.core);
                }
                slot.rooms_tick(&mut self.core);
                slot.places_tick(&mut self.core);
            }
        }
        self.core.ask_keys();
        for (slot, id) in std::mem::take(&mut self.core.watermarks.sessions) {
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.send_watermarks(&mut self.core, id);
            }
        }
        for (slot, _) in std::mem::take(&mut self.core.rooms.stalled) {
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.rooms_tick(&mut self.core);
            }
        }
    }

    /// How soon the worker looks again although nothing came.
    pub(crate) fn patience(&self) -> Option<u64> {
        if !self.core.slots.quiescing.is_empty() || self.core.peers_wait {
            Some(SETTLING_MS)
        } else {
            self.core.slots.messages_refused.then_some(RETRY_MS)
        }
    }

    /// When edges are to be told of progress, if there is any.
    pub(crate) fn progress_due(&self) -> Option<u64> {
        (!self.core.progress.touched.is_empty()).then_some(self.core.progress.at_ms)
    }
}

impl Slot {
    /// A watermark of an origin or of a room.
    pub(super) fn watermark(&mut self, core: &mut Core, origin: u128, watermark: u64) {
        self.forget(core, origin, watermark);
        self.rooms_forget(core, origin, watermark);
        let mut touched = Vec::new();
        for session in self
            .sessions
            .values_mut()
            .filter(|s| s.channel.outgoing.room_seq.contains_key(&origin))
        {
            if session.channel.release_origin(origin, watermark) {
                touched.push(session.channel.id);
            }
            if watermark == u64::MAX {
                session.channel.outgoing.room_seq.remove(&origin);
            }
        }
        for id in touched {
            self.touch(core, id);
        }
    }

    pub(crate) fn is_taking(&self) -> bool {
        matches!(self.phase, Phase::Taking(_))
    }
}

/// Cuts a room's event into the parts for each worker.
pub fn split_event(event: proto::RoomEvent, workers: u32) -> Vec<(u32, proto::RoomEvent)> {
    if workers <= 1 {
        return vec![(0, event)];
    }
    let mut parts: HashMap<u32, Vec<proto::RoomTarget>> = HashMap::default();
    for target in &event.targets {
        parts
            .entry(target.slot % workers)
            .or_default()
            .push(*target);
    }
    parts
        .into_iter()
        .map(|(worker, targets)| {
            (
                worker,
                proto::RoomEvent {
                    targets,
                    ..event.clone()
                },
            )
        })
        .collect()
}
