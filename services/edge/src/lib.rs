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
//! - [`stream`]: what is negotiated on a stream; `session`: sessions with their sockets
//! - `routing`: routers, lanes to them, epochs, and this edge's lease

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
pub mod limits;
pub mod listen;
pub mod metrics;
mod routing;
mod session;
mod shared;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod transport;

pub use around::Around;
pub use config::{EdgeConfig, HostConfig, StreamLimits};
pub use edge::{Edge, EdgeError, EdgeStatus};
