//! A connection of any kind, in two halves. Under TLS this process is the server or the client
//! ([`TlsRole`](crate::tls::TlsRole)); on a WebSocket it is the server.
//!
//! - [`WireReader`] belongs to the connection's task. It reads, and it continues writes that the
//!   kernel did not take at once, so that a slow client needs no second task.
//! - [`WireWriter`] is shared. Any thread appends to it and flushes it: when the socket is free a
//!   delivery is one lock, one encryption and one system call, and wakes no task.
//!
//! The same pair serves plain TCP before STARTTLS, TLS, and WebSocket over either.

mod buffers;
mod outbox;
mod reader;
mod socket;
mod start_tls;
pub mod websocket;
mod writer;

#[cfg(test)]
mod tests;

pub use outbox::TraceContext;
pub use reader::{Chunk, WireReader};
pub use start_tls::{TlsError, TlsInfo};
pub use writer::{CloseKind, Flush, WireWriter};

use std::sync::Arc;

use rustls::Connection;
use tokio::net::TcpStream;

/// A connection that is about to be split into its halves.
pub struct Wire {
    stream: TcpStream,
    tls: Option<Box<Connection>>,
    info: Option<Box<TlsInfo>>,
    websocket: bool,
    early: Vec<u8>,
    limits: WireLimits,
}

/// Byte bounds of one connection; both can be raised later, when the peer has authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// Most bytes that may wait for the socket. Beyond it the wire is closed as overflowed.
    pub queue_bytes: usize,
    /// Longest WebSocket message that is accepted.
    pub message_bytes: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            queue_bytes: 1 << 20,
            message_bytes: 64 << 10,
        }
    }
}

impl Wire {
    /// A plain TCP connection, on which TLS may be started later.
    pub fn plain(stream: TcpStream, limits: WireLimits) -> Self {
        Self {
            stream,
            tls: None,
            info: None,
            websocket: false,
            early: Vec::new(),
            limits,
        }
    }

    /// A TLS connection whose handshake is complete.
    pub fn secured(stream: TcpStream, tls: Connection, info: TlsInfo, limits: WireLimits) -> Self {
        Self {
            stream,
            tls: Some(Box::new(tls)),
            info: Some(Box::new(info)),
            websocket: false,
            early: Vec::new(),
            limits,
        }
    }

    /// Speaks WebSocket from here on. `early` are bytes of the client (in clear) that were read
    /// together with its upgrade request.
    #[must_use]
    pub fn into_websocket(mut self, early: Vec<u8>) -> Self {
        self.websocket = true;
        self.early = early;
        self
    }

    /// Splits the connection into the half that its task owns and the half that is shared.
    pub fn split(self) -> (WireReader, Arc<WireWriter>) {
        let writer = Arc::new(WireWriter::new(
            self.stream,
            self.tls,
            self.websocket,
            self.limits,
        ));
        let reader = WireReader::new(
            Arc::clone(&writer),
            self.info,
            self.websocket,
            self.early,
            self.limits,
        );
        (reader, writer)
    }
}
