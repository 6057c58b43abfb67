//! Sockets: a connection that any task can write to, its TLS, and WebSocket framing.

pub mod link;
pub mod tls;
pub mod ws;
