//! Live state that must survive its owner: detached sessions and rooms, per slot, in Redis.
//!
//! The store knows objects made of fields; the router knows what they mean. Every write carries its
//! place among all writes to the slot, a [`Stamp`]. The store refuses a write that is not newer than
//! the last one, so that a write which its owner has given up can arrive late, twice and in any
//! order without harm; and each answer tells the last write that the store had, so that the owner
//! sees when the store has lost some (Redis restarted, or a replica took over that lacked them).

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

/// The place of a write among all writes to its slot: the epoch of the owner, and a number that
/// starts at 1 with each epoch and rises with every script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The owner's epoch.
    pub epoch: u64,
    /// The write's number in that epoch; 0 is the takeover itself.
    pub n: u64,
}

impl Stamp {
    /// The n-th write of an epoch.
    pub const fn new(epoch: u64, n: u64) -> Stamp {
        Stamp { epoch, n }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

/// One change to a slot's replica. The version of an object is the stamp of the write that changed
/// it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaOp {
    /// Replaces the object whole, whatever is there.
    Replace {
        /// Object name, unique in the slot (`s:<nonce>` a session, `r:<jid>` a room).
        object: String,
        /// All fields.
        fields: Vec<(String, Bytes)>,
    },
    /// Changes fields if the stored version is `base`.
    Update {
        /// Object name.
        object: String,
        /// Version this delta applies to.
        base: Stamp,
        /// Fields to set.
        set: Vec<(String, Bytes)>,
        /// Fields to remove.
        remove: Vec<String>,
    },
    /// Deletes the object, whatever its version; absent is fine.
    Delete {
        /// Object name.
        object: String,
    },
    /// Puts a part of a large change aside, in one of the slot's staging places.
    Stage {
        /// The number of the place.
        place: usize,
        /// The write that staged the part before; none: what is staged there is forgotten first.
        base: Option<Stamp>,
        /// What is added.
        parts: Vec<StagedPart>,
    },
    /// Replaces the object whole by all that is staged in a place.
    ReplaceStaged {
        /// Object name.
        object: String,
        /// The number of the place.
        place: usize,
        /// The write that staged the last part.
        staged: Stamp,
    },
    /// Sets all fields that are staged in a place if the stored version is `base`.
    UpdateStaged {
        /// Object name.
        object: String,
        /// Version this delta applies to.
        base: Stamp,
        /// Fields to remove.
        remove: Vec<String>,
        /// The number of the place.
        place: usize,
        /// The write that staged the last part.
        staged: Stamp,
    },
}

/// A field, or a piece of one, that is put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedPart {
    /// The field.
    pub field: String,
    /// Whether it goes behind what is staged of this field.
    pub append: bool,
    /// Its bytes.
    pub value: Bytes,
}

/// One object as loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaObject {
    /// Object name.
    pub object: String,
    /// Its version.
    pub version: Stamp,
    /// Its fields, in no order.
    pub fields: Vec<(String, Bytes)>,
}

/// The store's knowledge before a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The last write.
    pub last: Stamp,
    /// How many writes to the slot were refused because they were not newer.
    pub refused: u64,
}

/// What a slot has, told when its epoch was installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// What the store knew before.
    pub found: Found,
    /// The last write that is now known: the listing's own stamp, unless the epoch had written
    /// already.
    pub at: Stamp,
    /// The last write of an earlier epoch.
    pub before: Stamp,
    /// The names of all objects.
    pub names: Vec<String>,
}

/// A part of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadPart {
    /// The last write that the store knew meanwhile.
    pub at: Stamp,
    /// The first of the objects that were asked for; none for one that is not there.
    pub objects: Vec<Option<ReplicaObject>>,
    /// The last of them is not complete: it goes on behind this field.
    pub rest: Option<String>,
}

/// All of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The last write that the store knew.
    pub at: Stamp,
    /// The last write of an earlier epoch.
    pub before: Stamp,
    /// The objects.
    pub objects: Vec<ReplicaObject>,
}

/// Why the state store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateStoreError {
    /// Redis cannot be reached or did not answer in time. Whether it happened is unknown, and it
    /// may still happen: it must not be repeated, but written anew under the next number.
    #[error("the state store is unavailable: {0}")]
    Unavailable(String),
    /// The write is not newer than the last one. If that has a higher epoch, this process is not
    /// the slot's owner any more.
    #[error("fenced: write {} of the slot is known", found.last)]
    Fenced {
        /// What the store knew.
        found: Found,
    },
    /// These objects have another version than the delta's base (the empty name: what is staged is
    /// not what was staged): nothing was changed but the last write; send them as `Replace`.
    #[error("stale base for {objects:?}")]
    Stale {
        /// What the store knew before.
        found: Found,
        /// Their names.
        objects: Vec<String>,
    },
}

/// The state store. All calls for one slot touch keys with one hash tag (`{s<slot>}`). A slot's
/// owner has one call under way at a time.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// Applies all ops of one slot in one atomic step, if `at` is newer than the last write, which
    /// it becomes.
    async fn apply(
        &self,
        slot: u16,
        at: Stamp,
        ops: Vec<ReplicaOp>,
    ) -> Result<Found, StateStoreError>;

    /// Names all objects of the slot and forgets what is staged in place 0; what is staged in others is forgotten in
    /// time, as it is by programs that know one place only. With n = 0 this is the first step
    /// of a load: the epoch is installed unless it, or a newer write of it, is known. Otherwise it
    /// is a write like others.
    async fn list(&self, slot: u16, at: Stamp) -> Result<Listing, StateStoreError>;

    /// Loads the first of these objects, as many as one answer should hold, the first of them from
    /// behind a field on.
    async fn load_part(
        &self,
        slot: u16,
        names: &[String],
        after: Option<&str>,
    ) -> Result<LoadPart, StateStoreError>;

    /// The highest epoch stored for each of these slots (0: none).
    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, StateStoreError>;
}

/// A load in parts, which sees when the store changed under it.
#[derive(Debug)]
pub struct Loading {
    listing: Listing,
    /// How many of the names are loaded.
    done: usize,
    rest: Option<String>,
    objects: Vec<ReplicaObject>,
}

impl Loading {
    /// Goes on from a listing.
    pub fn new(listing: Listing) -> Loading {
        Loading {
            listing,
            done: 0,
            rest: None,
            objects: Vec::new(),
        }
    }

    /// What to ask for next; none: it is all there.
    pub fn next(&self) -> Option<(&[String], Option<&str>)> {
        let names = self.listing.names.get(self.done..)?;
        (!names.is_empty()).then_some((names, self.rest.as_deref()))
    }

    /// Takes what was asked for. False if the store has changed since the listing (another server
    /// took over, an owner wrote): then the load begins anew, unless `trusting`.
    pub fn take(&mut self, part: LoadPart, trusting: bool) -> bool {
        if part.at != self.listing.at && !trusting {
            return false;
        }
        let mut left = part.objects.len();
        if left == 0 {
            return false;
        }
        let mut goes_on = self.rest.take().is_some();
        self.rest = part.rest;
        for object in part.objects {
            left -= 1;
            let continued = std::mem::take(&mut goes_on);
            match (object, self.objects.last_mut()) {
                (Some(more), Some(begun)) if continued && begun.object == more.object => {
                    if begun.version != more.version {
                        return false;
                    }
                    begun.fields.extend(more.fields);
                }
                (Some(object), _) => self.objects.push(object),
                (None, _) => {}
            }
            if left > 0 || self.rest.is_none() {
                self.done += 1;
            }
        }
        true
    }

    /// What was loaded.
    pub fn finish(self) -> Loaded {
        Loaded {
            at: self.listing.at,
            before: self.listing.before,
            objects: self.objects,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, fields: &[&str]) -> ReplicaObject {
        let field = |name: &&str| ((*name).to_owned(), Bytes::new());
        ReplicaObject {
            object: name.to_owned(),
            version: Stamp::new(3, 1),
            fields: fields.iter().map(field).collect(),
        }
    }

    fn loading() -> Loading {
        Loading::new(Listing {
            at: Stamp::new(4, 0),
            names: ["a", "b", "c"].map(str::to_owned).to_vec(),
            ..Listing::default()
        })
    }

    fn part(objects: Vec<Option<ReplicaObject>>, rest: Option<&str>) -> LoadPart {
        LoadPart {
            at: Stamp::new(4, 0),
            objects,
            rest: rest.map(str::to_owned),
        }
    }

    #[test]
    fn stamps_compare_by_epoch_first() {
        assert!(Stamp::new(2, 1) > Stamp::new(1, 9));
        assert!(Stamp::new(2, 2) > Stamp::new(2, 1));
    }

    #[test]
    fn an_object_in_parts_is_put_together() {
        let mut loading = loading();
        let first = part(
            vec![Some(object("a", &["x"])), Some(object("b", &["1"]))],
            Some("1"),
        );
        assert!(loading.take(first, false));
        let (names, after) = loading.next().unwrap_or_default();
        assert_eq!((names.len(), after), (2, Some("1")));
        assert!(loading.take(part(vec![Some(object("b", &["2"]))], Some("2")), false));
        assert!(loading.take(part(vec![Some(object("b", &["3"])), None], None), false));
        assert_eq!(loading.next(), None);
        let expected = vec![object("a", &["x"]), object("b", &["1", "2", "3"])];
        assert_eq!(loading.finish().objects, expected);
    }

    #[test]
    fn a_store_that_changed_under_a_load_is_seen() {
        let mut other = part(vec![Some(object("a", &[]))], None);
        other.at = Stamp::new(3, 7);
        assert!(!loading().take(other, false));
        let mut loading = loading();
        assert!(loading.take(part(vec![Some(object("a", &["x"]))], Some("x")), false));
        let mut newer = object("a", &["y"]);
        newer.version = Stamp::new(3, 2);
        assert!(!loading.take(part(vec![Some(newer)], None), false));
    }
}
