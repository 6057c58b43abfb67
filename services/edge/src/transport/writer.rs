//! The shared half: append from any thread, write without blocking.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::Connection;
use tokio::net::TcpStream;

use super::WireLimits;
use super::outbox::{Outbox, TraceContext};
use super::socket::{NonBlocking, shutdown};
use super::websocket::frame;
use crate::metrics::EdgeMetrics;

/// Ciphertext held for a socket that does not take it. What waits beyond that stays in clear, so
/// that later elements share its records.
const CIPHERTEXT_BYTES: usize = 64 << 10;

/// What a flush achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// All that was queued is with the kernel.
    Done,
    /// The socket is full. The reading half goes on when it has room.
    Blocked,
    /// The connection is gone, closing, or its queue overflowed.
    Closed,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseKind {
    /// What is queued is written, then the transport ends as its kind demands: a WebSocket close
    /// frame (1000, or what its client did wrong), TLS `close_notify`, TCP FIN.
    AfterFlush,
    /// At once. What is queued is lost.
    Abort,
    /// What is queued is written, then a WebSocket close frame with this code. On other
    /// transports the same as [`CloseKind::AfterFlush`].
    WsCode(u16),
    /// What is queued is written, then TCP FIN alone: a client with XEP-0198 sees a broken
    /// connection and resumes. Used for draining.
    Fin,
}

/// The shared half of a connection.
///
/// The closures that fill the queue run under the connection's lock: they only append.
pub struct WireWriter {
    pub(super) stream: TcpStream,
    pub(super) state: Mutex<State>,
    websocket: bool,
    created: Instant,
    /// When the client was heard last, in microseconds after `created`.
    heard: AtomicU64,
}

/// How far the end of the connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing asked for it.
    Open,
    /// It ends when the queue is empty; true: with TLS `close_notify`.
    WhenEmpty { notify: bool },
    /// Our direction is shut down.
    Shut,
    /// The connection failed, was aborted or overflowed.
    Dead,
}

pub(super) struct State {
    pub(super) tls: Option<Box<Connection>>,
    pub(super) outbox: Outbox,
    pub(super) end: End,
    /// A write met a full socket; the reader waits for room.
    pub(super) blocked: bool,
    pub(super) waker: Option<Waker>,
    /// With what a WebSocket is closed if nothing else is said.
    pub(super) close_code: u16,
    limit: usize,
    overflowed: bool,
}

impl WireWriter {
    pub(super) fn new(
        stream: TcpStream,
        tls: Option<Box<Connection>>,
        websocket: bool,
        limits: WireLimits,
    ) -> Self {
        let mut state = State {
            tls: None,
            outbox: Outbox::new(),
            end: End::Open,
            blocked: false,
            waker: None,
            close_code: 1000,
            limit: limits.queue_bytes,
            overflowed: false,
        };
        if let Some(tls) = tls {
            state.secure(tls);
        }
        Self {
            stream,
            state: Mutex::new(state),
            websocket,
            created: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    /// Queues one element (one WebSocket message). False if nothing was queued: the connection
    /// is closed or closing, or its queue would exceed its limit, which closes it.
    pub fn append(&self, fill: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.state.lock().append(
            &self.stream,
            self.websocket,
            None,
            TraceContext::default(),
            fill,
        )
    }

    /// The same for an element whose way to the kernel is to be known: see
    /// [`WireWriter::written`]. Numbers ascend.
    pub fn append_numbered(&self, number: u64, fill: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.append_passing(number, TraceContext::default(), fill)
    }

    /// The same for an element whose latency or trace ends when it is written.
    pub fn append_passing(
        &self,
        number: u64,
        trace_context: TraceContext,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        self.state.lock().append(
            &self.stream,
            self.websocket,
            Some(number),
            trace_context,
            fill,
        )
    }

    /// Counts what is written and what waits, from now on.
    pub fn measure(&self, metrics: Arc<dyn EdgeMetrics>) {
        self.state.lock().outbox.measure(metrics);
    }

    /// When the client was heard last (bytes of any kind came).
    pub fn heard_at(&self) -> Instant {
        self.created + Duration::from_micros(self.heard.load(Ordering::Relaxed))
    }

    /// Bytes came.
    pub(super) fn hear(&self) {
        let after = u64::try_from(self.created.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.heard.store(after, Ordering::Relaxed);
    }

    /// Tries to hand everything queued to the kernel, without blocking.
    pub fn flush(&self) -> Flush {
        self.state.lock().flush(&self.stream)
    }

    /// Appends and flushes under one lock.
    pub fn send(&self, number: Option<u64>, fill: impl FnOnce(&mut Vec<u8>)) -> Flush {
        let mut state = self.state.lock();
        state.append(
            &self.stream,
            self.websocket,
            number,
            TraceContext::default(),
            fill,
        );
        state.flush(&self.stream)
    }

    /// Sends what keeps middleboxes from forgetting the connection: a WebSocket ping, or one
    /// space on a stream (RFC 6120 §4.6.1).
    pub fn keepalive(&self) -> Flush {
        let mut state = self.state.lock();
        let websocket = self.websocket;
        state.append_raw(&self.stream, |out| {
            if websocket {
                frame::control(out, frame::PING, b"");
            } else {
                out.push(b' ');
            }
        });
        state.flush(&self.stream)
    }

    /// Bytes that the kernel did not take yet.
    pub fn queued_bytes(&self) -> usize {
        self.state.lock().outbox.len()
    }

    /// Highest number given to [`WireWriter::append_numbered`] whose element went to the kernel
    /// completely.
    pub fn written(&self) -> u64 {
        self.state.lock().outbox.written()
    }

    /// True when the queue met its limit, which closed the connection.
    pub fn overflowed(&self) -> bool {
        self.state.lock().overflowed
    }

    /// True once nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.state.lock().end != End::Open
    }

    /// Changes the bound of the queue.
    pub fn set_queue_limit(&self, bytes: usize) {
        self.state.lock().limit = bytes;
    }

    /// True for WebSocket, where each element is a message of its own (RFC 7395).
    pub fn is_websocket(&self) -> bool {
        self.websocket
    }

    /// Ends the connection. The first call decides how, except that an abort always works.
    pub fn close(&self, kind: CloseKind) {
        self.state.lock().close(&self.stream, self.websocket, kind);
    }
}

impl State {
    pub(super) fn secure(&mut self, mut tls: Box<Connection>) {
        tls.set_buffer_limit(Some(CIPHERTEXT_BYTES));
        self.tls = Some(tls);
    }

    pub(super) fn close(&mut self, stream: &TcpStream, websocket: bool, kind: CloseKind) {
        match (kind, self.end) {
            (_, End::Dead) => {}
            (CloseKind::Abort, _) => self.die(stream),
            (_, End::Open) => {
                if websocket && kind != CloseKind::Fin {
                    self.append_close(match kind {
                        CloseKind::WsCode(code) => code,
                        _ => self.close_code,
                    });
                }
                self.end = End::WhenEmpty {
                    notify: kind != CloseKind::Fin,
                };
                self.flush(stream);
                self.wake();
            }
            (_, End::WhenEmpty { .. } | End::Shut) => {}
        }
    }

    fn append(
        &mut self,
        stream: &TcpStream,
        websocket: bool,
        number: Option<u64>,
        trace_context: TraceContext,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if self.end != End::Open {
            return false;
        }
        let queued = if websocket {
            self.outbox.append_text(self.limit, fill)
        } else {
            self.outbox.append(self.limit, fill)
        };
        if !queued {
            self.overflow(stream);
        } else if let Some(number) = number {
            self.outbox.mark(number, trace_context);
        }
        queued
    }

    /// Queues bytes that are no element: control frames, white space.
    pub(super) fn append_raw(&mut self, stream: &TcpStream, fill: impl FnOnce(&mut Vec<u8>)) {
        if self.end == End::Open && !self.outbox.append(self.limit, fill) {
            self.overflow(stream);
        }
    }

    /// Queues the WebSocket close frame, once, whatever else waits.
    fn append_close(&mut self, code: u16) {
        let payload = code.to_be_bytes();
        self.outbox.append(usize::MAX, |out| {
            frame::control(out, frame::CLOSE, &payload)
        });
    }

    /// An element was lost, so nothing after it may be sent.
    fn overflow(&mut self, stream: &TcpStream) {
        self.overflowed = true;
        self.die(stream);
    }

    /// True while the reader must wait for room in the socket.
    pub(super) fn wants_write(&self) -> bool {
        self.end != End::Dead
            && (!self.outbox.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write()))
    }

    /// True while elements wait for a handshake, which writing cannot advance.
    pub(super) fn holds_for_handshake(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.is_handshaking() && !tls.wants_write())
    }

    pub(super) fn flush(&mut self, stream: &TcpStream) -> Flush {
        match self.end {
            End::Dead | End::Shut => return Flush::Closed,
            End::Open | End::WhenEmpty { .. } => {}
        }
        let pushed = self.push(stream);
        self.outbox.tell();
        match pushed {
            Ok(()) => {
                self.blocked = false;
                if let End::WhenEmpty { notify } = self.end {
                    return self.finish(stream, notify);
                }
                Flush::Done
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Later flushes need not wake the reader again: it waits for room already.
                if !std::mem::replace(&mut self.blocked, true) {
                    self.wake();
                }
                Flush::Blocked
            }
            Err(error) => {
                tracing::debug!(%error, "connection failed while writing");
                self.die(stream);
                Flush::Closed
            }
        }
    }

    /// The queue is empty and the connection is to end.
    fn finish(&mut self, stream: &TcpStream, notify: bool) -> Flush {
        if notify && let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.end = End::WhenEmpty { notify: false };
            return self.flush(stream);
        }
        shutdown(stream, rustix::net::Shutdown::Write);
        self.end = End::Shut;
        self.wake();
        Flush::Closed
    }

    fn push(&mut self, stream: &TcpStream) -> io::Result<()> {
        loop {
            match &mut self.tls {
                Some(tls) => {
                    while tls.wants_write() {
                        if tls.write_tls(&mut NonBlocking(stream))? == 0 {
                            return Err(io::ErrorKind::WriteZero.into());
                        }
                    }
                    self.outbox.sent();
                    if tls.is_handshaking() || self.outbox.is_empty() {
                        return Ok(());
                    }
                    let n = io::Write::write(&mut tls.writer(), self.outbox.waiting())?;
                    self.outbox.take(n);
                }
                None => {
                    if self.outbox.is_empty() {
                        return Ok(());
                    }
                    let n = stream.try_write(self.outbox.waiting())?;
                    if n == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    self.outbox.take(n);
                    self.outbox.sent();
                }
            }
        }
    }

    pub(super) fn die(&mut self, stream: &TcpStream) {
        self.end = End::Dead;
        self.blocked = false;
        self.outbox.clear();
        shutdown(stream, rustix::net::Shutdown::Both);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
