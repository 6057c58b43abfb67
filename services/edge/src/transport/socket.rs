//! The socket as rustls wants to see it: non-blocking reads and writes on a shared stream.

use std::io;

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
pub(super) fn read_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    stream.try_read(buffer)
}

/// Ends one or both directions. A failure means that the peer ended them already.
pub(super) fn shutdown(stream: &TcpStream, how: rustix::net::Shutdown) {
    if let Err(error) = rustix::net::shutdown(stream, how) {
        tracing::trace!(%error, "socket was already shut down");
    }
}
