//! What an outgoing connection needs to begin one handshake.

use std::sync::Arc;

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, Connection, RootCertStore};
use sestina_certs::ascii_name;

use super::handshake_limiter::HandshakeLimiter;
use super::protocol::{Purpose, TlsVersions, provider};
use super::role::{Begun, TlsRole};

/// The configuration of handshakes as the client, of one purpose. Only the authorities among `roots`
/// are trusted; versions and cipher suites are those of an acceptor.
pub fn client_config(
    roots: RootCertStore,
    versions: TlsVersions,
    purpose: Purpose,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions.supported())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = purpose.alpn();
    Ok(Arc::new(config))
}

/// Begins handshakes with the servers of one domain. A handshake succeeds only if the server shows a
/// certificate of that domain (RFC 6120 §13.7.2.1), whatever address it was reached by.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    handshake_limiter: HandshakeLimiter,
}

impl Connector {
    /// A connector to that domain. `handshake_limiter` is the one of the acceptors: handshakes of
    /// both roles take turns.
    pub fn new(
        config: &Arc<ClientConfig>,
        domain: &str,
        handshake_limiter: &HandshakeLimiter,
    ) -> Result<Self, InvalidDnsNameError> {
        Ok(Self {
            config: Arc::clone(config),
            name: ServerName::try_from(ascii_name(domain).into_owned())?,
            handshake_limiter: handshake_limiter.clone(),
        })
    }
}

impl TlsRole for Connector {
    fn begin(&self) -> Result<Begun, rustls::Error> {
        let config = Arc::clone(&self.config);
        let tls = rustls::ClientConnection::new(config, self.name.clone())?;
        Ok(Begun {
            tls: Connection::Client(tls),
            shown: None,
        })
    }

    fn handshake_limiter(&self) -> &HandshakeLimiter {
        &self.handshake_limiter
    }
}
