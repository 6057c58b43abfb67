//! A router as administrators see it.

use serde::{Deserialize, Serialize};

use crate::worker::slot::Slot;

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Full JID.
    pub jid: String,
    /// Slot that owns it.
    pub slot: u16,
    /// `attached`, `detached` or `ending`.
    pub state: String,
    /// How it is connected.
    pub transport: String,
    /// From where.
    pub remote: String,
    /// XEP-0198 is on.
    pub stream_management: bool,
    /// Presence priority; none if not available.
    pub priority: Option<i8>,
    /// Stanzas taken from and given to the client.
    pub stanzas_in: u64,
    /// See `stanzas_in`.
    pub stanzas_out: u64,
    /// Bytes not acknowledged by the client.
    pub queued_bytes: usize,
    /// Copies of messages are on (XEP-0280).
    pub carbons: bool,
    /// Its offline messages are being read; what comes meanwhile is delivered after them.
    pub catching_up: bool,
    /// Rooms it is in.
    pub rooms: usize,
}

impl SessionInfo {
    pub(crate) fn of(slot: u16, s: &crate::worker::session::Session) -> SessionInfo {
        use crate::worker::channel::Attachment;
        SessionInfo {
            jid: s.channel.jid.as_str().to_owned(),
            slot,
            state: match s.channel.attachment {
                Attachment::Edge { .. } => "attached",
                Attachment::Detached { .. } => "detached",
                Attachment::Ending => "ending",
            }
            .to_owned(),
            transport: s.channel.transport.clone(),
            remote: s.channel.remote.clone(),
            stream_management: s.channel.sm.is_some(),
            priority: s.client.priority(),
            stanzas_in: s.channel.incoming.accepted,
            stanzas_out: s.channel.outgoing.next,
            queued_bytes: s.channel.outgoing.queue_bytes.get(),
            carbons: s.client.carbons,
            catching_up: s.client.offline_pending,
            rooms: s.client.joined.len(),
        }
    }
}

/// Counts of one router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Slots in service.
    pub slots: usize,
    /// Slots being taken over.
    pub taking: usize,
    /// Slots being handed over.
    pub quiescing: usize,
    /// Sessions.
    pub sessions: usize,
    /// Of these, without a socket.
    pub detached: usize,
    /// Rooms.
    pub rooms: usize,
    /// Occupants of them.
    pub occupants: usize,
    /// Operations that wait for an answer or a commit.
    pub operations: usize,
    /// Detached sessions and rooms that may be missing in the state store, and would be lost with this
    /// router.
    #[serde(default)]
    pub in_doubt: usize,
    /// Sessions of which one process alone has something: their edge may be dead, has still to send
    /// again what an owner before this one had accepted, or the state store has yet to take them.
    #[serde(default)]
    pub sole: usize,
    /// One of these sessions, and why.
    #[serde(default)]
    pub sole_one: Option<String>,
    /// Slots that this router, as the planner, is having moved from one live router to another.
    #[serde(default)]
    pub moving: usize,
}

impl Counts {
    pub(crate) fn add(&mut self, slot: &Slot) {
        if slot.is_taking() {
            self.taking += 1;
        } else if slot.is_active() {
            self.slots += 1;
        } else {
            self.quiescing += 1;
        }
        self.sessions += slot
            .sessions
            .values()
            .filter(|s| s.channel.is_live())
            .count();
        self.detached += slot
            .sessions
            .values()
            .filter(|s| s.channel.is_live() && s.channel.edge().is_none())
            .count();
        self.rooms += slot.rooms.len();
        self.occupants += slot
            .rooms
            .values()
            .map(crate::room::OwnedRoom::occupant_count)
            .sum::<usize>();
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: &Counts) {
        self.slots += other.slots;
        self.taking += other.taking;
        self.quiescing += other.quiescing;
        self.sessions += other.sessions;
        self.detached += other.detached;
        self.rooms += other.rooms;
        self.occupants += other.occupants;
        self.operations += other.operations;
        self.in_doubt += other.in_doubt;
        self.sole += other.sole;
        if self.sole_one.is_none() {
            self.sole_one.clone_from(&other.sole_one);
        }
        self.moving += other.moving;
    }
}

/// A session without a socket, or a room, as the state store would hold it: what a process that
/// stops leaves to its next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Slot that owns it.
    pub slot: u16,
    /// Its name in the slot.
    pub object: String,
    /// All of its fields.
    pub fields: Vec<(String, bytes::Bytes)>,
}
