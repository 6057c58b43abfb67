//! The two roles of a TLS handshake, as the transport sees them.

use std::sync::Arc;

use rustls::Connection;

use super::handshake_limiter::HandshakeLimiter;
use super::set::CertSet;

/// A handshake that has begun.
pub struct Begun {
    /// The connection; its handshake is not complete.
    pub tls: Connection,
    /// The certificates that the handshake uses to its end; none for the client, which shows none.
    pub shown: Option<Arc<CertSet>>,
}

/// A role in TLS handshakes. The receiving entity of a stream is the TLS server
/// ([`Acceptor`](super::Acceptor)), the initiating entity the TLS client
/// ([`Connector`](super::Connector)) (RFC 6120 §5.4.3.1).
pub trait TlsRole {
    /// Begins a handshake.
    fn begin(&self) -> Result<Begun, rustls::Error>;

    /// Whose turn it is to work on a handshake.
    fn handshake_limiter(&self) -> &HandshakeLimiter;
}
