//! The configuration: a TOML file, the environment over it, flags over both.
//!
//! Every option is documented and has its default where it is defined (the `section!` blocks in
//! [`sections`]); the reference page ([`docs`]), the check for unknown keys and the environment
//! names are derived from those definitions.
//!
//! - [`sections`]: the options
//! - [`shape`]: how an option describes itself
//! - [`modules`]: settings that modules declare themselves
//! - [`values`]: value types: durations, sizes, networks, secrets
//! - [`load`]: reading and merging, unknown keys, wrong types
//! - [`check`]: combinations of values, and the options that each role needs
//! - [`docs`]: the reference page
//! - `hash`: what all processes of a cluster must agree on

pub mod check;
pub mod docs;
pub mod error;
mod hash;
pub mod load;
pub mod modules;
mod nearest;
pub mod sections;
pub mod shape;
pub mod values;

pub use check::{Role, is_cluster_name};
pub use error::{ConfigError, ConfigErrors};
pub use sections::{
    Admin, Cluster, Config, Edge, Host, Limits, LogFormat, Node, Redis, RedisMode, Rooms, Router,
    Sm, Storage, Telemetry, Tls,
};
pub use values::{Net, Secret, Size, Time};
