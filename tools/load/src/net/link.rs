//! A TCP connection, with or without TLS, whose write side can be used from any task.
//!
//! A generator that holds thousands of connections in one core cannot afford to wake a task for
//! each message. So one task owns the read side of a connection ([`ReadSide`]), and any task writes
//! at once through the shared [`Link`]: encryption and one system call. A task that waits for the
//! socket exists only while the kernel's buffer is full.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// Bytes per read. One buffer per thread: idle connections hold none.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// The shared side of a connection: all operations except reading from the socket.
#[derive(Debug)]
pub struct Link {
    write: OwnedWriteHalf,
    state: Mutex<State>,
    abandoned: Notify,
}

#[derive(Debug)]
struct State {
    tls: Option<Box<Connection>>,
    /// Unencrypted bytes that the kernel has not taken yet.
    plain: Vec<u8>,
    /// A task is waiting for the socket to become writable.
    waiting: bool,
    closed: bool,
}

/// The side that reads; owned by one task.
#[derive(Debug)]
pub struct ReadSide {
    half: OwnedReadHalf,
    link: Arc<Link>,
    eof: bool,
}

/// Wraps a connected socket, and switches Nagle's delay off.
///
/// # Errors
/// When the socket refuses the option.
pub fn link(tcp: TcpStream) -> io::Result<(Arc<Link>, ReadSide)> {
    tcp.set_nodelay(true)?;
    let (half, write) = tcp.into_split();
    let link = Arc::new(Link {
        write,
        state: Mutex::new(State {
            tls: None,
            plain: Vec::new(),
            waiting: false,
            closed: false,
        }),
        abandoned: Notify::new(),
    });
    let reader = ReadSide {
        half,
        link: Arc::clone(&link),
        eof: false,
    };
    Ok((link, reader))
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts TLS on the connection. The handshake runs in [`ReadSide::handshake`].
    ///
    /// # Errors
    /// When the first flight cannot be written.
    pub fn start_tls(self: &Arc<Self>, mut tls: Connection) -> io::Result<()> {
        // The callers bound their bytes in flight; a limit here would only cause an unexpected
        // short write.
        tls.set_buffer_limit(None);
        self.state().tls = Some(Box::new(tls));
        self.flush()
    }

    /// Sends `bytes`: one TLS record (per 16 KiB) and one system call.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(self: &Arc<Self>, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        match &mut state.tls {
            Some(tls) => tls.writer().write_all(bytes)?,
            None => state.plain.extend_from_slice(bytes),
        }
        self.flush_locked(&mut state)
    }

    /// Sends the TLS close alert.
    pub fn close_notify(self: &Arc<Self>) {
        let mut state = self.state();
        if let Some(tls) = &mut state.tls {
            tls.send_close_notify();
        }
        // A peer that is gone needs no alert.
        drop(self.flush_locked(&mut state));
    }

    /// Whether the kernel's buffer is full, so that further bytes wait here.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.state().waiting
    }

    /// Gives the connection up: no more bytes are sent, and a task that waits to write ends.
    pub fn abandon(&self) {
        self.state().closed = true;
        self.abandoned.notify_waiters();
    }

    fn flush(self: &Arc<Self>) -> io::Result<()> {
        let mut state = self.state();
        self.flush_locked(&mut state)
    }

    fn flush_locked(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        match write_out(&self.write, state) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !state.waiting {
                    state.waiting = true;
                    tokio::spawn(Arc::clone(self).wait_and_flush());
                }
                Ok(())
            }
            Err(error) => {
                state.closed = true;
                Err(error)
            }
        }
    }

    /// Runs only while the kernel's send buffer is full.
    async fn wait_and_flush(self: Arc<Self>) {
        loop {
            let abandoned = self.abandoned.notified();
            if self.state().closed {
                return;
            }
            tokio::select! {
                ready = self.write.writable() => if ready.is_err() { return },
                () = abandoned => return,
            }
            let mut state = self.state();
            match write_out(&self.write, &mut state) {
                Ok(()) => {
                    state.waiting = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    // The reading task notices the end of the connection too, and reports it.
                    state.closed = true;
                    return;
                }
            }
        }
    }

    /// Passes bytes from the socket through TLS; the plain bytes are appended to `out`.
    fn take_in(
        self: &Arc<Self>,
        mut got: &[u8],
        out: &mut Vec<u8>,
        eof: &mut bool,
    ) -> io::Result<()> {
        let mut state = self.state();
        let Some(tls) = &mut state.tls else {
            out.extend_from_slice(got);
            return Ok(());
        };
        while !got.is_empty() {
            if tls.read_tls(&mut got)? == 0 {
                break;
            }
            match tls.process_new_packets() {
                Ok(io_state) => {
                    let n = io_state.plaintext_bytes_to_read();
                    if n > 0 {
                        let at = out.len();
                        out.resize(at + n, 0);
                        tls.reader().read_exact(&mut out[at..])?;
                    }
                    if io_state.peer_has_closed() {
                        *eof = true;
                        break;
                    }
                }
                Err(error) => {
                    // The alert tells the peer the reason; if it cannot be sent, the error stays
                    // the same.
                    drop(self.flush_locked(&mut state));
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        if tls.wants_write() {
            self.flush_locked(&mut state)
        } else {
            Ok(())
        }
    }

    fn handshaking(&self) -> bool {
        self.state()
            .tls
            .as_ref()
            .is_some_and(|tls| tls.is_handshaking())
    }
}

impl ReadSide {
    /// The shared side.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Reads at least one plain byte and appends to `out`; `0` is the end of the stream. No bytes
    /// are lost when the future is dropped.
    ///
    /// # Errors
    /// When the connection breaks or the peer violates TLS.
    pub async fn read(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        let before = out.len();
        while out.len() == before {
            if self.eof || !std::future::poll_fn(|cx| self.poll_chunk(cx, out)).await? {
                break;
            }
        }
        Ok(out.len() - before)
    }

    /// Completes the TLS handshake; data that came early is appended to `out`.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn handshake(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.link.handshaking() {
            if !std::future::poll_fn(|cx| self.poll_chunk(cx, out)).await? {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer closed the connection during the TLS handshake",
                ));
            }
        }
        Ok(())
    }

    /// One read from the socket; false at its end.
    fn poll_chunk(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.half).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                self.eof = true;
                return Poll::Ready(Ok(false));
            }
            self.link.take_in(buffer.filled(), out, &mut self.eof)?;
            Poll::Ready(Ok(true))
        })
    }
}

fn write_out(socket: &OwnedWriteHalf, state: &mut State) -> io::Result<()> {
    match &mut state.tls {
        Some(tls) => {
            while tls.wants_write() {
                tls.write_tls(&mut Try(socket))?;
            }
        }
        None => {
            while !state.plain.is_empty() {
                let n = socket.try_write(&state.plain)?;
                state.plain.drain(..n);
            }
        }
    }
    Ok(())
}

/// `Write` without waiting, for rustls.
struct Try<'a>(&'a OwnedWriteHalf);

impl Write for Try<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
