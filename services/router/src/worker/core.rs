//! The state that all slots of a worker share: lanes, peers, jobs, open operations, the clock.
//!
//! Nothing here does I/O: frames and jobs are collected during a turn and leave at its end, in
//! one batch for each lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sestina_api::key::split;
use sestina_api::state_store::{ReplicaOp, Stamp};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::jid::Jid;

use super::batch::Batch;
use super::lanes::EdgeLaneState;
use super::operations::{OperationId, Operations};
use super::peers::PeerState;
use super::trace_context::{Micros, TraceContext};
use super::unconfirmed_releases::UnconfirmedReleases;
use crate::config::RouterConfig;
use crate::hooks::Pipelines;
use crate::metrics::Metrics;
use crate::rng::HashMap;

/// A router process; incarnation 0 never occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerRef(pub u64);

/// One lane of one edge process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneRef {
    /// Incarnation of the edge.
    pub edge: u64,
    /// Which of its lanes.
    pub lane: u32,
}

/// Something slow that the worker asks for; its end comes back as an input.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Job {
    /// Append these archive rows; the operations wait for it.
    Archive {
        rows: Vec<proto::ArchiveRow>,
        operations: Vec<OperationId>,
    },
    /// Append these offline rows.
    Offline {
        rows: Vec<proto::OfflineRow>,
        operations: Vec<OperationId>,
    },
    /// Ask whether an account exists, which of these offline messages it has or had, and for its data with these names.
    UserKnown {
        slot: u16,
        bare: String,
        keys: Vec<proto::Key>,
        names: Vec<String>,
    },
    /// Read the next stored messages of a user.
    OfflineList(OfflineRead),
    /// Mark offline messages as delivered.
    OfflineRemove {
        slot: u16,
        session: u128,
        request: proto::OfflineRemoveRequest,
    },
    /// A page of an archive for the n-th stanza of a session.
    ArchiveQuery {
        query: Box<super::pages::ArchiveQuery>,
        request: proto::ArchiveQueryRequest,
    },
    /// Read or write data of modules about a user.
    EntityData {
        slot: u16,
        epoch: u64,
        entity: String,
        request: super::data::DataRequest,
    },
    /// Read the resident data of a user.
    Residents {
        slot: u16,
        epoch: u64,
        /// Which question of the slot it is: it may ask anew meanwhile.
        question: u64,
        user: String,
        names: Vec<String>,
    },
    /// Commit a slot's replica.
    ReplicaCommit {
        slot: u16,
        at: Stamp,
        ops: Vec<ReplicaOp>,
    },
    /// Ask the state store which objects of a slot it has.
    ReplicaList { slot: u16, at: Stamp },
    /// Load a slot's replica at takeover.
    ReplicaLoad { slot: u16, epoch: u64 },
    /// Have the keys of these users ready.
    Keys { users: Vec<String> },
    /// All is settled and flushed: give the slot to that router.
    Release {
        slot: u16,
        epoch: u64,
        to: proto::Node,
    },
    /// A process knows the epoch `known` of a slot of this process, and the table a lower one: ask
    /// storage for an epoch above it.
    Raise { slot: u16, known: u64 },
}

/// A question for the next stored messages of a user, for a session.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct OfflineRead {
    pub slot: u16,
    pub epoch: u64,
    pub session: u128,
    /// Which question of the slot it is: the session may ask anew meanwhile.
    pub question: u64,
    pub request: proto::OfflineListRequest,
}

/// Which worker of which process it is.
#[derive(Debug)]
pub(crate) struct Me {
    pub(crate) worker: u32,
    pub(crate) workers: u32,
    pub(crate) node: proto::Node,
}

/// Rows for storage that wait for the end of the turn, and questions behind them.
#[derive(Debug, Default)]
pub(crate) struct ToStorage {
    pub(crate) archive: Batch<proto::ArchiveRow>,
    pub(crate) offline: Batch<proto::OfflineRow>,
    /// Questions to archives that must see rows which are still on their way.
    pub(crate) queries: Vec<(u64, Job)>,
    /// Archive pages being read.
    pub(crate) pages: usize,
}

/// Users whose keys are to be had ready.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) wanted: Vec<String>,
    /// Others are being asked for.
    pub(crate) asked: bool,
}

/// What edges are to be told of the progress of their sessions.
#[derive(Debug, Default)]
pub(crate) struct ProgressDue {
    /// Sessions whose progress the edge should learn at the next flush.
    pub(crate) touched: Vec<(u16, u128)>,
    /// When that is.
    pub(crate) at_ms: u64,
    /// A session of the list cannot wait for the next flush: the progress of all is sent at the end of this turn.
    pub(crate) hurried: bool,
}

/// Watermarks that other slots are to be told.
#[derive(Debug, Default)]
pub(crate) struct WatermarksDue {
    /// Sessions whose watermark other slots should learn (sent together at a tick).
    pub(crate) sessions: Vec<(u16, u128)>,
    by_slot: HashMap<u16, Vec<proto::Watermark>>,
}

/// What is to be done for rooms before the turn ends.
#[derive(Debug, Default)]
pub(crate) struct RoomsDue {
    /// Events that the state store holds now.
    pub(crate) committed: Vec<(u16, Jid, u64)>,
    /// Events that are sent although the state store does not have them: it is unavailable.
    pub(crate) uncommitted: Vec<(u16, Jid, u64)>,
    /// Rooms whose events up to a number are not in the state store any more.
    pub(crate) trimmed: Vec<(u16, Jid, u64)>,
    /// Rooms with receivers to try again.
    pub(crate) stalled: Vec<(u16, Jid)>,
    /// Events that came for slots which serve only now; handled before the next input.
    pub(crate) held_events: Vec<(PeerRef, proto::RoomEvent)>,
}

/// What is to be done for slots.
#[derive(Debug, Default)]
pub(crate) struct SlotsDue {
    /// Sessions that were ending when their owner died.
    pub(crate) end_after_restore: Vec<(u16, u128)>,
    /// Slots being handed over.
    pub(crate) quiescing: Vec<u16>,
    /// A slot message was refused because its slot is changing its owner: it is sent again soon.
    pub(crate) messages_refused: bool,
    /// Slots whose replica has something to commit.
    pub(crate) replicas_dirty: Vec<u16>,
}

/// Which router owns which slot, as far as this process knows.
#[derive(Debug)]
pub(crate) struct Owners {
    pub(crate) table: Arc<sestina_cluster::slot_map::SlotTable>,
    /// Highest epoch seen for each slot, shared by the workers of this process.
    pub(crate) epochs: Arc<[AtomicU64]>,
    /// Slots given away by this process; shared by its workers.
    pub(crate) unconfirmed_releases: Arc<UnconfirmedReleases>,
}

/// Numbers that a worker gives.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Of the streams of slot messages that it begins.
    pub(crate) streams: u64,
    /// Of the writes of users' data that it asks storage for.
    pub(crate) data_writes: u64,
}

/// The state that all slots of a worker share.
pub(crate) struct Core {
    pub(crate) me: Me,
    pub(crate) config: Arc<RouterConfig>,
    pub(crate) pipelines: Arc<Pipelines>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) operations: Operations,
    /// Frames for slots of this process, ours or another worker's.
    pub(crate) local: VecDeque<proto::PeerFrame>,
    pub(crate) lanes: HashMap<LaneRef, EdgeLaneState>,
    pub(crate) peers: HashMap<PeerRef, PeerState>,
    /// Lanes to routers have not taken all there is for them.
    pub(crate) peers_wait: bool,
    pub(crate) owners: Owners,
    pub(crate) jobs: Vec<Job>,
    pub(crate) storage: ToStorage,
    pub(crate) keys: Keys,
    pub(crate) progress: ProgressDue,
    pub(crate) watermarks: WatermarksDue,
    pub(crate) rooms: RoomsDue,
    pub(crate) slots: SlotsDue,
    /// Milliseconds of the clock that runs while suspended.
    pub(crate) now_ms: u64,
    /// Unix milliseconds, for time stamps only.
    pub(crate) wall_ms: i64,
    pub(crate) counters: Counters,
    /// When the first lane to an edge opened after there was none ([`now_ms`](Core::now_ms)).
    pub(crate) lanes_since_ms: u64,
    /// Time and trace of the stanza in hand.
    pub(crate) trace_context: TraceContext,
    /// The clock of trace contexts. It stands still unless it is set.
    pub(crate) clock: fn() -> Micros,
    /// Rows that storage refused, and slots whose epoch is too low.
    pub(crate) doubted: super::doubted::Doubted,
    /// The knowledge of the state store as a whole.
    pub(crate) checks: super::replica_check::Checks,
}

impl Core {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        worker: u32,
        workers: u32,
        node: proto::Node,
        config: Arc<RouterConfig>,
        pipelines: Arc<Pipelines>,
        metrics: Arc<Metrics>,
        epochs: Arc<[AtomicU64]>,
    ) -> Core {
        Core {
            me: Me {
                worker,
                workers,
                node,
            },
            config,
            pipelines,
            metrics,
            operations: Operations::default(),
            local: VecDeque::new(),
            lanes: HashMap::default(),
            peers: HashMap::default(),
            peers_wait: false,
            owners: Owners {
                table: Arc::new(sestina_cluster::slot_map::SlotTable::empty()),
                epochs,
                unconfirmed_releases: Arc::default(),
            },
            jobs: Vec::new(),
            storage: ToStorage::default(),
            keys: Keys::default(),
            progress: ProgressDue::default(),
            watermarks: WatermarksDue::default(),
            rooms: RoomsDue::default(),
            slots: SlotsDue::default(),
            now_ms: 0,
            wall_ms: 0,
            counters: Counters::default(),
            lanes_since_ms: 0,
            trace_context: TraceContext::default(),
            clock: || 0,
            doubted: super::doubted::Doubted::default(),
            checks: super::replica_check::Checks::default(),
        }
    }

    /// The highest epoch known of a slot.
    pub(crate) fn known_epoch(&self, slot: u16) -> u64 {
        self.owners
            .epochs
            .get(usize::from(slot))
            .map_or(0, |e| e.load(Ordering::Acquire))
    }

    /// Notes an epoch; false if a higher one is known, so that the frame must be refused.
    pub(crate) fn admit_epoch(&self, slot: u16, epoch: u64) -> bool {
        let Some(known) = self.owners.epochs.get(usize::from(slot)) else {
            return false;
        };
        let before = known.fetch_max(epoch, Ordering::AcqRel);
        epoch >= before || !guard!("epoch")
    }

    /// Tells another slot, at the end of the turn, that keys of an origin can be forgotten.
    pub(crate) fn send_watermark(&mut self, slot: u16, origin: u128, watermark: u64) {
        let (origin_hi, origin_lo) = split(origin);
        self.watermarks
            .by_slot
            .entry(slot)
            .or_default()
            .push(proto::Watermark {
                origin_hi,
                origin_lo,
                watermark,
            });
    }

    /// Puts the watermarks of this turn on their way.
    pub(crate) fn flush_watermarks(&mut self) {
        for (slot, watermarks) in std::mem::take(&mut self.watermarks.by_slot) {
            let Some(owner) = self.owner_of(slot) else {
                continue;
            };
            let frame = proto::PeerFrame {
                slot: u32::from(slot),
                epoch: 0,
                body: Some(proto::peer_frame::Body::Watermarks(proto::Watermarks {
                    watermarks,
                })),
            };
            self.send_peer(owner, frame);
        }
    }

    /// Closes one part of an operation.
    pub(crate) fn part_done(&mut self, operation: OperationId) {
        if let Some(done) = self.operations.part_done(operation) {
            self.operations.due.push_back(done);
        }
    }

    /// Has keys of users ready, so many at a time.
    pub(crate) fn ask_keys(&mut self) {
        if !self.keys.asked && !self.keys.wanted.is_empty() {
            self.keys.asked = true;
            let users = std::mem::take(&mut self.keys.wanted);
            self.jobs.push(Job::Keys { users });
        }
    }

    /// Asks archives whose rows are all committed: who said something finds it there.
    pub(crate) fn release_queries(&mut self) {
        let archive = &self.storage.archive;
        let ready = self
            .storage
            .queries
            .extract_if(.., |(barrier, _)| archive.passed(*barrier));
        self.jobs.extend(ready.map(|(_, job)| job));
    }

    /// Whether rows may still be taken, or senders must wait (storage is unavailable).
    pub(crate) fn storage_backlogged(&self) -> bool {
        let refused = self.doubted.bytes();
        let full =
            self.storage.archive.waiting_bytes() + self.storage.offline.waiting_bytes() + refused
                > self.config.limits.max_storage_backlog_bytes;
        if full {
            self.metrics.backlogged();
        }
        full
    }

    /// The owner of a slot by the newest table.
    pub(crate) fn owner_of(&self, slot: u16) -> Option<PeerRef> {
        self.owners
            .table
            .owner(slot)
            .map(|n| PeerRef(n.incarnation))
    }

    /// Tells an origin that a slot message of it is done, refused or not ours.
    pub(crate) fn message_done(
        &mut self,
        to: PeerRef,
        origin_slot: u16,
        answer: proto::SlotMessageAck,
    ) {
        let frame = proto::PeerFrame {
            slot: u32::from(origin_slot),
            epoch: 0,
            body: Some(proto::peer_frame::Body::SlotMessageAck(answer)),
        };
        self.send_peer(to, frame);
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
        affiliation_and_role: 0,
    }
}
