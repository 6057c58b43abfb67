//! What a listener needs to answer one handshake.

use std::sync::Arc;

use rustls::ServerConnection;

use super::pace::Pace;
use super::set::CertSet;
use super::store::CertStore;

/// Versions of TLS that are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// TLS 1.2 and 1.3 (RFC 7590, RFC 9325).
    #[default]
    From12,
    /// TLS 1.3 alone.
    Only13,
}

/// What is spoken under TLS; it decides the protocol names (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// XMPP after STARTTLS: no ALPN.
    StartTls = 0,
    /// XMPP from the first byte (XEP-0368): `xmpp-client`.
    DirectTls = 1,
    /// HTTP: `http/1.1`.
    Https = 2,
}

impl Purpose {
    pub(super) const ALL: [Self; 3] = [Self::StartTls, Self::DirectTls, Self::Https];

    pub(super) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::StartTls => Vec::new(),
            Self::DirectTls => vec![b"xmpp-client".to_vec()],
            Self::Https => vec![b"http/1.1".to_vec()],
        }
    }
}

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

    /// Whose turn it is, among all handshakes with certificates of this store.
    pub fn pace(&self) -> &Pace {
        self.store.pace()
    }

    /// What is spoken under TLS.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Begins a handshake. The set of certificates is the one that it will use to the end.
    pub fn begin(&self) -> Result<(ServerConnection, Arc<CertSet>), rustls::Error> {
        let set = self.current();
        let tls = ServerConnection::new(Arc::clone(set.config_for(self.purpose)))?;
        Ok((tls, set))
    }
}
