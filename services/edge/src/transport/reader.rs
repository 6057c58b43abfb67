//! The half that the connection's task owns: it reads, and continues blocked writes.

use std::future::poll_fn;
use std::io::{self, BufRead as _};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::Connection;
use sestina_runtime::CancellationToken;

use super::WireLimits;
use super::buffers;
use super::socket::read_now;
use super::start_tls::TlsInfo;
use super::websocket::{Decoder, Event, WsError, frame};
use super::writer::{CloseKind, End, Flush, WireWriter};
use crate::limits::ConnPermit;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Bytes of a stream, cut anywhere.
    Bytes(&'a [u8]),
    /// One WebSocket text message.
    Frame(&'a str),
    /// Nothing more comes, or the connection was closed by this side.
    Eof,
}

/// The reading half of a connection. Dropping it ends the connection.
pub struct WireReader {
    pub(super) writer: Arc<WireWriter>,
    pub(super) info: Option<Box<TlsInfo>>,
    websocket: Option<Box<Decoder>>,
    /// Bytes in clear. Unallocated while the connection is idle.
    inbox: Vec<u8>,
    /// WebSocket: bytes of `inbox` that were decoded.
    decoded: usize,
    /// Stream: `inbox` has been handed to the caller.
    delivered: bool,
    message: String,
    eof: bool,
    permit: Option<ConnPermit>,
}

enum Filled {
    Bytes,
    Message,
    Eof,
}

impl WireReader {
    pub(super) fn new(
        writer: Arc<WireWriter>,
        info: Option<Box<TlsInfo>>,
        websocket: bool,
        early: Vec<u8>,
        limits: WireLimits,
    ) -> Self {
        let mut reader = Self {
            writer,
            info,
            websocket: websocket.then(|| Box::new(Decoder::new(limits.message_bytes))),
            inbox: early,
            decoded: 0,
            delivered: false,
            message: String::new(),
            eof: false,
            permit: None,
        };
        reader.take_decrypted();
        reader
    }

    /// Reads what comes next, and meanwhile continues writes that the socket did not take.
    ///
    /// Cancel-safe: nothing is lost when the future is dropped before it is ready.
    pub async fn read(&mut self) -> io::Result<Chunk<'_>> {
        if self.delivered {
            self.discard_input();
        }
        self.message = String::new();
        match poll_fn(|cx| self.poll_fill(cx)).await? {
            Filled::Bytes => {
                self.delivered = true;
                Ok(Chunk::Bytes(&self.inbox))
            }
            Filled::Message => Ok(Chunk::Frame(&self.message)),
            Filled::Eof => Ok(Chunk::Eof),
        }
    }

    /// Continues writes without reading: for the time that a fast sender is paused. Returns when
    /// the connection is closed.
    pub async fn drive(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            self.poll_progress(cx)?;
            match self.writer.state.lock().end {
                End::Dead | End::Shut => Poll::Ready(Ok(())),
                End::Open | End::WhenEmpty { .. } => Poll::Pending,
            }
        })
        .await
    }

    /// Ends the connection in order, within `limit`: what is queued is written, and what the peer
    /// still sends is read and dropped until it has ended its side, because a socket closed with
    /// unread input resets the connection and takes the last words with it.
    pub async fn finish(mut self, limit: Duration) {
        self.writer.close(CloseKind::AfterFlush);
        let mut ended = false;
        let last = poll_fn(|cx| self.poll_last(cx, &mut ended));
        if tokio::time::timeout(limit, last).await.is_err() {
            tracing::debug!("peer did not end the connection in time");
        }
    }

    /// What the TLS handshake agreed on; nothing on a connection in clear.
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.info.as_deref()
    }

    /// The other half.
    pub fn writer(&self) -> &Arc<WireWriter> {
        &self.writer
    }

    /// True for WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    /// Changes the longest WebSocket message that is accepted, from the next frame on.
    pub fn set_message_limit(&mut self, bytes: usize) {
        if let Some(decoder) = &mut self.websocket {
            decoder.set_limit(bytes);
        }
    }

    /// Counts the connection until this half is dropped.
    pub fn hold(&mut self, permit: ConnPermit) {
        self.permit = Some(permit);
    }

    /// Cancelled when this connection, which has not authenticated, has to make room for another.
    pub fn shed(&self) -> CancellationToken {
        let permit = self.permit.as_ref();
        permit.map_or_else(CancellationToken::new, ConnPermit::shed)
    }

    /// The client is known: the connection keeps its place from now on.
    pub fn authenticated(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.authenticated();
        }
    }

    #[cfg(test)]
    pub(super) fn inbox_capacity(&self) -> usize {
        self.inbox.capacity()
    }

    pub(super) fn at_eof(&self) -> bool {
        self.eof
    }

    pub(super) fn discard_input(&mut self) {
        buffers::give(&mut self.inbox);
        self.decoded = 0;
        self.delivered = false;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Filled>> {
        loop {
            if self.websocket.is_some() {
                if let Some(filled) = self.next_message()? {
                    return Poll::Ready(Ok(filled));
                }
            } else if !self.inbox.is_empty() {
                return Poll::Ready(Ok(Filled::Bytes));
            }
            if self.eof {
                return Poll::Ready(Ok(Filled::Eof));
            }
            self.poll_progress(cx)?;
            if matches!(self.writer.state.lock().end, End::Dead | End::Shut) {
                return Poll::Ready(Ok(Filled::Eof));
            }
            ready!(self.writer.stream.poll_read_ready(cx))?;
            match self.read_socket() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.writer.close(CloseKind::Abort);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Writes what the socket takes, and arranges to be woken when it takes more or when another
    /// thread needs this task.
    pub(super) fn poll_progress(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut state = self.writer.state.lock();
        // This task is awake: a flush below need not wake it.
        state.waker = None;
        while state.wants_write() {
            match self.writer.stream.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) => {
                    if state.flush(&self.writer.stream) == Flush::Closed {
                        break;
                    }
                    if state.holds_for_handshake() {
                        break;
                    }
                }
            }
        }
        state.waker = Some(cx.waker().clone());
        Ok(())
    }

    /// Ready when nothing waits any more.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_progress(cx)?;
        let state = self.writer.state.lock();
        match state.end {
            End::Dead | End::Shut => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            _ if state.wants_write() => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_last(&mut self, cx: &mut Context<'_>, ended: &mut bool) -> Poll<()> {
        loop {
            if self.poll_progress(cx).is_err() {
                return Poll::Ready(());
            }
            match self.writer.state.lock().end {
                End::Dead => return Poll::Ready(()),
                End::Shut if *ended => return Poll::Ready(()),
                _ if *ended => return Poll::Pending,
                _ => {}
            }
            if ready!(self.writer.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match buffers::with_scratch(|scratch| read_now(&self.writer.stream, scratch)) {
                Ok(0) => *ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn stop_reading(&mut self) {
        self.eof = true;
        self.discard_input();
    }

    /// One read from the socket, decrypted into `inbox`.
    pub(super) fn read_socket(&mut self) -> io::Result<()> {
        let read: io::Result<()> = buffers::with_scratch(|scratch| {
            let n = read_now(&self.writer.stream, scratch)?;
            if n == 0 {
                self.eof = true;
                return Ok(());
            }
            self.writer.hear();
            if let Some(permit) = &mut self.permit {
                permit.heard();
            }
            if self.inbox.capacity() == 0 {
                self.inbox = buffers::take();
            }
            let mut state = self.writer.state.lock();
            let Some(tls) = &mut state.tls else {
                self.inbox.extend_from_slice(&scratch[..n]);
                return Ok(());
            };
            self.eof = decrypt(tls, &scratch[..n], &mut self.inbox)?;
            // Tickets, key updates and answers to them.
            if tls.wants_write() {
                state.flush(&self.writer.stream);
            }
            Ok(())
        });
        if self.inbox.is_empty() {
            self.discard_input();
        }
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.send_alert();
        }
        read
    }

    /// Takes what TLS had decrypted before this half existed.
    fn take_decrypted(&mut self) {
        let mut state = self.writer.state.lock();
        if let Some(tls) = &mut state.tls {
            drain(tls, &mut self.inbox);
        }
    }

    fn next_message(&mut self) -> io::Result<Option<Filled>> {
        let Some(decoder) = &mut self.websocket else {
            return Ok(None);
        };
        // After an error nothing is left to decode, and nothing must be decoded.
        while !self.inbox.is_empty() {
            let (used, event) = decoder.decode(&self.inbox[self.decoded..]);
            self.decoded += used;
            let reply = match event {
                Ok(None) => {
                    buffers::give(&mut self.inbox);
                    self.decoded = 0;
                    return Ok(None);
                }
                Ok(Some(Event::Text(text))) => {
                    self.message = text;
                    return Ok(Some(Filled::Message));
                }
                Ok(Some(Event::Pong)) => continue,
                Ok(Some(Event::Ping(payload))) => payload,
                Ok(Some(Event::Close(code))) => {
                    self.writer.close(CloseKind::WsCode(code.unwrap_or(1000)));
                    self.stop_reading();
                    return Ok(Some(Filled::Eof));
                }
                Err(error) => {
                    // Where the stream has a last word, it is the one to close.
                    self.writer.state.lock().close_code = error.code();
                    if let WsError::Protocol(_) = error {
                        self.writer.close(CloseKind::AfterFlush);
                    }
                    self.stop_reading();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            let stream = &self.writer.stream;
            let mut state = self.writer.state.lock();
            state.append_raw(stream, |out| frame::control(out, frame::PONG, &reply));
            state.flush(stream);
        }
        Ok(None)
    }
}

impl Drop for WireReader {
    fn drop(&mut self) {
        self.writer.close(CloseKind::Abort);
    }
}

/// Feeds ciphertext to TLS. True once the peer has closed its side.
fn decrypt(tls: &mut Connection, mut ciphertext: &[u8], clear: &mut Vec<u8>) -> io::Result<bool> {
    let mut closed = false;
    while !ciphertext.is_empty() && !closed {
        closed = tls.read_tls(&mut ciphertext)? == 0;
        let state = tls
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        closed |= state.peer_has_closed();
        drain(tls, clear);
    }
    Ok(closed)
}

fn drain(tls: &mut Connection, clear: &mut Vec<u8>) {
    let mut reader = tls.reader();
    while let Ok(bytes) = reader.fill_buf() {
        let n = bytes.len();
        if n == 0 {
            return;
        }
        clear.extend_from_slice(bytes);
        reader.consume(n);
    }
}
