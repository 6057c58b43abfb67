//! Live state that outlives its owner, and leases, in Redis or in memory.
//!
//! - [`config`]: where Redis is and how long it may take
//! - [`shadow`]: [`RedisShadow`], the shadow store in Redis
//! - [`leases`]: [`RedisLeases`], Redis as a lease authority
//! - [`memory`]: both in memory, for one process and for tests
//! - `connection`: connects lazily and again, for one server, Sentinel and Redis Cluster
//! - `format`: in which format the state in Redis is written
//! - `tls`: certificates, and advice about refused ones
//! - `scripts`: the Lua scripts; each touches keys of one hash tag only

pub mod config;
mod connection;
mod format;
pub mod leases;
pub mod memory;
mod scripts;
mod sentinel;
pub mod shadow;
mod tls;

/// What fuzz targets call.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use sestina_api::shadow::{ShadowError, ShadowObject};

    /// An object from the words that Redis answered with: names and values in turn.
    pub fn read_object(
        name: &str,
        words: Vec<Vec<u8>>,
    ) -> Result<Option<ShadowObject>, ShadowError> {
        crate::shadow::stored(name, words)
    }
}

pub use config::{RedisConfig, RedisConfigError, RedisIdentity, RedisMode, RedisTls};
pub use leases::RedisLeases;
pub use memory::{MemoryLeases, MemoryShadow};
pub use shadow::RedisShadow;
