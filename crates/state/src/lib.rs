//! The state store, which keeps the state of slots when their owner dies, and leases, in Redis or
//! in memory.
//!
//! - [`config`]: the addresses of Redis and its time limits
//! - [`state_store`]: [`RedisStateStore`], the state store in Redis
//! - [`leases`]: [`RedisLeases`], Redis as a lease authority
//! - [`memory`]: both in memory, for one process and for tests
//! - `connection`: a connection that reconnects, for one server, Sentinel and Redis Cluster
//! - `format`: the format of the state in Redis
//! - `tls`: certificates, and advice about refused ones
//! - `scripts`: the Lua scripts; each touches keys of one hash tag only

pub mod config;
mod connection;
mod format;
pub mod leases;
pub mod memory;
mod scripts;
mod sentinel;
pub mod state_store;
mod tls;

/// Entry points of fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use sestina_api::state_store::{ReplicaObject, StateStoreError};

    /// Reads an object from Redis's answer: alternating names and values.
    pub fn read_object(
        name: &str,
        words: Vec<Vec<u8>>,
    ) -> Result<Option<ReplicaObject>, StateStoreError> {
        crate::state_store::stored(name, words)
    }
}

pub use config::{RedisConfig, RedisConfigError, RedisIdentity, RedisMode, RedisTls};
pub use leases::RedisLeases;
pub use memory::{MemoryLeases, MemoryStateStore};
pub use state_store::RedisStateStore;
