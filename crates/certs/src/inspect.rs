//! The content of a certificate: names, roles, and its end.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{CertError, Role};

/// The content of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertInfo {
    /// Distinguished name of the holder.
    pub subject: String,
    /// Distinguished name of the signer.
    pub issuer: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// DNS names in lower case, including wildcards.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// URI names.
    pub uris: Vec<String>,
    /// The cluster roles among the URI names.
    pub roles: Vec<Role>,
    /// It may sign other certificates.
    pub is_ca: bool,
    /// Unix seconds from which it is valid.
    pub not_before: i64,
    /// Unix seconds of its end.
    pub not_after: i64,
}

impl CertInfo {
    /// How long it is still valid; `None` once it has expired.
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(self.not_after.max(0) as u64);
        end.duration_since(now).ok().filter(|left| !left.is_zero())
    }

    /// Whether a DNS name of the certificate covers `domain` (RFC 6125 §6.4: a wildcard stands
    /// for exactly one label, the first). An internationalised domain may be in either form.
    pub fn covers(&self, domain: &str) -> bool {
        let domain = ascii_name(domain.trim_end_matches('.')).to_ascii_lowercase();
        self.dns_names.iter().any(|name| {
            *name == domain
                || name.strip_prefix("*.").is_some_and(|parent| {
                    domain
                        .split_once('.')
                        .is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
                })
        })
    }
}

/// A host name in the form of certificates and TLS: A-labels (RFC 6125 §6.4.2). A name without such
/// a form stays as it is.
pub fn ascii_name(name: &str) -> Cow<'_, str> {
    if name.is_ascii() {
        return Cow::Borrowed(name);
    }
    idna::domain_to_ascii(name).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// Describes the first certificate of a PEM text.
pub fn describe(pem: &[u8]) -> Result<CertInfo, CertError> {
    let der = CertificateDer::from_pem_slice(pem)
        .map_err(|e| CertError::content("certificate", format!("is not valid PEM: {e}")))?;
    describe_der(&der)
}

/// Describes one certificate.
pub fn describe_der(der: &[u8]) -> Result<CertInfo, CertError> {
    let broken = |e: String| {
        CertError::content(
            "certificate",
            format!("is not a valid X.509 certificate: {e}"),
        )
    };
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| broken(e.to_string()))?;
    let mut info = CertInfo {
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        serial: cert
            .raw_serial()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect(),
        dns_names: Vec::new(),
        ips: Vec::new(),
        uris: Vec::new(),
        roles: Vec::new(),
        is_ca: cert.is_ca(),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
    };
    let sans = cert
        .subject_alternative_name()
        .map_err(|e| broken(e.to_string()))?;
    for name in sans.iter().flat_map(|ext| &ext.value.general_names) {
        match name {
            GeneralName::DNSName(dns) => info.dns_names.push(dns.to_ascii_lowercase()),
            GeneralName::IPAddress(raw) => info.ips.extend(ip_of(raw)),
            GeneralName::URI(uri) => {
                info.roles.extend(Role::from_uri(uri));
                info.uris.push((*uri).to_owned());
            }
            _ => {}
        }
    }
    Ok(info)
}

fn ip_of(raw: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(raw) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(raw).ok().map(IpAddr::from)
}
