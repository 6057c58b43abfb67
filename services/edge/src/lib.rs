//! The edge tier: sockets, TLS, framing and stream negotiation.
//!
//! An edge is a pipe. It knows who is at the other end of a socket, numbers what comes from
//! there, and puts there what the owner of the session has numbered; it makes no decision about a
//! stanza.
//!
//! - [`Edge`]: started, drained, stopped
//! - [`config`]: what it is told
//! - [`metrics`]: what it counts
//! - [`listen`], [`http`], [`tls`], [`transport`], [`limits`]: connections
//! - `session`: what is negotiated on them, and sessions
//! - `lanes`: routers, epochs, and this edge's lease

pub mod config;
mod edge;
pub mod http;
mod lanes;
pub mod limits;
pub mod listen;
pub mod metrics;
mod session;
mod shared;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod transport;

pub use config::{EdgeConfig, HostConfig, StreamLimits};
pub use edge::{Edge, EdgeError, EdgeStatus};
