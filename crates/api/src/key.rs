//! Idempotency keys: one for each thing that a stanza causes, the same at each replay.

use sestina_proto as proto;

/// The purpose of a thing that a stanza causes: the third part of its key. The numbers are a wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Purpose {
    /// The stanza itself, for its addressee (user or room).
    Route = 1,
    /// An answer or error that goes back to the origin.
    Reply = 2,
    /// A row in the origin's own archive.
    ArchiveSent = 3,
    /// A row in the addressee's archive.
    ArchiveReceived = 4,
    /// A row in the offline store.
    Offline = 5,
    /// A carbon copy of a sent message (XEP-0280).
    CarbonSent = 6,
    /// A carbon copy of a received message.
    CarbonReceived = 7,
    /// One event of a room (the origin is the room).
    RoomEvent = 8,
    /// Presence the server sends on behalf of a session that ended.
    Ended = 9,
    /// One of many results that precede the reply (archive pages); the index is added above bit 8.
    Result = 10,
    /// The presence of a session that was resumed under a new owner, sent again to its user's other
    /// sessions. Its number is 0, and the session's generation is added above bit 8.
    Returned = 11,
    /// An IQ that is pushed to the sessions of a user because of a request of one of them.
    Push = 12,
}

/// A session's nonce or a room's identity.
pub type OriginId = u128;

/// Names one thing that a stanza causes, for ever: a receiver that has handled it drops a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey {
    /// Whose stanza (or room event) it is.
    pub origin: OriginId,
    /// The origin's number of it, from 1.
    pub n: u64,
    /// [`Purpose`], with an index above bit 8 where one stanza has several things of one purpose.
    pub purpose: u32,
}

impl IdempotencyKey {
    /// The key of what the origin's `n`-th stanza causes for a purpose.
    pub fn new(origin: OriginId, n: u64, purpose: Purpose) -> IdempotencyKey {
        IdempotencyKey::indexed(origin, n, purpose, 0)
    }

    /// The same, for the `index`-th thing of that purpose.
    pub fn indexed(origin: OriginId, n: u64, purpose: Purpose, index: u32) -> IdempotencyKey {
        IdempotencyKey {
            origin,
            n,
            purpose: purpose as u32 | (index << 8),
        }
    }

    /// Another thing that the same stanza causes.
    pub fn sibling(self, purpose: Purpose) -> IdempotencyKey {
        IdempotencyKey::new(self.origin, self.n, purpose)
    }

    /// Whether it has that purpose, whatever its index.
    pub fn is(self, purpose: Purpose) -> bool {
        self.purpose & 0xff == purpose as u32
    }

    /// Which of several things of its purpose it names.
    pub fn index(self) -> u32 {
        self.purpose >> 8
    }
}

/// Splits a 128-bit id for the wire.
pub fn split(id: u128) -> (u64, u64) {
    ((id >> 64) as u64, id as u64)
}

/// Joins a 128-bit id from the wire.
pub fn join(hi: u64, lo: u64) -> u128 {
    (u128::from(hi) << 64) | u128::from(lo)
}

impl From<IdempotencyKey> for proto::Key {
    fn from(key: IdempotencyKey) -> proto::Key {
        let (origin_hi, origin_lo) = split(key.origin);
        proto::Key {
            origin_hi,
            origin_lo,
            n: key.n,
            purpose: key.purpose,
            shared: false,
        }
    }
}

impl From<&proto::Key> for IdempotencyKey {
    fn from(key: &proto::Key) -> IdempotencyKey {
        IdempotencyKey {
            origin: join(key.origin_hi, key.origin_lo),
            n: key.n,
            purpose: key.purpose,
        }
    }
}
