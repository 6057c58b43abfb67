//! A slot: one of 4,096 parts of the keyspace, with everything live that belongs to it.
//!
//! Sessions and rooms are rows of a slot, changed by its owner alone, in order.

use std::collections::{BTreeMap, BTreeSet};

use sestina_api::key::IdempotencyKey;
use sestina_proto as proto;
use sestina_runtime::coalesce::next_flush;
use sestina_runtime::guard;
use sestina_telemetry::Queue;
use sestina_xmpp::jid::Jid;

use super::channel::Source;
use super::core::Core;
use super::data::EntityData;
use super::operations::OperationId;
use super::outbox::{Outbox, Sender};
use super::receive::Asker;
use super::replay::Deferred;
use super::replica::SlotReplica;
use super::residents::Questions;
use super::session::Session;
use super::share::Total;
use crate::rng::{HashMap, HashSet};
use crate::room::OwnedRoom;

/// The phase of a slot: what it may do.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Claimed: the epoch is being installed and state gathered.
    Taking(Box<super::takeover::Taking>),
    /// In service.
    Active,
    /// Being handed over: takes no new input, lets what it accepted settle.
    Quiescing {
        to: proto::Node,
        /// All is settled, and the state store has (or gets) the attached sessions too.
        spilled: bool,
        releasing: bool,
        /// The slot table got a new timeline during the release, and this process told storage that it has the slot. The
        /// slot is released once more, because the database may have lost the first release.
        asserted: bool,
        since_ms: u64,
        /// When the present step began.
        step_ms: u64,
    },
}

/// A slot message that was handled here: what became of it, for as long as its origin may replay it.
#[derive(Debug)]
pub(crate) enum Handled {
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

/// Sessions that got a slot message, and under which number.
pub(crate) type Delivered = Vec<(u128, u64)>;

/// Names the addressee of a slot message within a slot (a user or a room), by hash of its bare JID.
pub(crate) type Entity = u64;

/// The messages of other slots, and what this slot remembers of them.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// The dedup table by (origin, n, entity, purpose): ordered so that a watermark forgets a range.
    pub(crate) dedup: BTreeMap<(u128, u64, Entity, u32), Handled>,
    /// Streams of slot messages from other slots: (stream, last taken, time of it).
    pub(crate) streams: HashMap<u16, (u64, u64, u64)>,
    /// Keys that waited for a watermark at the last sweep.
    pub(crate) waiting_watermarks: HashSet<(u128, u64)>,
    /// Some session knows keys from before a takeover.
    pub(crate) any_restored: bool,
    /// Messages that sessions which have ended since the takeover had got before it, by (origin, n, user).
    pub(crate) given: BTreeSet<(u128, u64, Entity)>,
}

/// The rows of the archives of a slot.
#[derive(Debug, Default)]
pub(crate) struct ArchiveRows {
    /// Numbers them within the epoch.
    pub(crate) counter: u64,
    /// Rows on their way to storage.
    pub(crate) open: usize,
    /// Sessions with questions to archives, and from when on these have waited for long.
    pub(crate) pages_late: Vec<(u64, u128)>,
}

/// The rows of the offline store of a slot.
#[derive(Debug, Default)]
pub(crate) struct OfflineRows {
    /// Numbers them within the epoch.
    pub(crate) counter: u64,
    /// Rows on their way to storage.
    pub(crate) open: usize,
    /// Numbers the questions for what is stored.
    pub(crate) questions: u64,
    /// Sessions that ask again for what is stored, because storage was unavailable, and from when on.
    pub(crate) retry: Vec<(u64, u128)>,
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
    /// Numbers the sessions that are bound within the epoch.
    pub(crate) binds: u64,
    pub(crate) rooms: HashMap<Jid, OwnedRoom>,
    /// The highest number of an event of rooms that are over.
    pub(crate) rooms_seq: u64,
    /// Sessions without an edge, and their rooms, whose owners are to be told that they are in.
    pub(crate) untold: super::places::Untold,
    /// Messages for other slots.
    pub(crate) outbox: Outbox,
    /// Messages from other slots.
    pub(crate) inbox: Inbox,
    pub(crate) archive_rows: ArchiveRows,
    pub(crate) offline_rows: OfflineRows,
    /// Messages for users of whom it is asked whether they exist.
    pub(crate) deferred: HashMap<Jid, Vec<Deferred>>,
    pub(crate) replica: SlotReplica,
    /// Data of modules about its users.
    pub(crate) data: EntityData,
    /// Questions for the data that filters need.
    pub(crate) questions: Questions,
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
            binds: 0,
            rooms: HashMap::default(),
            rooms_seq: 0,
            untold: super::places::Untold::default(),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            archive_rows: ArchiveRows::default(),
            offline_rows: OfflineRows::default(),
            deferred: HashMap::default(),
            replica: SlotReplica::default(),
            data: EntityData::default(),
            questions: Questions::default(),
        }
    }

    /// Nothing lives here: ticks pass it by.
    pub(crate) fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && self.rooms.is_empty()
            && self.outbox.is_empty()
            && self.inbox.dedup.is_empty()
            && self.inbox.streams.is_empty()
            && self.data.is_empty()
    }

    /// The slot as the messages of its outbox name it.
    pub(crate) fn sender(&self) -> Sender {
        Sender {
            epoch: self.epoch,
            settling: !self.is_active(),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active)
    }

    /// Whether slot messages of others may still be answered (a slot that is quiescing finishes what it accepted).
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Quiescing { .. })
    }

    /// Whether a slot message may come in. A slot that is handed over takes those of others that are:
    /// they take nothing new either, so this ends, and they would wait for each other otherwise.
    pub(crate) fn takes_message(&self, settling: bool) -> bool {
        match self.phase {
            Phase::Active => true,
            Phase::Quiescing { spilled, .. } => settling && !spilled,
            Phase::Taking(_) => false,
        }
    }

    /// Whether the state store keeps attached sessions as well.
    pub(crate) fn is_spilled(&self) -> bool {
        matches!(self.phase, Phase::Quiescing { spilled: true, .. })
    }

    /// Whether something new may come in from rooms (what is being released is flushed already).
    pub(crate) fn takes_events(&self) -> bool {
        match self.phase {
            Phase::Active => true,
            Phase::Quiescing { spilled, .. } => !spilled,
            Phase::Taking(_) => false,
        }
    }

    /// The session with that full JID that can be delivered to: one that is about to end only if there is
    /// no other.
    pub(crate) fn session_of(&self, full: &Jid) -> Option<u128> {
        let mut closing = None;
        for session in self
            .sessions_of(&full.bare())
            .filter(|s| s.channel.jid == *full)
        {
            if !session.channel.closing {
                return Some(session.channel.id);
            }
            closing.get_or_insert(session.channel.id);
        }
        closing
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
            .filter(|s| s.channel.is_live())
    }

    pub(crate) fn insert_session(&mut self, mut session: Session) {
        self.share(&mut session);
        // This owner may have had the slot before under this epoch.
        if session.channel.bound.0 == self.epoch {
            self.binds = self.binds.max(session.channel.bound.1);
        }
        let of_user = self.users.entry(session.channel.jid.bare()).or_default();
        if let Some(other) = of_user.first().and_then(|id| self.sessions.get(id)) {
            session.client.residents = other.client.residents.clone();
        }
        of_user.push(session.channel.id);
        self.sessions.insert(session.channel.id, Box::new(session));
    }

    pub(crate) fn remove_session(&mut self, id: u128) -> Option<Session> {
        let session = *self.sessions.remove(&id)?;
        if let Some((lane, handle)) = session.channel.edge() {
            self.handles.remove(&(lane.edge, handle));
        }
        let bare = session.channel.jid.bare();
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
        self.archive_rows.counter += 1;
        (self.epoch, self.archive_rows.counter)
    }

    /// Marks a session for a Progress frame (and more): at the next flush, or at the end of the turn
    /// if its registry record changed or its client waits for an answer.
    pub(crate) fn touch(&mut self, core: &mut Core, session: u128) {
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        core.progress.hurried |= s.channel.state_dirty
            || (s.channel.incoming.asked > s.channel.incoming.accepted_reported
                && core
                    .config
                    .reported(s.channel.incoming.accepted, s.channel.incoming.settled)
                    > s.channel.incoming.accepted_reported);
        if !s.channel.touched {
            s.channel.touched = true;
            if core.progress.touched.is_empty() {
                core.progress.at_ms = next_flush(core.now_ms);
            }
            core.progress.touched.push((self.slot, session));
        }
    }

    /// Queues a stanza for a session unless it has it, and sends what credit allows.
    pub(crate) fn deliver_to(
        &mut self,
        core: &mut Core,
        id: u128,
        key: IdempotencyKey,
        stanza: std::sync::Arc<proto::Stanza>,
        operation: Option<OperationId>,
    ) -> Option<u64> {
        self.deliver_as(core, id, key, stanza, operation, Source::Live)
    }

    /// The same for a stanza that is not, or not only, sent to this session now.
    pub(crate) fn deliver_as(
        &mut self,
        core: &mut Core,
        id: u128,
        key: IdempotencyKey,
        stanza: std::sync::Arc<proto::Stanza>,
        operation: Option<OperationId>,
        source: Source,
    ) -> Option<u64> {
        let session = self.sessions.get_mut(&id).filter(|s| s.channel.is_live())?;
        if session.channel.outgoing.restored.contains(&key) && guard!("dedupe") {
            core.metrics
                .dropped_by_key(sestina_telemetry::Keyed::Session);
            if let Some(operation) = operation.filter(|_| source == Source::Live) {
                self.is_alone_now(core, id, key, operation);
            }
            return None;
        }
        core.metrics.delivered(stanza.kind());
        let number = session
            .channel
            .enqueue(core, key, stanza, operation, source);
        session.channel.pump(core, self.slot, self.epoch);
        let (full, detached) = (
            session
                .channel
                .is_full(core.config.limits.session_queue_bytes),
            matches!(
                session.channel.attachment,
                super::channel::Attachment::Detached { .. }
            ),
        );
        if detached {
            self.replica_queue_item(core, id, number);
        }
        if full {
            self.overflowed(core, id, Queue::Session);
        } else {
            self.keep_shares(core, id);
        }
        Some(number)
    }
}

/// A new 128-bit identity of a session or room. Its first 12 bits are the slot, so that a process that
/// holds a key can ask the origin's owner about it.
pub(crate) fn new_origin(slot: u16) -> u128 {
    (u128::from(slot) << 116) | (crate::rng::bits() >> 12)
}

/// The slot of an origin.
pub(crate) fn origin_slot(origin: u128) -> u16 {
    (origin >> 116) as u16
}

/// Hash that names an entity in [`Inbox::dedup`].
pub(crate) fn entity_of(bare: &str) -> Entity {
    xxhash_rust::xxh3::xxh3_64(bare.as_bytes())
}
