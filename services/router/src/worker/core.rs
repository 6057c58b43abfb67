//! What all slots of a worker share: lanes, peers, jobs, open works, the clock.
//!
//! Nothing here does I/O: frames and jobs are collected during a turn and leave at its end, in
//! one batch for each lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sestina_api::key::split;
use sestina_api::shadow::{ShadowOp, Stamp};
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_xmpp::jid::Jid;

use super::batch::Batch;
use super::given_away::GivenAway;
use super::lanes::EdgeLaneState;
use super::passage::{Micros, Passage};
use super::peers::PeerState;
use super::work::{OnDone, WorkId, Works};
use crate::chance::HashMap;
use crate::config::RouterConfig;
use crate::hooks::Pipeline;
use crate::metrics::Metrics;

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
    /// Ask whether an account exists, and which of these offline messages it has or had.
    UserKnown {
        slot: u16,
        bare: String,
        keys: Vec<proto::Key>,
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
    /// Commit a slot's shadow.
    Shadow {
        slot: u16,
        at: Stamp,
        ops: Vec<ShadowOp>,
    },
    /// Ask the shadow which objects of a slot it has.
    ShadowList { slot: u16, at: Stamp },
    /// Load a slot's shadow at takeover.
    ShadowLoad { slot: u16, epoch: u64 },
    /// Have the keys of these users ready.
    Keys { users: Vec<String> },
    /// All is settled and flushed: give the slot to that router.
    Release {
        slot: u16,
        epoch: u64,
        to: proto::Node,
    },
    /// Somebody knows the epoch `known` of a slot of this process, and the table a lower one: ask
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
    /// Lanes to routers have not taken all there is for them.
    pub(crate) peers_wait: bool,
    pub(crate) table: Arc<sestina_cluster::slot_map::SlotTable>,
    /// Highest epoch seen for each slot, shared by the workers of this process.
    pub(crate) epochs: Arc<[AtomicU64]>,
    /// Slots given away by this process; shared by its workers.
    pub(crate) given_away: Arc<GivenAway>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) archive: Batch<proto::ArchiveRow>,
    pub(crate) offline: Batch<proto::OfflineRow>,
    /// Users whose keys are to be had ready, and whether others are being asked for.
    pub(crate) keys_wanted: Vec<String>,
    pub(crate) keys_asked: bool,
    /// Milliseconds of the clock that runs while suspended.
    pub(crate) now_ms: u64,
    /// Unix milliseconds, for time stamps only.
    pub(crate) wall_ms: i64,
    /// Sessions whose progress the edge should learn at the next beat.
    pub(crate) touched: Vec<(u16, u128)>,
    /// When that is.
    pub(crate) progress_due: u64,
    /// One of them cannot wait for it: all are told at the end of this turn.
    pub(crate) progress_hurried: bool,
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
    /// Events of rooms that came for slots which serve only now; worked off before the next input.
    pub(crate) held_events: Vec<(PeerRef, proto::RoomEvent)>,
    /// Sessions that were ending when their owner died.
    pub(crate) end_after_restore: Vec<(u16, u128)>,
    /// Slots being handed over.
    pub(crate) frozen: Vec<u16>,
    /// Some effect was refused: its slot is changing hands, and soon takes it.
    pub(crate) effects_refused: bool,
    /// Slots whose shadow has something to commit.
    pub(crate) shadow_dirty: Vec<u16>,
    /// What storage refused, and slots whose epoch is too low.
    pub(crate) doubted: super::doubted::Doubted,
    /// What is known of the shadow as a whole.
    pub(crate) checks: super::shadow_check::Checks,
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
            peers_wait: false,
            table: Arc::new(sestina_cluster::slot_map::SlotTable::empty()),
            epochs,
            given_away: Arc::default(),
            jobs: Vec::new(),
            keys_wanted: Vec::new(),
            keys_asked: false,
            archive: Batch::default(),
            offline: Batch::default(),
            now_ms: 0,
            wall_ms: 0,
            touched: Vec::new(),
            progress_due: 0,
            progress_hurried: false,
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
            held_events: Vec::new(),
            end_after_restore: Vec::new(),
            frozen: Vec::new(),
            effects_refused: false,
            shadow_dirty: Vec::new(),
            doubted: super::doubted::Doubted::default(),
            checks: super::shadow_check::Checks::default(),
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

    /// Has keys of users ready, so many at a time.
    pub(crate) fn ask_keys(&mut self) {
        if !self.keys_asked && !self.keys_wanted.is_empty() {
            self.keys_asked = true;
            let users = std::mem::take(&mut self.keys_wanted);
            self.jobs.push(Job::Keys { users });
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
        let refused = self.doubted.bytes();
        let full = self.archive.waiting_bytes() + self.offline.waiting_bytes() + refused
            > self.config.max_storage_backlog_bytes;
        if full {
            self.metrics.backlogged();
        }
        full
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

/// The wire form of a target room session.
pub(crate) fn room_target(slot: u16, session: u128, variant: u32) -> proto::RoomTarget {
    let (session_hi, session_lo) = split(session);
    proto::RoomTarget {
        slot: u32::from(slot),
        variant,
        session_hi,
        session_lo,
        previous: 0,
        standing: 0,
    }
}
