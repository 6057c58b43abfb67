//! What can go wrong before anything is sent.

use std::net::SocketAddr;
use std::path::PathBuf;

use sestina_certs::CertError;

/// Why a listener, a certificate or an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The unix socket cannot be made.
    #[error("cannot listen on the unix socket {path}: {source}")]
    Socket {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process listens on that unix socket.
    #[error("another process listens on the unix socket {0}; stop it, or configure another path")]
    SocketTaken(PathBuf),
    /// An address does not read as one.
    #[error("{address:?} is not an address: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is expected.
        reason: String,
    },
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertError),
    /// TLS refuses the certificate, key or roots.
    #[error("mutual TLS cannot be set up: {0}")]
    Tls(String),
}

/// An error with all its causes, as one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Adds advice to an error that gives none. When the other side does not accept a certificate, the
/// error holds only the name of a TLS alert. (HTTP/2 keeps the text of the error that broke a
/// connection, not the error itself.)
pub(crate) fn advised(text: String) -> String {
    if text.contains("received fatal alert") {
        return format!(
            "{text}; the other side does not accept the certificate of this process: check \
             cluster.tls_certificate, and that both have the same authority in cluster.tls_ca"
        );
    }
    text
}
