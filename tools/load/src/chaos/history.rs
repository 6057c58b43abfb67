//! What happened in a run, as the sessions noted it. Times are microseconds since its start, on
//! this machine's monotonic clock.

/// Who talks with whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Of which kind.
    pub kind: Kind,
    /// Numbers of the sessions.
    pub members: Vec<usize>,
}

/// Kinds of conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Two sessions, one to one.
    Pair,
    /// A room: everybody gets everything, the speaker too.
    Room,
}

/// Names a message: each session has one conversation and counts what it sends there from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// Session that sent it.
    pub sender: u32,
    /// Its count.
    pub n: u32,
}

/// A message as its sender saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// When it was first sent.
    pub at: u64,
    /// When the server acknowledged it (by `<a/>`, or in a room by reflecting it).
    pub acked: Option<u64>,
    /// The server answered with an error.
    pub bounced: bool,
}

/// A live delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which message.
    pub id: MessageId,
    /// When.
    pub at: u64,
    /// The id under which the receiver's own archive was said to hold it.
    pub stanza_id: Option<Box<str>>,
}

/// A time in which a session was not there continuously: it was refused when it tried to resume
/// and began anew. Messages sent in it may be missing live, or come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// Begin, with a margin for what was under way.
    pub from: u64,
    /// When the new session was complete.
    pub to: u64,
}

/// A message in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Which message.
    pub id: MessageId,
    /// Its id in the archive.
    pub archive_id: Box<str>,
}

/// All notes of a run. The outer index is the session's number.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Who talks with whom.
    pub conversations: Vec<Conversation>,
    /// Messages of each sender, in order of sending.
    pub sent: Vec<Vec<Sent>>,
    /// Deliveries to each receiver, in order.
    pub delivered: Vec<Vec<Delivery>>,
    /// When each session was not there.
    pub absences: Vec<Vec<Absence>>,
    /// Each archive that was read, in its order; `None` where it was not, or could not be.
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

    /// Whether `receiver` is excused from getting a message sent at `at`.
    #[must_use]
    pub fn excused(&self, receiver: usize, at: u64) -> bool {
        self.absences[receiver]
            .iter()
            .any(|absence| (absence.from..=absence.to).contains(&at))
    }
}
