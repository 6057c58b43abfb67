//! A session: one full JID, its two counters, its queue, and what the server knows of it.
//!
//! The owner numbers both directions; XEP-0198's counts are these numbers less a base. The queue
//! holds what was sent and not acknowledged by the client. Until a delivery is held by a second
//! process (the edge, or the shadow of a detached session) its work stays open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sestina_api::key::{EffectKey, EffectKind};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::core::LaneRef;
use super::pages::PageCursor;
use super::passage::Passage;
use super::share::Held;
use super::stored::StoredCursor;
use super::unreleased::Unreleased;
use super::work::WorkId;
use crate::chance::{HashMap, HashSet};

/// Where the session's socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    /// At an edge. The lane may be between two connections; the edge's lease decides.
    Edge { lane: LaneRef, handle: u64 },
    /// Nowhere: waits for a resume until the deadline (clock of [`now_ms`](super::core::Core::now_ms)), which for other
    /// owners is a time of the day (Unix time).
    Detached {
        deadline_ms: u64,
        until_ms: i64,
        committed: bool,
    },
    /// Ended: telling rooms and contacts, then forgotten.
    Ending,
}

/// XEP-0198 of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamManagement {
    pub(crate) resume: bool,
    pub(crate) max_s: u32,
    pub(crate) in_base: u64,
    pub(crate) out_base: u64,
}

/// One stanza to the client, not acknowledged by it.
#[derive(Clone, Debug)]
pub(crate) struct OutItem {
    pub(crate) key: EffectKey,
    pub(crate) stanza: Arc<proto::Stanza>,
    /// Open until a second process holds it.
    pub(crate) work: Option<WorkId>,
    pub(crate) weight: usize,
    /// When an owner took it: milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Empty once it waited without a socket: that is no latency of ours.
    pub(crate) passage: Passage,
    pub(crate) source: Source,
    /// A row of the offline store holds it until the client has taken it.
    pub(crate) row: bool,
    /// Of a message that other sessions of the user were given too, by this owner.
    pub(crate) taken: Option<Taken>,
}

/// Whether the client of some session has taken a message that several sessions of its user were given,
/// as itself or as a copy (XEP-0280). All of them share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken(Arc<AtomicBool>);

impl Taken {
    /// A client has acknowledged it.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a client has acknowledged it.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a stanza came into a session's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was sent to this session, or is an answer to it.
    Live,
    /// The same, and another session of the user was given it too, which has not ended without it.
    Shared,
    /// It is a stored message.
    Stored,
    /// It is of a page of an archive.
    Page,
    /// It is of what a room tells a newcomer.
    Join,
}

impl Source {
    /// Part of an answer in bulk, which the client asked for.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Source::Stored | Source::Page | Source::Join)
    }
}

impl OutItem {
    /// Its key, as edges and the shadow hold it.
    pub(crate) fn wire_key(&self) -> proto::Key {
        proto::Key {
            shared: self.source == Source::Shared,
            ..self.key.into()
        }
    }

    /// Its form in the shadow and in reports.
    pub(crate) fn outbound(&self, number: u64) -> proto::Outbound {
        proto::Outbound {
            number,
            key: Some(self.wire_key()),
            stanza: Some((*self.stanza).clone()),
            at_ms: self.at_ms,
            payload: 0,
        }
    }
}

/// A room that the session has asked to enter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    /// As it was asked for.
    pub(crate) nick: String,
    /// As the room said it is in.
    pub(crate) member: Option<Box<proto::RoomMember>>,
}

/// A stanza of the client that is not settled.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    pub(crate) done: bool,
    pub(crate) kind: proto::StanzaKind,
}

/// An attachment that was resumed from: its edge holds what the client had sent there until all of
/// it is settled, because the attachment that came after it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Older {
    pub(crate) lane: LaneRef,
    pub(crate) handle: u64,
    pub(crate) generation: u32,
    /// Its stanzas were accepted up to here.
    pub(crate) until: u64,
    /// Its edge had taken the answer to its bind or resumption.
    pub(crate) knew: bool,
}

/// What attachments before this one, and the shadow, hold of a session that was resumed: all of it
/// stays where it is until the edge that has the socket now has it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    /// Deliveries up to here.
    pub(crate) out: u64,
    /// Keys of what the client has acknowledged, up to here.
    pub(crate) keys: u64,
}

/// Presence as last broadcast.
#[derive(Clone, Debug)]
pub(crate) struct Available {
    pub(crate) priority: i8,
    pub(crate) stanza: proto::Stanza,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u128,
    pub(crate) jid: Jid,
    pub(crate) generation: u32,
    pub(crate) attachment: Attachment,
    pub(crate) transport: String,
    pub(crate) remote: String,
    pub(crate) anonymous: bool,
    pub(crate) query: std::collections::HashMap<String, String>,
    pub(crate) sm: Option<StreamManagement>,
    /// The edge was told of it, on this opening of its lane.
    pub(crate) sm_told: bool,

    // from the client
    pub(crate) accepted: u64,
    /// Accepted by an owner before this one: the edge sends it again, and no resumption may be
    /// answered with less.
    pub(crate) promised: u64,
    /// To be closed, with this stream error, once it has all of that.
    pub(crate) close_asked: Option<(&'static str, &'static str)>,
    pub(crate) settled: u64,
    /// What the edge is known to have dropped: keys up to here can be forgotten everywhere.
    pub(crate) mark: u64,
    /// (lane sequence, settled) told to the edge and not acknowledged yet.
    pub(crate) settled_told: u64,
    /// Up to here an owner before this one may have worked what comes again.
    pub(crate) replay_until: u64,
    pub(crate) unsettled: VecDeque<Unsettled>,
    /// Slots that may hold keys of this session: slot -> highest n sent there.
    pub(crate) mark_targets: HashMap<u16, u64>,

    // to the client
    /// Number of the last stanza queued.
    pub(crate) next: u64,
    /// Up to here the client acknowledged; the queue begins behind it.
    pub(crate) acked: u64,
    /// Up to here a second process holds it.
    pub(crate) held: u64,
    /// Up to here it was given to the lane.
    pub(crate) sent: u64,
    /// Up to here the edge wrote it to the socket.
    pub(crate) written: u64,
    pub(crate) queue: VecDeque<OutItem>,
    pub(crate) queue_bytes: Held,
    /// Of these, parts of answers in bulk.
    pub(crate) bulk_bytes: usize,
    /// Bytes given to the edge and not written by it.
    pub(crate) flying_bytes: usize,
    /// Up to here the edge that has its socket said it had written, on this lane or an earlier opening
    /// of it.
    pub(crate) edge_wrote: u64,
    /// Its lane was full: listed to go on when there is room.
    pub(crate) lane_waits: bool,
    /// Something was given to the edge since its record was.
    pub(crate) given: bool,
    /// Numbers whose origin may still replay them.
    pub(crate) unreleased: Unreleased,
    /// Keys known from an edge or the shadow after a takeover: their effects may come again.
    pub(crate) restored: HashSet<EffectKey>,
    /// The session was detached when its slot got a new owner. The previous owner may have announced the
    /// end of the session and died before the end was written. When the client resumes the session, its
    /// presence is therefore sent again to the user's other sessions.
    pub(crate) waited: bool,
    pub(crate) released_told: u64,
    pub(crate) accepted_told: u64,
    /// The client wants to know whether all up to here is accepted.
    pub(crate) asked: u64,

    // registry
    pub(crate) available: Option<Box<Available>>,
    pub(crate) carbons: bool,
    /// Offline messages are being read: bare-JID messages queue behind them.
    pub(crate) offline_pending: bool,
    /// How far what is stored was read, and what of it was taken; none if there is nothing to do.
    pub(crate) stored: Option<Box<StoredCursor>>,
    /// Its questions to archives; none if there are none.
    pub(crate) pages: Option<Box<PageCursor>>,
    /// It ended, and something of its user is in the store that it did not take.
    pub(crate) left_stored: bool,
    /// Messages in the queue that other sessions had been given too, and have ended without.
    pub(crate) alone: HashSet<(u128, u64)>,
    pub(crate) joined: HashMap<Jid, Joined>,
    /// Room identity -> last event sent to this session (order of rooms).
    pub(crate) room_seq: HashMap<u128, u64>,
    /// The room event being taken: (room, number, the work of its frame).
    pub(crate) room_in_hand: Option<(u128, u64, WorkId)>,
    pub(crate) directed: HashSet<Jid>,
    pub(crate) touched: bool,
    /// The edge must get a new registry record.
    pub(crate) state_dirty: bool,
    /// Works that wait until a second process has the record.
    pub(crate) state_waits: Vec<WorkId>,
    /// Lane and handle of the lost socket, until the edge was told to drop its copies.
    pub(crate) detached_from: Option<(LaneRef, u64)>,
    /// The same of a session that ended.
    pub(crate) ended_from: Option<(LaneRef, u64)>,
    /// Attachments before this one that hold something.
    pub(crate) older: Vec<Older>,
    /// What died with those.
    pub(crate) lone: super::sole::Lone,
    /// It is older than this owner.
    pub(crate) was_before: bool,
    /// Held elsewhere until the edge has it.
    pub(crate) spare: Option<Spare>,
    /// Counts the answers to binds and resumptions; the edge has taken the last one, and has deliveries up
    /// to there.
    pub(crate) attached_no: u32,
    pub(crate) edge_knows: bool,
    pub(crate) edge_has: u64,
    /// It ended, and all but what it had sent is done.
    pub(crate) all_told: bool,
    /// It ended, and these attachments are being told to drop what they hold.
    pub(crate) holders: Vec<(LaneRef, proto::Detached)>,
    /// Listed to send its mark to other slots.
    pub(crate) mark_due: bool,
    /// When its user's keys were asked for ([`now_ms`](super::core::Core::now_ms)); 0: not by this owner.
    pub(crate) keys_ms: u64,
}

impl Session {
    pub(crate) fn new(id: u128, jid: Jid, attachment: Attachment) -> Session {
        Session {
            id,
            jid,
            generation: 1,
            attachment,
            transport: String::new(),
            remote: String::new(),
            anonymous: false,
            query: std::collections::HashMap::new(),
            sm: None,
            sm_told: true,
            accepted: 0,
            promised: 0,
            close_asked: None,
            settled: 0,
            mark: 0,
            settled_told: 0,
            replay_until: 0,
            unsettled: VecDeque::new(),
            mark_targets: HashMap::default(),
            next: 0,
            acked: 0,
            held: 0,
            sent: 0,
            written: 0,
            queue: VecDeque::new(),
            queue_bytes: Held::default(),
            bulk_bytes: 0,
            flying_bytes: 0,
            edge_wrote: 0,
            lane_waits: false,
            given: false,
            unreleased: Unreleased::default(),
            restored: HashSet::default(),
            waited: false,
            released_told: 0,
            accepted_told: 0,
            asked: 0,
            available: None,
            carbons: false,
            offline_pending: false,
            stored: None,
            pages: None,
            left_stored: false,
            alone: HashSet::default(),
            room_seq: HashMap::default(),
            room_in_hand: None,
            joined: HashMap::default(),
            directed: HashSet::default(),
            touched: false,
            state_dirty: false,
            state_waits: Vec::new(),
            detached_from: None,
            ended_from: None,
            older: Vec::new(),
            lone: super::sole::Lone::default(),
            was_before: false,
            spare: None,
            attached_no: 0,
            edge_knows: true,
            edge_has: 0,
            all_told: false,
            holders: Vec::new(),
            mark_due: false,
            keys_ms: 0,
        }
    }

    /// The lane and handle of the socket, if there is one.
    pub(crate) fn edge(&self) -> Option<(LaneRef, u64)> {
        match &self.attachment {
            Attachment::Edge { lane, handle } => Some((*lane, *handle)),
            Attachment::Detached { .. } | Attachment::Ending => None,
        }
    }

    /// Whether an owner before this one has accepted what this one has not got yet.
    pub(crate) fn owes(&self) -> bool {
        self.accepted < self.promised
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.attachment, Attachment::Ending)
    }

    /// Whether it can be delivered to now or after a resume.
    pub(crate) fn is_live(&self) -> bool {
        !self.is_ending()
    }

    /// Priority of an available session.
    pub(crate) fn priority(&self) -> Option<i8> {
        self.available.as_ref().map(|a| a.priority)
    }

    /// Name of its object in the shadow.
    pub(crate) fn shadow_object(id: u128) -> String {
        format!("s:{id:032x}")
    }
}

/// Whether it came from the offline store: no origin replays that.
pub(crate) fn is_stored(key: EffectKey) -> bool {
    key.kind & 0xff == EffectKind::Offline as u32
}

/// Bytes that a queued stanza holds.
pub(crate) fn stanza_weight(stanza: &proto::Stanza) -> usize {
    128 + stanza.payload.len()
        + stanza.from.len()
        + stanza.to.len()
        + stanza.id.len()
        + stanza.attrs.len()
}
