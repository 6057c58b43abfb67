//! A channel: one end of a numbered connection, its two counters and its queue.
//!
//! The owner numbers both directions; XEP-0198's counts are these numbers less a base. The queue
//! holds what was sent and not acknowledged by the client. Until a delivery is held by a second
//! process (the edge, or the state store of a detached session) its operation stays open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sestina_api::key::{IdempotencyKey, Purpose};
use sestina_proto as proto;
use sestina_xmpp::jid::Jid;

use super::core::LaneRef;
use super::in_flight_keys::InFlightKeys;
use super::operations::OperationId;
use super::share::Held;
use super::trace_context::TraceContext;
use crate::rng::{HashMap, HashSet};

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
    pub(crate) key: IdempotencyKey,
    pub(crate) stanza: Arc<proto::Stanza>,
    /// Open until a second process holds it.
    pub(crate) operation: Option<OperationId>,
    pub(crate) weight: usize,
    /// When an owner took it: milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Empty once it waited without a socket: that is no latency of ours.
    pub(crate) trace_context: TraceContext,
    pub(crate) source: Source,
    /// A row of the offline store holds it until the client has taken it.
    pub(crate) row: bool,
    /// A row of the offline store may hold it, too: an owner before this one may have stored it when it ended
    /// the session, and died before the end was written.
    pub(crate) maybe_row: bool,
    /// Of a message that other sessions of the user were given too, by this owner; and of a request that the client
    /// has answered.
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
    /// Whether it is an IQ of another client that has to be answered (RFC 6120 §8.2.3).
    pub(crate) fn is_request(&self) -> bool {
        self.key.is(Purpose::Route)
            && self.stanza.kind() == proto::StanzaKind::Iq
            && matches!(self.stanza.r#type.as_str(), "get" | "set")
    }

    /// Its key, as edges and the state store hold it.
    pub(crate) fn wire_key(&self) -> proto::Key {
        proto::Key {
            shared: self.source == Source::Shared,
            ..self.key.into()
        }
    }

    /// Its form in the state store and in reports.
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

/// The form in the state store and in reports of a delivery that the client has acknowledged, but whose origin may
/// send it again: its key alone.
pub(crate) fn acked_outbound(number: u64, key: IdempotencyKey) -> proto::Outbound {
    proto::Outbound {
        number,
        key: Some(key.into()),
        ..proto::Outbound::default()
    }
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
pub(crate) struct PreviousAttachment {
    pub(crate) lane: LaneRef,
    pub(crate) handle: u64,
    pub(crate) generation: u32,
    /// Its stanzas were accepted up to here.
    pub(crate) until: u64,
    /// Its edge had taken the answer to its bind or resumption.
    pub(crate) knew: bool,
}

/// Copies of a resumed session's stanzas that earlier attachments and the state store hold: they are kept until the edge
/// of the present attachment has these stanzas, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RedundantCopies {
    /// Deliveries up to here.
    pub(crate) out: u64,
    /// Keys of what the client has acknowledged, up to here.
    pub(crate) keys: u64,
}

/// One end of a numbered connection: what XEP-0198 and recovery need of a session. It knows nothing of
/// what the stanzas say.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) id: u128,
    pub(crate) jid: Jid,
    pub(crate) generation: u32,
    /// When it was bound: epoch and counter of its owner; zeros: not known.
    pub(crate) bound: (u64, u64),
    pub(crate) attachment: Attachment,
    pub(crate) transport: String,
    pub(crate) remote: String,
    pub(crate) sm: Option<StreamManagement>,
    /// The edge was told of it, on this opening of its lane.
    pub(crate) sm_told: bool,
    /// To be closed, with this stream error, once it has all of that.
    pub(crate) close_asked: Option<(&'static str, &'static str)>,
    /// Its edge has reported to this owner that the session is over, or a session that was bound later has its address:
    /// the session ends when the edge has sent everything again. That later session is given what this one leaves.
    pub(crate) closing: bool,
    /// It ended, and all but what it had sent is done.
    pub(crate) all_told: bool,
    pub(crate) touched: bool,
    /// The edge must get a new registry record.
    pub(crate) state_dirty: bool,
    /// Operations that wait until a second process has the record.
    pub(crate) state_waits: Vec<OperationId>,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    pub(crate) copies: Copies,
}

/// The stanzas of the client.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) accepted: u64,
    /// Up to here an owner before this one may have accepted and handled what the client sent. The edge sends it
    /// again; until it has, no resumption is answered, and the session ends only if its time is over.
    pub(crate) predecessor_accepted: u64,
    pub(crate) settled: u64,
    /// The edge has dropped its copies up to here: keys up to here can be forgotten everywhere.
    pub(crate) watermark: u64,
    /// (lane sequence, settled) told to the edge and not acknowledged yet.
    pub(crate) settled_reported: u64,
    pub(crate) accepted_reported: u64,
    /// The client wants to know whether all up to here is accepted.
    pub(crate) asked: u64,
    /// Up to here an owner before this one may have handled what comes again.
    pub(crate) replay_until: u64,
    pub(crate) unsettled: VecDeque<Unsettled>,
    /// Slots that may hold keys of this session: slot -> highest n sent there.
    pub(crate) watermark_targets: HashMap<u16, u64>,
    /// Listed to send its watermark to other slots.
    pub(crate) watermark_due: bool,
}

/// The stanzas to the client.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
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
    /// Up to here the edge that has its socket said it had written, on this lane or an earlier opening
    /// of it.
    pub(crate) edge_wrote: u64,
    pub(crate) queue: VecDeque<OutItem>,
    pub(crate) queue_bytes: Held,
    /// Of these, parts of answers in bulk.
    pub(crate) bulk_bytes: usize,
    /// Number of the last stored message queued.
    pub(crate) last_row: u64,
    /// The record that the edge has says that stored messages wait in the queue.
    pub(crate) rows_told: bool,
    /// Bytes given to the edge and not written by it.
    pub(crate) flying_bytes: usize,
    /// Its lane was full: listed to go on when there is room.
    pub(crate) lane_waits: bool,
    /// Something was given to the edge since its record was.
    pub(crate) given: bool,
    /// Numbers whose origin may still replay them.
    pub(crate) in_flight_keys: InFlightKeys,
    /// Keys known from an edge or the state store after a takeover: their slot messages may come again.
    pub(crate) restored: HashSet<IdempotencyKey>,
    pub(crate) released_reported: u64,
    /// Messages in the queue that other sessions had been given too, and have ended without.
    pub(crate) alone: HashSet<(u128, u64)>,
    /// Room identity -> last event sent to this session (order of rooms).
    pub(crate) room_seq: HashMap<u128, u64>,
    /// The room event being taken: (room, number, the operation of its frame).
    pub(crate) room_in_hand: Option<(u128, u64, OperationId)>,
}

/// Attachments before this one, and the copies that they and the state store hold.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Lane and handle of the lost socket, until the edge was told to drop its copies.
    pub(crate) detached_from: Option<(LaneRef, u64)>,
    /// The same of a session that ended.
    pub(crate) ended_from: Option<(LaneRef, u64)>,
    /// Attachments before this one that hold something.
    pub(crate) previous: Vec<PreviousAttachment>,
    /// Copies that were lost because the edges of such attachments died.
    pub(crate) lone: super::sole::Lone,
    /// It is older than this owner.
    pub(crate) was_before: bool,
    /// Up to here the state store knows what is settled, and up to here it was asked to.
    pub(crate) settled_stored: u64,
    pub(crate) settled_written: u64,
    /// Held elsewhere until the edge has it.
    pub(crate) redundant_copies: Option<RedundantCopies>,
    /// Counts the answers to binds and resumptions; the edge has taken the last one, and has deliveries up
    /// to there.
    pub(crate) attached_no: u32,
    pub(crate) edge_knows: bool,
    pub(crate) edge_has: u64,
    /// It ended, and these attachments are being told to drop what they hold.
    pub(crate) holders: Vec<(LaneRef, proto::Detached)>,
}

impl Channel {
    pub(crate) fn new(id: u128, jid: Jid, attachment: Attachment) -> Channel {
        Channel {
            id,
            jid,
            generation: 1,
            bound: (0, 0),
            attachment,
            transport: String::new(),
            remote: String::new(),
            sm: None,
            sm_told: true,
            close_asked: None,
            closing: false,
            all_told: false,
            touched: false,
            state_dirty: false,
            state_waits: Vec::new(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            copies: Copies {
                detached_from: None,
                ended_from: None,
                previous: Vec::new(),
                lone: super::sole::Lone::default(),
                was_before: false,
                settled_stored: 0,
                settled_written: 0,
                redundant_copies: None,
                attached_no: 0,
                edge_knows: true,
                edge_has: 0,
                holders: Vec::new(),
            },
        }
    }

    /// The lane and handle of the socket, if there is one.
    pub(crate) fn edge(&self) -> Option<(LaneRef, u64)> {
        match &self.attachment {
            Attachment::Edge { lane, handle } => Some((*lane, *handle)),
            Attachment::Detached { .. } | Attachment::Ending => None,
        }
    }

    /// Whether an owner before this one may have accepted what this one has not got yet.
    pub(crate) fn is_replaying(&self) -> bool {
        self.incoming.accepted < self.incoming.predecessor_accepted
    }

    /// Goes on without the stanzas up to `until` that an owner before may have accepted: no process has them any more.
    /// Returns how many they are.
    pub(super) fn give_up_replay(&mut self, until: u64) -> u64 {
        let incoming = &mut self.incoming;
        let lost = until
            .min(incoming.predecessor_accepted)
            .saturating_sub(incoming.accepted);
        incoming.unsettled.extend((0..lost).map(|_| Unsettled {
            done: true,
            kind: proto::StanzaKind::default(),
        }));
        incoming.accepted += lost;
        lost
    }

    /// Whether the queue of the session has stored messages that this owner has not sent to the edge yet. If this owner
    /// dies, no process sends these messages again. The next owner must read them from the offline store.
    pub(crate) fn keeps_rows(&self) -> bool {
        self.edge().is_some() && self.outgoing.last_row > self.outgoing.sent
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.attachment, Attachment::Ending)
    }

    /// Whether it can be delivered to now or after a resume.
    pub(crate) fn is_live(&self) -> bool {
        !self.is_ending()
    }

    /// Name of its object in the state store.
    pub(crate) fn replica_name(id: u128) -> String {
        format!("s:{id:032x}")
    }
}

/// Whether it came from the offline store: no origin replays that.
pub(crate) fn is_stored(key: IdempotencyKey) -> bool {
    key.is(Purpose::Offline)
}

/// Bytes that a queued stanza holds.
pub(crate) fn stanza_weight(stanza: &proto::Stanza) -> usize {
    128 + stanza.payload.len()
        + stanza.from.len()
        + stanza.to.len()
        + stanza.id.len()
        + stanza.attrs.len()
}
