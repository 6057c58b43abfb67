//! What all slots of a worker share: lanes, peers, jobs, open works, the clock.
//!
//! Nothing here does I/O: frames and jobs are collected during a turn and leave at its end, in
//! one batch for each lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sestina_api::key::{EffectKey, split};
use sestina_api::link::EdgeLane;
use sestina_api::peer::PeerSink;
use sestina_api::shadow::ShadowOp;
use sestina_proto as proto;
use sestina_runtime::{failpoint, guard};
use sestina_xmpp::jid::Jid;

use super::passage::{self, Micros, Passage};
use super::work::{OnDone, WorkId, Works};
use crate::chance::HashMap;
use crate::config::RouterConfig;
use crate::hooks::Pipeline;
use crate::metrics::Metrics;

/// A router process; incarnation 0 never occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerRef(pub(crate) u64);

/// One lane of one edge process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneRef {
    /// Incarnation of the edge.
    pub(crate) edge: u64,
    /// Which of its lanes.
    pub(crate) lane: u32,
}

/// Something slow that the worker asks for; its end comes back as an input.
#[derive(Debug)]
pub(crate) enum Job {
    /// Append these archive rows; the works wait for it.
    Archive {
        rows: Vec<proto::ArchiveRow>,
        works: Vec<WorkId>,
    },
    /// Append these offline rows.
    Offline {
        rows: Vec<proto::OfflineRow>,
        works: Vec<WorkId>,
    },
    /// Ask whether an account exists.
    UserKnown { slot: u16, bare: String },
    /// Read a user's offline messages for that session.
    OfflineList {
        slot: u16,
        session: u128,
        bare: String,
    },
    /// Mark offline messages as delivered.
    OfflineRemove {
        slot: u16,
        session: u128,
        request: proto::OfflineRemoveRequest,
    },
    /// A page of an archive for the n-th stanza of a session.
    ArchiveQuery {
        query: Box<super::records::ArchiveQuery>,
        request: proto::ArchiveQueryRequest,
    },
    /// Commit a slot's shadow.
    Shadow {
        slot: u16,
        epoch: u64,
        ops: Vec<ShadowOp>,
    },
    /// Load a slot's shadow at takeover.
    ShadowLoad { slot: u16, epoch: u64 },
    /// All is settled and flushed: give the slot to that router.
    Release {
        slot: u16,
        epoch: u64,
        to: proto::Node,
    },
}

/// What an edge will hold, or know, once its lane acknowledges the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InFlight {
    /// A delivery: held twice then.
    Delivery {
        slot: u16,
        session: u128,
        number: u64,
    },
    /// That all up to here is settled: the edge has dropped its copies and will not replay them.
    Settled {
        slot: u16,
        session: u128,
        settled: u64,
    },
    /// A registry record: held twice then.
    State { work: WorkId },
}

/// One lane as a worker sees it.
pub(crate) struct EdgeLaneState {
    /// Which opening of this lane it is.
    instance: u64,
    pub(crate) lanes: u32,
    sink: Arc<dyn EdgeLane>,
    out: Vec<proto::ToEdge>,
    deliver: Option<proto::Deliver>,
    last_payload: usize,
    seq: u64,
    flying: Vec<InFlight>,
    unacked: VecDeque<(u64, Vec<InFlight>)>,
}

pub(crate) struct PeerState {
    sink: Option<Arc<dyn PeerSink>>,
    out: Vec<proto::PeerFrame>,
}

/// What all slots of a worker share.
pub(crate) struct Core {
    pub(crate) worker: u32,
    pub(crate) workers: u32,
    pub(crate) me: proto::Node,
    pub(crate) config: Arc<RouterConfig>,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) works: Works,
    /// Works whose last part is out; the worker acts on them before the turn ends.
    pub(crate) due: VecDeque<OnDone>,
    /// Frames for slots of this process, ours or another worker's.
    pub(crate) local: VecDeque<proto::PeerFrame>,
    pub(crate) lanes: HashMap<LaneRef, EdgeLaneState>,
    pub(crate) peers: HashMap<PeerRef, PeerState>,
    pub(crate) table: Arc<sestina_cluster::slot_map::SlotTable>,
    /// Highest epoch seen for each slot, shared by the workers of this process.
    pub(crate) epochs: Arc<[AtomicU64]>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) archive: Batch<proto::ArchiveRow>,
    pub(crate) offline: Batch<proto::OfflineRow>,
    /// Milliseconds of the clock that runs while suspended.
    pub(crate) now_ms: u64,
    /// Unix milliseconds, for time stamps only.
    pub(crate) wall_ms: i64,
    /// Sessions whose progress the edge should learn at the end of the turn.
    pub(crate) touched: Vec<(u16, u128)>,
    /// Numbers the streams of effects that this worker begins.
    pub(crate) streams: u64,
    /// Questions to archives that must see rows which are still on their way.
    pub(crate) queries: Vec<(u64, Job)>,
    /// Archive pages being read.
    pub(crate) archive_queries: usize,
    /// Time and trace of the stanza in hand.
    pub(crate) passage: Passage,
    /// The clock of passages. It stands still unless whoever drives the worker sets it.
    pub(crate) clock: fn() -> Micros,
    /// Sessions whose mark other slots should learn (sent together at a tick).
    pub(crate) marks_due: Vec<(u16, u128)>,
    marks: HashMap<u16, Vec<proto::Mark>>,
    /// Room events that the shadow holds now.
    pub(crate) room_committed: Vec<(u16, Jid, u64)>,
    /// Room events that leave without the shadow.
    pub(crate) room_uncommitted: Vec<(u16, Jid, u64)>,
    /// Rooms whose events up to a number are not in the shadow any more.
    pub(crate) room_trimmed: Vec<(u16, Jid, u64)>,
    /// Rooms with receivers to try again.
    pub(crate) rooms_blocked: Vec<(u16, Jid)>,
    /// Sessions that were ending when their owner died.
    pub(crate) end_after_restore: Vec<(u16, u128)>,
    /// Slots being handed over.
    pub(crate) frozen: Vec<u16>,
    /// Slots whose shadow has something to commit.
    pub(crate) shadow_dirty: Vec<u16>,
}

/// Rows waiting for a group commit: one batch in flight, one filling.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    rows: Vec<T>,
    works: Vec<WorkId>,
    bytes: usize,
    /// Traces of sampled stanzas among the rows.
    traces: Vec<Arc<str>>,
    /// Those of the batch taken last; whoever sends it takes them.
    pub(crate) flying_traces: Vec<Arc<str>>,
    /// Rows and bytes of the batch taken last.
    flying: (usize, usize),
    in_flight: bool,
    /// Batches that left, and that ended.
    taken: u64,
    done: u64,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch {
            rows: Vec::new(),
            works: Vec::new(),
            bytes: 0,
            traces: Vec::new(),
            flying_traces: Vec::new(),
            flying: (0, 0),
            in_flight: false,
            taken: 0,
            done: 0,
        }
    }
}

impl<T> Batch<T> {
    pub(crate) fn push(&mut self, row: T, work: WorkId, bytes: usize) {
        self.rows.push(row);
        self.works.push(work);
        self.bytes += bytes;
    }

    pub(crate) fn take(&mut self) -> Option<(Vec<T>, Vec<WorkId>)> {
        if self.in_flight || self.rows.is_empty() {
            return None;
        }
        self.in_flight = true;
        self.taken += 1;
        self.flying = (self.rows.len(), std::mem::take(&mut self.bytes));
        self.flying_traces = std::mem::take(&mut self.traces);
        Some((
            std::mem::take(&mut self.rows),
            std::mem::take(&mut self.works),
        ))
    }

    /// The batch in flight ended.
    pub(crate) fn ended(&mut self) {
        self.in_flight = false;
        self.done += 1;
    }

    /// The number of the batch behind which everything pushed so far is committed.
    pub(crate) fn barrier(&self) -> u64 {
        self.taken + u64::from(!self.rows.is_empty())
    }

    /// Whether that batch has ended.
    pub(crate) fn passed(&self, barrier: u64) -> bool {
        self.done >= barrier
    }

    /// Bytes that wait for storage.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that the row pushed last is of a sampled stanza.
    pub(crate) fn trace(&mut self, trace: &Arc<str>) {
        // A batch is one call: it can be shown in a few traces, not in any number of them.
        const TRACES: usize = 16;
        if self.traces.len() < TRACES {
            self.traces.push(trace.clone());
        }
    }

    /// Rows and bytes that storage has not confirmed.
    pub(crate) fn level(&self) -> (usize, usize) {
        let flying = if self.in_flight { self.flying } else { (0, 0) };
        (self.rows.len() + flying.0, self.bytes + flying.1)
    }
}

impl Core {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        worker: u32,
        workers: u32,
        me: proto::Node,
        config: Arc<RouterConfig>,
        pipeline: Arc<Pipeline>,
        metrics: Arc<Metrics>,
        epochs: Arc<[AtomicU64]>,
    ) -> Core {
        Core {
            worker,
            workers,
            me,
            config,
            pipeline,
            metrics,
            works: Works::default(),
            due: VecDeque::new(),
            local: VecDeque::new(),
            lanes: HashMap::default(),
            peers: HashMap::default(),
            table: Arc::new(sestina_cluster::slot_map::SlotTable::empty()),
            epochs,
            jobs: Vec::new(),
            archive: Batch::default(),
            offline: Batch::default(),
            now_ms: 0,
            wall_ms: 0,
            touched: Vec::new(),
            streams: 0,
            queries: Vec::new(),
            archive_queries: 0,
            passage: Passage::default(),
            clock: || 0,
            marks_due: Vec::new(),
            marks: HashMap::default(),
            room_committed: Vec::new(),
            room_uncommitted: Vec::new(),
            room_trimmed: Vec::new(),
            rooms_blocked: Vec::new(),
            end_after_restore: Vec::new(),
            frozen: Vec::new(),
            shadow_dirty: Vec::new(),
        }
    }

    /// The highest epoch known of a slot.
    pub(crate) fn known_epoch(&self, slot: u16) -> u64 {
        self.epochs
            .get(usize::from(slot))
            .map_or(0, |e| e.load(Ordering::Acquire))
    }

    /// Notes an epoch; false if a higher one is known, so that the frame must be refused.
    pub(crate) fn admit_epoch(&self, slot: u16, epoch: u64) -> bool {
        let Some(known) = self.epochs.get(usize::from(slot)) else {
            return false;
        };
        let before = known.fetch_max(epoch, Ordering::AcqRel);
        epoch >= before || !guard!("epoch")
    }

    /// Tells another slot, at the end of the turn, that keys of an origin can be forgotten.
    pub(crate) fn send_mark(&mut self, slot: u16, origin: u128, mark: u64) {
        let (origin_hi, origin_lo) = split(origin);
        self.marks.entry(slot).or_default().push(proto::Mark {
            origin_hi,
            origin_lo,
            mark,
        });
    }

    /// Puts the marks of this turn on their way.
    pub(crate) fn flush_marks(&mut self) {
        for (slot, marks) in std::mem::take(&mut self.marks) {
            let Some(owner) = self.owner_of(slot) else {
                continue;
            };
            let frame = proto::PeerFrame {
                slot: u32::from(slot),
                epoch: 0,
                body: Some(proto::peer_frame::Body::Marks(proto::Marks { marks })),
            };
            self.send_peer(owner, frame);
        }
    }

    /// Closes one part of a work.
    pub(crate) fn part_done(&mut self, work: WorkId) {
        if let Some(done) = self.works.part_done(work) {
            self.due.push_back(done);
        }
    }

    /// Asks archives whose rows are all committed: who said something finds it there.
    pub(crate) fn release_queries(&mut self) {
        let archive = &self.archive;
        let ready = self
            .queries
            .extract_if(.., |(barrier, _)| archive.passed(*barrier));
        self.jobs.extend(ready.map(|(_, job)| job));
    }

    /// Whether rows may still be taken, or senders must wait (storage is away).
    pub(crate) fn storage_backlogged(&self) -> bool {
        let full = self.archive.waiting_bytes() + self.offline.waiting_bytes()
            > self.config.max_storage_backlog_bytes;
        if full {
            self.metrics.backlogged();
        }
        full
    }

    // ---- edges

    pub(crate) fn lane_opened(
        &mut self,
        lane: LaneRef,
        instance: u64,
        lanes: u32,
        sink: Arc<dyn EdgeLane>,
    ) {
        self.lane_closed(lane, self.lanes.get(&lane).map_or(0, |l| l.instance));
        let state = EdgeLaneState {
            instance,
            lanes,
            sink,
            out: Vec::new(),
            deliver: None,
            last_payload: 0,
            seq: 0,
            flying: Vec::new(),
            unacked: VecDeque::new(),
        };
        self.lanes.insert(lane, state);
    }

    /// That opening of the lane ended: what was not acknowledged goes again with the next one.
    pub(crate) fn lane_closed(&mut self, lane: LaneRef, instance: u64) {
        if self.lanes.get(&lane).is_none_or(|l| l.instance != instance) {
            return;
        }
        let Some(state) = self.lanes.remove(&lane) else {
            return;
        };
        let unacked = state.unacked.into_iter().flat_map(|(_, flying)| flying);
        for flying in unacked.chain(state.flying) {
            if let InFlight::State { work } = flying {
                // The record goes again with every opening; the owner has it meanwhile.
                self.part_done(work);
            }
        }
    }

    /// A process whose lease has ended: none of its lanes will come back.
    pub(crate) fn forget_node(&mut self, incarnation: u64) {
        let lanes: Vec<LaneRef> = self
            .lanes
            .keys()
            .filter(|l| l.edge == incarnation)
            .copied()
            .collect();
        for lane in lanes {
            let instance = self.lanes.get(&lane).map_or(0, |l| l.instance);
            if let Some(state) = self.lanes.get(&lane) {
                state.sink.close();
            }
            self.lane_closed(lane, instance);
        }
        if let Some(peer) = self.peers.remove(&PeerRef(incarnation))
            && let Some(sink) = peer.sink
        {
            sink.close();
        }
    }

    pub(crate) fn send_edge(
        &mut self,
        lane: LaneRef,
        slot: u16,
        epoch: u64,
        body: proto::to_edge::Body,
    ) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.seal();
            state.out.push(proto::ToEdge {
                slot: u32::from(slot),
                epoch,
                body: Some(body),
            });
        }
    }

    /// Adds one delivery; deliveries of one payload in a row share a variant.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn deliver(
        &mut self,
        lane: LaneRef,
        slot: u16,
        session: u128,
        target: proto::Target,
        stanza: &Arc<proto::Stanza>,
        key: EffectKey,
        passage: &Passage,
    ) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        let number = target.number;
        let deliver = state.deliver.get_or_insert_with(proto::Deliver::default);
        let payload = Arc::as_ptr(stanza) as usize;
        let wire_key = proto::Key::from(key);
        let same = state.last_payload == payload
            && deliver
                .variants
                .last()
                .is_some_and(|v| v.key.as_ref() == Some(&wire_key));
        if !same {
            deliver.variants.push(proto::Variant {
                stanza: Some((**stanza).clone()),
                key: Some(wire_key),
                trace: passage.traceparent(),
                age_us: passage.born,
            });
            state.last_payload = payload;
        }
        let variant = u32::try_from(deliver.variants.len() - 1).unwrap_or(u32::MAX);
        deliver.targets.push(proto::Target { variant, ..target });
        state.flying.push(InFlight::Delivery {
            slot,
            session,
            number,
        });
    }

    /// Sends what the turn collected for edges.
    pub(crate) fn flush_edges(&mut self) {
        for state in self.lanes.values_mut() {
            state.seal();
            if state.out.is_empty() {
                continue;
            }
            for frame in &mut state.out {
                if let Some(proto::to_edge::Body::Deliver(deliver)) = &mut frame.body {
                    passage::edge_leaving(deliver, (self.clock)());
                }
            }
            state.seq += 1;
            state
                .unacked
                .push_back((state.seq, std::mem::take(&mut state.flying)));
            let batch = proto::ToEdgeBatch {
                worker: self.worker,
                seq: state.seq,
                frames: std::mem::take(&mut state.out),
            };
            if failpoint!("router.lane_send") || state.sink.send(batch).is_err() {
                // The lane's end is reported by the transport; what is unacknowledged is sent
                // again when the edge opens the next one.
                state.sink.close();
            }
        }
    }

    /// Notes that this turn's batch tells the edge what is settled.
    pub(crate) fn settled_told(&mut self, lane: LaneRef, slot: u16, session: u128, settled: u64) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.flying.push(InFlight::Settled {
                slot,
                session,
                settled,
            });
        }
    }

    /// Notes that this turn's batch carries a registry record that a work waits for.
    pub(crate) fn state_told(&mut self, lane: LaneRef, work: WorkId) {
        match self.lanes.get_mut(&lane) {
            Some(state) => state.flying.push(InFlight::State { work }),
            // Between two connections: the record is told again when the lane opens.
            None => self.part_done(work),
        }
    }

    /// The edge took all batches up to `seq`: returns what it holds and knows now.
    pub(crate) fn lane_acked(&mut self, lane: LaneRef, seq: u64) -> Vec<InFlight> {
        let mut held = Vec::new();
        let Some(state) = self.lanes.get_mut(&lane) else {
            return held;
        };
        while state.unacked.front().is_some_and(|(s, _)| *s <= seq) {
            if let Some((_, flying)) = state.unacked.pop_front() {
                held.extend(flying);
            }
        }
        held
    }

    // ---- routers

    /// A frame for the owner of `slot` at `owner`; lost if that lane breaks (the pending list resends).
    pub(crate) fn send_peer(&mut self, peer: PeerRef, frame: proto::PeerFrame) {
        if peer.0 == self.me.incarnation {
            self.local.push_back(frame);
        } else if let Some(state) = self.peers.get_mut(&peer) {
            state.out.push(frame);
        }
    }

    pub(crate) fn peer_opened(&mut self, key: PeerRef, sink: Arc<dyn PeerSink>) {
        let state = self.peers.entry(key).or_insert_with(|| PeerState {
            sink: None,
            out: Vec::new(),
        });
        state.sink = Some(sink);
        // From here on it is answered: whatever it asked before may have had no way back.
        let hello = proto::PeerHello {
            router: Some(self.me.clone()),
            ..proto::PeerHello::default()
        };
        state.out.push(proto::PeerFrame {
            slot: 0,
            epoch: 0,
            body: Some(proto::peer_frame::Body::Hello(hello)),
        });
    }

    pub(crate) fn peer_closed(&mut self, peer: PeerRef) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.sink = None;
            state.out.clear();
        }
    }

    /// Whether a lane to that router is open (to this process itself: always).
    pub(crate) fn peer_open(&self, peer: PeerRef) -> bool {
        peer.0 == self.me.incarnation || self.peers.get(&peer).is_some_and(|p| p.sink.is_some())
    }

    pub(crate) fn flush_peers(&mut self) {
        for state in self.peers.values_mut() {
            for mut frame in state.out.drain(..) {
                passage::leaving(&mut frame, (self.clock)());
                let room = matches!(frame.body, Some(proto::peer_frame::Body::RoomEvent(_)));
                if let Some(sink) = &state.sink
                    && (failpoint!("router.peer_send") || sink.send(frame).is_err())
                {
                    sink.close();
                    state.sink = None;
                }
                if room {
                    failpoint!("router.room_sent");
                }
            }
        }
    }

    /// Who owns a slot by the newest table.
    pub(crate) fn owner_of(&self, slot: u16) -> Option<PeerRef> {
        self.table.owner(slot).map(|n| PeerRef(n.incarnation))
    }

    /// Tells an origin that an effect of it is done, refused or not ours.
    pub(crate) fn effect_done(&mut self, to: PeerRef, origin_slot: u16, answer: proto::EffectDone) {
        let frame = proto::PeerFrame {
            slot: u32::from(origin_slot),
            epoch: 0,
            body: Some(proto::peer_frame::Body::EffectDone(answer)),
        };
        self.send_peer(to, frame);
    }
}

impl EdgeLaneState {
    /// Puts the deliveries collected so far behind what was queued before them.
    fn seal(&mut self) {
        if let Some(deliver) = self.deliver.take() {
            self.last_payload = 0;
            self.out.push(proto::ToEdge {
                slot: 0,
                epoch: 0,
                body: Some(proto::to_edge::Body::Deliver(deliver)),
            });
        }
    }
}

/// The wire form of a target room session.
pub(crate) fn room_target(slot: u16, session: u128, variant: u32) -> proto::RoomTarget {
    let (session_hi, session_lo) = split(session);
    proto::RoomTarget {
        slot: u32::from(slot),
        variant,
        session_hi,
        session_lo,
        previous: 0,
    }
}
