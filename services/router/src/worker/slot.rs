//! A slot: one of 4,096 parts of the keyspace, with everything live that belongs to it.
//!
//! Sessions and rooms are rows of a slot, changed by its owner alone, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sestina_api::key::EffectKey;
use sestina_proto as proto;
use sestina_runtime::guard;
use sestina_runtime::linger::next_beat;
use sestina_telemetry::Queue;
use sestina_xmpp::jid::Jid;

use super::core::{Core, PeerRef};
use super::receive::Asker;
use super::replay::Parked;
use super::session::{Session, Source};
use super::shadow::SlotShadow;
use super::share::Total;
use super::work::WorkId;
use crate::chance::{HashMap, HashSet};
use crate::room::Room;

/// What a slot may do.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Claimed: the epoch is being installed and state gathered.
    Taking(Box<super::takeover::Taking>),
    /// In service.
    Active,
    /// Being handed over: takes no new input, lets what it accepted settle.
    Frozen {
        to: proto::Node,
        /// All is settled, and the shadow has (or gets) the attached sessions too.
        spilled: bool,
        releasing: bool,
        since_ms: u64,
        /// When the present step began.
        step_ms: u64,
    },
}

/// An effect that was handled here: what became of it, for as long as its origin may replay it.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Under way; answered to the newest asker when it is done.
    Open {
        asker: Asker,
        reply: Option<proto::Stanza>,
        sessions: Delivered,
    },
    /// Done, with this answer.
    Done {
        reply: Option<proto::Stanza>,
        sessions: Delivered,
    },
}

/// Sessions that got an effect, and under which number.
pub(crate) type Delivered = Vec<(u128, u64)>;

/// Names the addressee of an effect within a slot (a user or a room), by hash of its bare JID.
pub(crate) type Entity = u64;

/// An effect on its way to another slot's owner.
#[derive(Debug)]
pub(crate) struct PendingEffect {
    pub(crate) key: EffectKey,
    /// Whose stanza it is (a session of this slot).
    pub(crate) session: u128,
    /// The frame, to send again.
    pub(crate) effect: proto::Effect,
    pub(crate) work: WorkId,
    pub(crate) sent: bool,
    /// Nobody has sent it yet, no owner before this one either.
    pub(crate) fresh: bool,
}

/// Effects for one other slot: a stream in order, begun anew whenever the receiver may have
/// missed one.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) pending: VecDeque<PendingEffect>,
    pub(crate) owner: Option<PeerRef>,
    /// 0: the next effect begins a stream.
    pub(crate) stream: u64,
    pub(crate) seq: u64,
    /// Refused: goes again at the next tick or map.
    pub(crate) waiting: bool,
}

impl Outbound {
    pub(crate) fn restart(&mut self) {
        self.stream = 0;
        self.owner = None;
        self.waiting = false;
        for pending in &mut self.pending {
            pending.sent = false;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) slot: u16,
    pub(crate) epoch: u64,
    pub(crate) phase: Phase,
    pub(crate) sessions: HashMap<u128, Box<Session>>,
    /// Bytes in the queues of these.
    pub(crate) held: Total,
    /// (edge incarnation, handle) -> session.
    pub(crate) handles: HashMap<(u64, u64), u128>,
    /// Bare JID -> its sessions, in order of binding.
    pub(crate) users: HashMap<Jid, Vec<u128>>,
    pub(crate) rooms: HashMap<Jid, Room>,
    /// The highest number of an event of rooms that are over.
    pub(crate) rooms_seq: u64,
    /// Sessions without an edge, and their rooms, whose owners are to be told that they are in.
    pub(crate) untold: super::places::Untold,
    /// (origin, n, entity, kind): ordered so that a mark forgets a range.
    pub(crate) seen: BTreeMap<(u128, u64, Entity, u32), Seen>,
    /// Effects for other slots, by slot, in order.
    pub(crate) outbound: HashMap<u16, Outbound>,
    /// Streams of effects from other slots: (stream, last taken, time of it).
    pub(crate) streams: HashMap<u16, (u64, u64, u64)>,
    /// Slots with effects that wait for an owner, tried again at each tick and map.
    pub(crate) stuck: HashSet<u16>,
    /// Messages for users of whom it is asked whether they exist.
    pub(crate) parked: HashMap<Jid, Vec<Parked>>,
    /// What waited for a mark at the last sweep.
    pub(crate) waiting_marks: HashSet<(u128, u64)>,
    /// Some session knows keys from before a takeover.
    pub(crate) any_restored: bool,
    /// What sessions that have ended since the takeover had got before it, by (origin, n, user).
    pub(crate) given: BTreeSet<(u128, u64, Entity)>,
    pub(crate) archive_counter: u64,
    pub(crate) offline_counter: u64,
    /// Offline rows on their way to storage.
    pub(crate) offline_open: usize,
    /// Numbers the questions for what is stored.
    pub(crate) offline_questions: u64,
    /// Sessions that ask again for what is stored, because storage was away, and from when on.
    pub(crate) offline_retry: Vec<(u64, u128)>,
    /// Sessions with questions to archives, and from when on these have waited for long.
    pub(crate) pages_late: Vec<(u64, u128)>,
    /// Archive rows on their way to storage.
    pub(crate) archive_open: usize,
    pub(crate) shadow: SlotShadow,
}

impl Slot {
    pub(crate) fn new(slot: u16, epoch: u64, phase: Phase) -> Slot {
        Slot {
            slot,
            epoch,
            phase,
            sessions: HashMap::default(),
            held: Total::default(),
            handles: HashMap::default(),
            users: HashMap::default(),
            rooms: HashMap::default(),
            rooms_seq: 0,
            untold: super::places::Untold::default(),
            seen: BTreeMap::new(),
            outbound: HashMap::default(),
            streams: HashMap::default(),
            stuck: HashSet::default(),
            parked: HashMap::default(),
            waiting_marks: HashSet::default(),
            any_restored: false,
            given: BTreeSet::new(),
            archive_counter: 0,
            offline_counter: 0,
            offline_open: 0,
            offline_questions: 0,
            offline_retry: Vec::new(),
            pages_late: Vec::new(),
            archive_open: 0,
            shadow: SlotShadow::default(),
        }
    }

    /// Nothing lives here: ticks pass it by.
    pub(crate) fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && self.rooms.is_empty()
            && self.outbound.is_empty()
            && self.seen.is_empty()
            && self.streams.is_empty()
    }

    pub(crate) fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active)
    }

    /// Whether effects of others may still be answered (a frozen slot finishes what it accepted).
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Frozen { .. })
    }

    /// Whether an effect may come in. A slot that is handed over takes those of others that are:
    /// they take nothing new either, so this ends, and they would wait for each other otherwise.
    pub(crate) fn takes_effect(&self, settling: bool) -> bool {
        match self.phase {
            Phase::Active => true,
            Phase::Frozen { spilled, .. } => settling && !spilled,
            Phase::Taking(_) => false,
        }
    }

    /// Whether the shadow keeps attached sessions as well.
    pub(crate) fn is_spilled(&self) -> bool {
        matches!(self.phase, Phase::Frozen { spilled: true, .. })
    }

    /// Whether something new may come in from rooms (what is being released is flushed already).
    pub(crate) fn takes_events(&self) -> bool {
        match self.phase {
            Phase::Active => true,
            Phase::Frozen { spilled, .. } => !spilled,
            Phase::Taking(_) => false,
        }
    }

    /// The session with that full JID that can be delivered to.
    pub(crate) fn session_of(&self, full: &Jid) -> Option<u128> {
        let ids = self.users.get(&full.bare())?;
        ids.iter().copied().find(|id| {
            self.sessions
                .get(id)
                .is_some_and(|s| s.is_live() && s.jid == *full)
        })
    }

    /// The live sessions of a bare JID.
    pub(crate) fn sessions_of<'a>(
        &'a self,
        bare: &Jid,
    ) -> impl Iterator<Item = &'a Session> + use<'a> {
        self.users
            .get(bare)
            .into_iter()
            .flatten()
            .filter_map(|id| self.sessions.get(id).map(Box::as_ref))
            .filter(|s| s.is_live())
    }

    pub(crate) fn insert_session(&mut self, mut session: Session) {
        self.share(&mut session);
        self.users
            .entry(session.jid.bare())
            .or_default()
            .push(session.id);
        self.sessions.insert(session.id, Box::new(session));
    }

    pub(crate) fn remove_session(&mut self, id: u128) -> Option<Session> {
        let session = *self.sessions.remove(&id)?;
        if let Some((lane, handle)) = session.edge() {
            self.handles.remove(&(lane.edge, handle));
        }
        let bare = session.jid.bare();
        if let Some(ids) = self.users.get_mut(&bare) {
            ids.retain(|i| *i != id);
            if ids.is_empty() {
                self.users.remove(&bare);
            }
        }
        Some(session)
    }

    /// The next place in an archive of this slot: (epoch, counter).
    pub(crate) fn next_archive_place(&mut self) -> (u64, u64) {
        self.archive_counter += 1;
        (self.epoch, self.archive_counter)
    }

    /// Marks a session for a Progress frame (and more): at the next beat, or at the end of the turn
    /// if its registry record changed or its client waits for an answer.
    pub(crate) fn touch(&mut self, core: &mut Core, session: u128) {
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        core.progress_hurried |= s.state_dirty
            || (s.asked > s.accepted_told
                && core.config.reported(s.accepted, s.settled) > s.accepted_told);
        if !s.touched {
            s.touched = true;
            if core.touched.is_empty() {
                core.progress_due = next_beat(core.now_ms);
            }
            core.touched.push((self.slot, session));
        }
    }

    /// Queues a stanza for a session unless it has it, and sends what credit allows.
    pub(crate) fn deliver_to(
        &mut self,
        core: &mut Core,
        id: u128,
        key: EffectKey,
        stanza: std::sync::Arc<proto::Stanza>,
        work: Option<WorkId>,
    ) -> Option<u64> {
        self.deliver_as(core, id, key, stanza, work, Source::Live)
    }

    /// The same for a stanza that is not, or not only, sent to this session now.
    pub(crate) fn deliver_as(
        &mut self,
        core: &mut Core,
        id: u128,
        key: EffectKey,
        stanza: std::sync::Arc<proto::Stanza>,
        work: Option<WorkId>,
        source: Source,
    ) -> Option<u64> {
        let session = self.sessions.get_mut(&id).filter(|s| s.is_live())?;
        if session.restored.contains(&key) && guard!("dedupe") {
            core.metrics
                .dropped_by_key(sestina_telemetry::Keyed::Session);
            if let Some(work) = work.filter(|_| source == Source::Live) {
                self.is_alone_now(core, id, key, work);
            }
            return None;
        }
        core.metrics.delivered(stanza.kind());
        let number = session.enqueue(core, key, stanza, work, source);
        session.pump(core, self.slot, self.epoch);
        let (full, detached) = (
            session.is_full(core.config.session_queue_bytes),
            matches!(
                session.attachment,
                super::session::Attachment::Detached { .. }
            ),
        );
        if detached {
            self.shadow_queue_item(core, id, number);
        }
        if full {
            self.overflowed(core, id, Queue::Session);
        } else {
            self.keep_shares(core, id);
        }
        Some(number)
    }
}

/// A new 128-bit identity of a session or room. Its first 12 bits are the slot, so that whoever
/// holds a key can ask the origin's owner about it.
pub(crate) fn new_origin(slot: u16) -> u128 {
    (u128::from(slot) << 116) | (crate::chance::bits() >> 12)
}

/// The slot of an origin.
pub(crate) fn origin_slot(origin: u128) -> u16 {
    (origin >> 116) as u16
}

/// Hash that names an entity in [`Slot::seen`].
pub(crate) fn entity_of(bare: &str) -> Entity {
    xxhash_rust::xxh3::xxh3_64(bare.as_bytes())
}
