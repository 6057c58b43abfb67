//! Mutual TLS between tiers: one identity for both directions, exchangeable while running.
//!
//! TLS 1.3 only, ALPN `h2`, no resumption (connections live for days). New handshakes take the
//! newest certificate; connections that stand keep theirs.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use sestina_certs::{Identity, Role};

use crate::RpcError;

/// How the connections of this process to others are protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all: only where the configuration says so by name.
    Plaintext,
    /// Certificates of one private CA on both sides.
    Mutual(Arc<MutualTls>),
}

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This process's certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA certificates that peers are checked against.
    pub ca: PathBuf,
}

/// This process's certificate and the CA it trusts.
pub struct MutualTls {
    files: Option<TlsFiles>,
    current: ArcSwap<Current>,
}

struct Current {
    server: Arc<ServerConfig>,
    identity: Identity,
    roots: Arc<RootCertStore>,
}

impl std::fmt::Debug for MutualTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MutualTls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl MutualTls {
    /// Loads the files; [`MutualTls::reload`] reads them again.
    pub fn load(files: TlsFiles) -> Result<Arc<MutualTls>, RpcError> {
        let current = Current::read(&files)?;
        Ok(Arc::new(MutualTls {
            files: Some(files),
            current: ArcSwap::from_pointee(current),
        }))
    }

    /// From certificates in memory.
    pub fn new(identity: Identity, roots: RootCertStore) -> Result<Arc<MutualTls>, RpcError> {
        let current = Current::build(identity, roots)?;
        Ok(Arc::new(MutualTls {
            files: None,
            current: ArcSwap::from_pointee(current),
        }))
    }

    /// Reads the files again; if anything is wrong with them, what was loaded before stays.
    pub fn reload(&self) -> Result<(), RpcError> {
        if let Some(files) = &self.files {
            self.current.store(Arc::new(Current::read(files)?));
        }
        Ok(())
    }

    /// Exchanges the certificates for new handshakes.
    pub fn replace(&self, identity: Identity, roots: RootCertStore) -> Result<(), RpcError> {
        self.current
            .store(Arc::new(Current::build(identity, roots)?));
        Ok(())
    }

    /// This process's own certificate.
    pub fn leaf(&self) -> CertificateDer<'static> {
        self.current.load().identity.leaf().clone()
    }

    #[cfg(test)]
    pub(crate) fn identity(&self) -> Identity {
        self.current.load().identity.clone()
    }

    #[cfg(test)]
    pub(crate) fn roots(&self) -> RootCertStore {
        RootCertStore::clone(&self.current.load().roots)
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    pub(crate) fn client_config(&self, expect: &Expect) -> Result<Arc<ClientConfig>, RpcError> {
        let current = self.current.load();
        let provider = provider();
        let verifier = Arc::new(NodeVerifier {
            roots: Arc::clone(&current.roots),
            algorithms: provider.signature_verification_algorithms,
            expect: expect.clone(),
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(
                current.identity.chain.clone(),
                current.identity.key.clone_key(),
            )
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl Current {
    fn read(files: &TlsFiles) -> Result<Current, RpcError> {
        let identity = sestina_certs::load_identity(&files.cert, &files.key)?;
        Current::build(identity, sestina_certs::load_roots(&files.ca)?)
    }

    fn build(identity: Identity, roots: RootCertStore) -> Result<Current, RpcError> {
        let provider = provider();
        let roots = Arc::new(roots);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|e| RpcError::Tls(e.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(clients)
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(tls)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Current {
            server: Arc::new(server),
            identity,
            roots,
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn tls(error: rustls::Error) -> RpcError {
    RpcError::Tls(error.to_string())
}

/// Whom a dialler expects to find.
///
/// Every certificate of a cluster is issued by its private CA with a role in it. A configured
/// address (perhaps a name with many addresses behind it) is checked for the role; a node that the
/// slot map names is checked for its own name too.
#[derive(Clone, Debug)]
pub(crate) struct Expect {
    pub(crate) roles: Vec<Role>,
    /// Role and name are those of this one.
    pub(crate) node: Option<sestina_proto::Node>,
}

#[derive(Debug)]
struct NodeVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expect: Expect,
}

#[derive(thiserror::Error)]
#[error("the peer's certificate has the roles {found:?}, and one of {wanted:?} is expected")]
struct WrongRole {
    found: Vec<Role>,
    wanted: Vec<Role>,
}

#[derive(thiserror::Error)]
#[error("the peer's certificate has the DNS names {found:?}, and {wanted:?} is expected")]
struct WrongName {
    found: Vec<String>,
    wanted: String,
}

impl std::fmt::Debug for WrongName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The TLS library shows errors of others by their `Debug` form, which people then read in a log.
impl std::fmt::Debug for WrongRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let cert = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &cert,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let info = sestina_certs::describe_der(end_entity)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if let Some(node) = &self.expect.node
            && !crate::access::names(&info, node)
        {
            let wrong = WrongName {
                found: info.dns_names,
                wanted: node.name.clone(),
            };
            return Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(wrong)),
            )));
        }
        if !self
            .expect
            .roles
            .iter()
            .any(|role| info.roles.contains(role))
        {
            let wrong = WrongRole {
                found: info.roles,
                wanted: self.expect.roles.clone(),
            };
            return Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(wrong)),
            )));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
