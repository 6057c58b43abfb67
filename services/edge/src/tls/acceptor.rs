//! What a listener needs to answer one handshake.

use std::sync::Arc;

use rustls::{Connection, ServerConnection};

use super::handshake_limiter::HandshakeLimiter;
use super::protocol::Purpose;
use super::role::{Begun, TlsRole};
use super::set::CertSet;
use super::store::CertStore;

/// Answers handshakes of one kind with the certificates that are current.
#[derive(Clone)]
pub struct Acceptor {
    store: Arc<CertStore>,
    purpose: Purpose,
}

impl Acceptor {
    /// An acceptor over the store's current and future certificates.
    pub fn new(store: Arc<CertStore>, purpose: Purpose) -> Self {
        Self { store, purpose }
    }

    /// The certificates that a handshake beginning now uses.
    pub fn current(&self) -> Arc<CertSet> {
        self.store.current()
    }

    /// What is spoken under TLS.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }
}

impl TlsRole for Acceptor {
    /// The set of certificates is the one that the handshake will use to the end.
    fn begin(&self) -> Result<Begun, rustls::Error> {
        let set = self.current();
        let tls = ServerConnection::new(Arc::clone(set.config_for(self.purpose)))?;
        Ok(Begun {
            tls: Connection::Server(tls),
            shown: Some(set),
        })
    }

    /// Whose turn it is, among all handshakes with certificates of this store.
    fn handshake_limiter(&self) -> &HandshakeLimiter {
        self.store.handshake_limiter()
    }
}
