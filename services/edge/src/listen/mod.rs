//! The ports that clients connect to.
//!
//! A [`Listeners`] owns the sockets and all handshakes. What comes out is an [`Accepted`]: a
//! connection in clear that may start TLS, one under TLS, or a WebSocket.

mod accept;
mod bind;
mod config;
mod connection;
mod networks;
pub mod proxy_protocol;

#[cfg(test)]
pub(crate) mod tests;

pub use accept::Listeners;
pub use bind::ListenError;
pub use config::{ListenConfig, ListenerConfig, ListenerKind};
pub use connection::{Accepted, OnAccept};
pub use networks::{NetworkError, Networks};
