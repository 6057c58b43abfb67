//! PEM to rustls types; errors name the file and the reason.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::CertError;

/// A certificate chain with the key that belongs to its first certificate.
#[derive(Debug)]
pub struct Identity {
    /// End-entity certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// The end-entity certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        // Both constructors of an identity refuse an empty chain.
        &self.chain[0]
    }

    /// The form for rustls resolvers.
    pub fn certified_key(&self) -> Result<Arc<CertifiedKey>, CertError> {
        certified(&self.chain, &self.key, "certificate").map(Arc::new)
    }
}

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Loads a chain and its key from PEM files and proves that they belong together.
pub fn load_identity(cert: &Path, key: &Path) -> Result<Identity, CertError> {
    let cert_pem = std::fs::read(cert).map_err(|e| CertError::io("read", cert, e))?;
    let key_pem = std::fs::read(key).map_err(|e| CertError::io("read", key, e))?;
    let (cert_name, key_name) = (cert.display().to_string(), key.display().to_string());
    parse_identity(&cert_name, &cert_pem, &key_name, &key_pem)
}

/// Like [`load_identity`], from text; the names are used in errors.
pub fn parse_identity(
    cert_name: &str,
    cert_pem: &[u8],
    key_name: &str,
    key_pem: &[u8],
) -> Result<Identity, CertError> {
    let chain = certificates(cert_name, cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| {
        let reason = match e {
            PemError::NoItemsFound => {
                "holds no private key; expected a PEM section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY, not encrypted"
                    .to_owned()
            }
            other => format!("is not valid PEM: {other}"),
        };
        CertError::content(key_name, reason)
    })?;
    let certified = certified(&chain, &key, key_name)?;
    certified.keys_match().map_err(|e| {
        let reason = match e {
            rustls::Error::InconsistentKeys(_) => {
                format!("the key does not belong to the first certificate in {cert_name}")
            }
            other => format!("the certificate cannot be used: {other}"),
        };
        CertError::content(key_name, reason)
    })?;
    Ok(Identity { chain, key })
}

/// Loads the CA certificates that peers are checked against.
pub fn load_roots(path: &Path) -> Result<RootCertStore, CertError> {
    let pem = std::fs::read(path).map_err(|e| CertError::io("read", path, e))?;
    parse_roots(&path.display().to_string(), &pem)
}

/// Like [`load_roots`], from text; the name is used in errors.
pub fn parse_roots(name: &str, pem: &[u8]) -> Result<RootCertStore, CertError> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(name, pem)? {
        roots.add(cert).map_err(|e| {
            CertError::content(
                name,
                format!("holds a certificate that cannot be a root: {e}"),
            )
        })?;
    }
    Ok(roots)
}

fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let certs = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| CertError::content(name, format!("is not valid PEM: {e}")))?;
    if certs.is_empty() {
        return Err(CertError::content(
            name,
            "holds no certificate; expected PEM sections BEGIN CERTIFICATE, the server's own first",
        ));
    }
    Ok(certs)
}

fn certified(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    name: &str,
) -> Result<CertifiedKey, CertError> {
    let signer = aws_lc_rs::sign::any_supported_type(key).map_err(|e| {
        CertError::content(name, format!("the private key cannot be used (ECDSA P-256/P-384, Ed25519 and RSA of 2048 bits or more are supported): {e}"))
    })?;
    Ok(CertifiedKey::new(chain.to_vec(), signer))
}
