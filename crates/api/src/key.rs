//! Idempotency keys: one for each thing that a stanza causes, the same at each replay.

use sestina_proto as proto;

/// The purpose of a thing that a stanza causes: the third part of its key. The numbers are a wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Purpose {
    /// The stanza itself, for its addressee (user or room). If a room has passed it on to a user, the room is added above
    /// bit 8.
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

/// Indexes above 0 have 24 bits.
const MOST_WAYS: u32 = (1 << 24) - 1;

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

    /// Another thing that the same stanza causes. If it has come through a room, so has that.
    pub fn sibling(self, purpose: Purpose) -> IdempotencyKey {
        let way = match self.is(Purpose::Route) {
            true => self.index(),
            false => 0,
        };
        IdempotencyKey::indexed(self.origin, self.n, purpose, way)
    }

    /// The key of a stanza that a room passes on to users: [`Purpose::Route`], with the room as its index. Stanzas of one
    /// origin to one user have an order only if they go the same way. `room` is any hash of the room's address.
    pub fn through(self, room: u64) -> IdempotencyKey {
        let index = (room % u64::from(MOST_WAYS)) as u32 + 1;
        IdempotencyKey::indexed(self.origin, self.n, Purpose::Route, index)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_room_has_passed_on_has_keys_of_its_own() {
        let direct = IdempotencyKey::new(7, 3, Purpose::Route);
        for room in [0, 1, u64::MAX] {
            let passed_on = direct.through(room);
            assert!(passed_on.is(Purpose::Route) && passed_on != direct);
            let stored = passed_on.sibling(Purpose::Offline);
            assert!(stored.is(Purpose::Offline));
            assert_eq!(stored.index(), passed_on.index());
        }
        assert_ne!(direct.through(1), direct.through(2));
    }

    #[test]
    fn the_parts_of_an_event_have_rows_under_one_key() {
        let event = IdempotencyKey::indexed(7, 3, Purpose::RoomEvent, 2);
        let row = IdempotencyKey::new(7, 3, Purpose::ArchiveReceived);
        assert_eq!(event.sibling(Purpose::ArchiveReceived), row);
    }
}
