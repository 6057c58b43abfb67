//! Live state that must survive its owner: detached sessions and rooms, per slot, in Redis.
//!
//! The store knows objects made of fields; the router knows what they mean. Each object has a
//! version; a change on another base than the stored one is refused, and the owner rewrites the
//! object whole (Redis restarted, or a failover lost writes).

use async_trait::async_trait;
use bytes::Bytes;

/// One change to a slot's shadow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShadowOp {
    /// Replaces the object whole, whatever is there; its version becomes `version`.
    Replace {
        /// Object name, unique in the slot (`s:<nonce>` a session, `r:<jid>` a room).
        object: String,
        /// New version.
        version: u64,
        /// All fields.
        fields: Vec<(String, Bytes)>,
    },
    /// Changes fields if the stored version is `base`; the version becomes `base + 1`.
    Update {
        /// Object name.
        object: String,
        /// Version this delta applies to.
        base: u64,
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
}

/// One object as loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowObject {
    /// Object name.
    pub object: String,
    /// Its version.
    pub version: u64,
    /// Its fields, in no order.
    pub fields: Vec<(String, Bytes)>,
}

/// Why the shadow did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShadowError {
    /// Redis cannot be reached or did not answer in time. Whether it happened is unknown;
    /// `Replace` and `Delete` can be repeated, an `Update` is answered by `Stale` then.
    #[error("the shadow store is away: {0}")]
    Away(String),
    /// A higher epoch of this slot is known: this process is not its owner any more.
    #[error("fenced: epoch {known} of the slot is known")]
    Fenced {
        /// The highest epoch stored.
        known: u64,
    },
    /// These objects have another version than the delta's base: nothing at all was changed;
    /// send them as `Replace`.
    #[error("stale base for {0:?}")]
    Stale(Vec<String>),
}

/// The shadow store. All calls for one slot touch keys with one hash tag (`{s<slot>}`).
#[async_trait]
pub trait Shadow: Send + Sync + 'static {
    /// Applies all ops of one slot in one atomic step, fenced by the epoch (which is raised to
    /// `epoch` if it is higher than the stored one).
    async fn apply(&self, slot: u16, epoch: u64, ops: Vec<ShadowOp>) -> Result<(), ShadowError>;

    /// Installs the epoch and loads all objects of the slot.
    async fn load(&self, slot: u16, epoch: u64) -> Result<Vec<ShadowObject>, ShadowError>;

    /// The highest epoch stored for each of these slots (0: none).
    async fn epochs(&self, slots: &[u16]) -> Result<Vec<u64>, ShadowError>;
}
