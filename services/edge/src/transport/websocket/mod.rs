//! WebSocket frames (RFC 6455 §5) without I/O: a decoder for what clients send, an encoder for
//! what the server sends, and the handshake's key.

mod decoder;
pub mod frame;
mod handshake;

pub use decoder::{Decoder, Event, WsError};
pub use handshake::accept_key;
