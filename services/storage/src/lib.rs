//! Storage: the only tier that speaks SQL. [`Storage`] implements
//! [`Stores`](sestina_api::store::Stores) over PostgreSQL or SQLite.
//!
//! - [`config`], [`open`](Storage::open): where the database is; schema; what runs beside it
//! - `storage`: the stores, each operation on its database
//! - `stores`: one module per store
//! - `fence`: writes count only under the newest epoch of their slot
//! - `pool`: PostgreSQL connections; `writer`: SQLite's one writer; `batch`: shared commits
//! - `health`: whether it can store
//! - `dialect`: one text for both databases where they agree
//! - [`metered`]: how long each operation takes

mod batch;
pub mod config;
mod dialect;
mod error;
mod fence;
mod health;
pub mod metered;
mod open;
mod pool;
#[cfg(feature = "simulation")]
pub mod simulation;
mod storage;
mod stores;
mod writer;

pub use config::StorageConfig;
pub use error::OpenError;
pub use metered::Metered;
pub use storage::Storage;
pub use stores::identity::ClusterIdentity;
