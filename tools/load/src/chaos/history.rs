//! The notes of the sessions of a run. Times are microseconds since its start, on this machine's
//! monotonic clock.

/// A conversation between sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its kind.
    pub kind: Kind,
    /// Numbers of the sessions.
    pub members: Vec<usize>,
}

/// Kinds of conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Two sessions, one to one.
    Pair,
    /// A room: all members get every message, the sender too.
    Room,
}

/// Identifies a message: each session has one conversation and counts its messages there from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// The session that sent it.
    pub sender: u32,
    /// Its count.
    pub n: u32,
}

/// A message as its sender noted it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// When it was first sent.
    pub at: u64,
    /// When the server acknowledged it (by `<a/>`, or in a room by reflecting it).
    pub acked: Option<u64>,
    /// Whether the server answered with an error.
    pub bounced: bool,
}

/// A live delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub id: MessageId,
    /// The time.
    pub at: u64,
    /// The id in the receiver's own archive, as the delivery gave it.
    pub stanza_id: Option<Box<str>>,
}

/// A time without a continuous session: its resumption was refused, and it logged in anew. Messages
/// sent in that time may be missing live, or come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// Begin, with a margin for messages that were under way.
    pub from: u64,
    /// When the new session was complete.
    pub to: u64,
}

/// A message in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The message.
    pub id: MessageId,
    /// Its id in the archive.
    pub archive_id: Box<str>,
}

/// All notes of a run, indexed by the session's number.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The conversations.
    pub conversations: Vec<Conversation>,
    /// Messages of each sender, in order of sending.
    pub sent: Vec<Vec<Sent>>,
    /// Deliveries to each receiver, in order.
    pub delivered: Vec<Vec<Delivery>>,
    /// The absences of each session.
    pub absences: Vec<Vec<Absence>>,
    /// Each archive that was read, in its order; `None` for one that was not read.
    pub archives: Vec<Option<Vec<Archived>>>,
}

impl History {
    /// Empty notes.
    #[must_use]
    pub fn new(sessions: usize, conversations: Vec<Conversation>) -> Self {
        Self {
            conversations,
            sent: vec![Vec::new(); sessions],
            delivered: vec![Vec::new(); sessions],
            absences: vec![Vec::new(); sessions],
            archives: vec![None; sessions],
        }
    }

    /// The note of a message.
    #[must_use]
    pub fn message(&self, id: MessageId) -> Option<&Sent> {
        self.sent.get(id.sender as usize)?.get(id.n as usize)
    }

    /// Whether the absence of `receiver` excuses the loss of a message sent at `at`.
    #[must_use]
    pub fn excused(&self, receiver: usize, at: u64) -> bool {
        self.absences[receiver]
            .iter()
            .any(|absence| (absence.from..=absence.to).contains(&at))
    }
}
