//! The edge tier: sockets, TLS, framing and stream negotiation.
//!
//! An edge is a pipe. It knows who is at the other end of a socket, numbers what comes from
//! there, and puts there what the owner of the session has numbered; it makes no decision about a
//! stanza.
//!
//! - [`Edge`]: started, drained, stopped; [`Around`]: what its process gives it
//! - [`config`]: what it is told
//! - [`metrics`]: what it counts
//! - [`listen`], [`http`], [`tls`], [`transport`], [`limits`]: connections
//! - `attachment`: what is numbered, held, reported and sent again; without I/O
//! - `session`: what is negotiated on connections, and sessions with their sockets
//! - `lanes`: routers, epochs, and this edge's lease

// What is public inside is so for the simulation alone.
#![cfg_attr(not(feature = "simulation"), allow(unreachable_pub))]

mod around;
#[cfg(not(feature = "simulation"))]
mod attachment;
#[cfg(feature = "simulation")]
pub mod attachment;
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

pub use around::Around;
pub use config::{EdgeConfig, HostConfig, StreamLimits};
pub use edge::{Edge, EdgeError, EdgeStatus};
