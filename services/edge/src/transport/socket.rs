//! The socket as rustls wants to see it: non-blocking reads and writes on a shared stream.

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Writes what the kernel takes now.
pub(super) struct NonBlocking<'a>(pub(super) &'a TcpStream);

impl io::Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what is there now; zero is the end of the peer's bytes.
///
/// A read that does not fill the buffer has emptied the socket: the next one waits for news, and
/// the system is not asked only to hear that there is nothing.
pub(super) fn read_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    let more = stream.try_io(Interest::READABLE, || {
        read = rustix::io::retry_on_intr(|| rustix::io::read(stream, &mut *buffer))?;
        if read == 0 || read == buffer.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    });
    match more {
        Err(error) if read == 0 => Err(error),
        _ => Ok(read),
    }
}

/// Ends one or both directions. A failure means that the peer ended them already.
pub(super) fn shutdown(stream: &TcpStream, how: rustix::net::Shutdown) {
    if let Err(error) = rustix::net::shutdown(stream, how) {
        tracing::trace!(%error, "socket was already shut down");
    }
}
