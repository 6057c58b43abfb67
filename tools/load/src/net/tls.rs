//! TLS settings: the trusted certificates, and the temporary certificate of the floor.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// The server certificates that the generator accepts.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those that chain to one of these certificates and have the right name, and these
    /// certificates themselves.
    Pem(Vec<CertificateDer<'static>>),
    /// Any: for load against a server whose certificate does not matter.
    Anything,
}

impl Trust {
    /// Certificates from a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn from_file(path: &Path) -> Result<Self> {
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .with_context(|| format!("cannot read certificates from {}", path.display()))?
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} is not a PEM file of certificates", path.display()))?;
        anyhow::ensure!(
            !certificates.is_empty(),
            "{} holds no certificate",
            path.display()
        );
        Ok(Self::Pem(certificates))
    }
}

/// Client settings shared by all connections to one server.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Settings with full handshakes only: a resumed TLS session would make logins look cheaper
    /// than first ones. `alpn` is offered when not empty.
    ///
    /// # Errors
    /// When no usable trust anchor is among the given certificates.
    pub fn new(trust: &Trust, alpn: &[&str]) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Anything => Arc::new(Believing(Arc::clone(&provider))),
            Trust::Pem(certificates) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates.iter().cloned());
                let chain =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                        .build()
                        .context("none of the given certificates can be a trust anchor")?;
                Arc::new(Pinning {
                    chain,
                    exact: certificates.clone(),
                })
            }
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("the crypto provider has no usable cipher suite")?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The same settings with a memory of its own for TLS sessions. A client that comes back resumes its TLS session, as
    /// browsers and most libraries do: neither side signs or checks a certificate then.
    #[must_use]
    pub fn with_memory(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(1);
        Self {
            config: Arc::new(config),
        }
    }

    /// A connection for `domain`, which is sent as SNI and checked against the certificate.
    ///
    /// # Errors
    /// When `domain` is no DNS name or address.
    pub fn connection(&self, domain: &str) -> Result<Connection> {
        let name = ServerName::try_from(domain.to_owned())
            .with_context(|| format!("'{domain}' cannot be a TLS server name"))?;
        Ok(Connection::Client(ClientConnection::new(
            Arc::clone(&self.config),
            name,
        )?))
    }
}

/// A self-signed ECDSA P-256 certificate for the floor.
///
/// # Errors
/// When the certificate cannot be made.
pub fn floor_config() -> Result<Arc<ServerConfig>> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?
        .self_signed(&key)
        .context("cannot sign the floor's certificate")?;
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| anyhow::anyhow!("the floor's key is not usable: {error}"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])?
    .with_no_client_auth()
    .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(Arc::new(config))
}

/// Accepts a certificate that is one of the given ones, and otherwise checks the chain.
#[derive(Debug)]
struct Pinning {
    chain: Arc<WebPkiServerVerifier>,
    exact: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinning {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.exact.iter().any(|known| known == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.chain
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts any certificate, but still checks that the server holds its key, so the work of a
/// handshake stays the same.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
