//! Effect keys: one for each effect of each stanza, the same at each replay.

use sestina_proto as proto;

/// What an effect is, as the third part of its key. The numbers are a wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum EffectKind {
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
}

/// A session's nonce or a room's identity.
pub type OriginId = u128;

/// Names one effect for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EffectKey {
    /// Whose stanza (or room event) it is.
    pub origin: OriginId,
    /// The origin's number of it, from 1.
    pub n: u64,
    /// [`EffectKind`], with an index above bit 8 where one stanza has several of a kind.
    pub kind: u32,
}

impl EffectKey {
    /// The key of the `kind` effect of the origin's `n`-th stanza.
    pub fn new(origin: OriginId, n: u64, kind: EffectKind) -> EffectKey {
        EffectKey {
            origin,
            n,
            kind: kind as u32,
        }
    }

    /// The same, for the `index`-th effect of that kind.
    pub fn indexed(origin: OriginId, n: u64, kind: EffectKind, index: u32) -> EffectKey {
        EffectKey {
            origin,
            n,
            kind: kind as u32 | (index << 8),
        }
    }

    /// Another effect of the same stanza.
    pub fn sibling(self, kind: EffectKind) -> EffectKey {
        EffectKey {
            kind: kind as u32,
            ..self
        }
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

impl From<EffectKey> for proto::Key {
    fn from(key: EffectKey) -> proto::Key {
        let (origin_hi, origin_lo) = split(key.origin);
        proto::Key {
            origin_hi,
            origin_lo,
            n: key.n,
            kind: key.kind,
            shared: false,
        }
    }
}

impl From<&proto::Key> for EffectKey {
    fn from(key: &proto::Key) -> EffectKey {
        EffectKey {
            origin: join(key.origin_hi, key.origin_lo),
            n: key.n,
            kind: key.kind,
        }
    }
}
