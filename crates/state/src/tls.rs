//! TLS to Redis: the certificates to use, and advice for the operator when one is refused.
//!
//! `rediss://` has the same meaning for one server, for sentinels and the master they name, and for
//! all nodes of a Redis Cluster, also those found by a redirection. Certificates are always
//! checked, including the names.

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, RedisError, RedisResult,
    TlsCertificates,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{AlertDescription, CertificateError, Error};

use crate::config::{RedisConfig, RedisConfigError};

/// The certificates for the TLS connections of this configuration; none without TLS.
pub(crate) fn certificates(
    config: &RedisConfig,
    addresses: &[ConnectionInfo],
) -> Result<Option<TlsCertificates>, RedisConfigError> {
    let encrypted = addresses.iter().filter(|info| speaks_tls(info)).count();
    if encrypted == 0 {
        return if config.tls.is_none() {
            Ok(None)
        } else {
            Err(RedisConfigError::TlsUnused)
        };
    }
    if encrypted < addresses.len() {
        return Err(RedisConfigError::Mixed);
    }
    // The redis crate uses the default provider of the process. It is set here, so that the choice
    // does not depend on other crates; a provider that is set already stays.
    if CryptoProvider::get_default().is_none() {
        aws_lc_rs::default_provider().install_default().ok();
    }
    let tls = config.tls.clone().unwrap_or_default();
    Ok(Some(TlsCertificates {
        client_tls: tls.identity.map(|identity| ClientTlsConfig {
            client_cert: identity.certificate,
            client_key: identity.key,
        }),
        root_cert: tls.ca,
    }))
}

/// A client for this address, with the certificates if the address uses TLS.
pub(crate) fn client(
    info: ConnectionInfo,
    certificates: Option<&TlsCertificates>,
) -> RedisResult<Client> {
    match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        None => Client::open(info),
    }
}

/// Whether this is a `rediss://` address.
pub(crate) fn speaks_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

/// Whether this address disables the checks of certificates (`#insecure`).
pub(crate) fn unchecked(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. })
}

/// The error, with advice if it is about certificates.
pub(crate) fn explain(error: &RedisError) -> String {
    let text = error.to_string();
    match advice(&text) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// Chosen by the text: a Redis Cluster's connection reports the errors of its nodes as text only.
fn advice(text: &str) -> Option<&'static str> {
    let invalid = |error| Error::InvalidCertificate(error).to_string();
    let alert = |alert| Error::AlertReceived(alert).to_string();
    let cases = [
        (invalid(CertificateError::UnknownIssuer), UNKNOWN_AUTHORITY),
        // The reason if the authority has the right name and another key.
        (invalid(CertificateError::BadSignature), UNKNOWN_AUTHORITY),
        // rustls has a second text for this error, with the names.
        (NOT_VALID_FOR_NAME.to_owned(), WRONG_NAME),
        (invalid(CertificateError::NotValidForName), WRONG_NAME),
        (
            alert(AlertDescription::CertificateRequired),
            "redis asks its clients for a certificate: set redis.tls_certificate and redis.tls_key",
        ),
        (
            alert(AlertDescription::UnknownCA),
            "redis does not know the authority that has signed redis.tls_certificate; see its \
             tls-ca-cert-file",
        ),
    ];
    cases
        .into_iter()
        .find(|(sign, _)| text.contains(sign))
        .map(|(_, advice)| advice)
}

const UNKNOWN_AUTHORITY: &str = "set redis.tls_ca to the authority that has signed redis's \
     certificate (unset, the system's trust store decides)";
const NOT_VALID_FOR_NAME: &str = "certificate not valid for name";
const WRONG_NAME: &str = "redis's certificate must hold the name or address by which redis is \
     reached, here and as sentinels and other nodes announce it";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{RedisIdentity, RedisMode, RedisTls};

    fn made(mode: RedisMode, urls: &[&str], tls: Option<RedisTls>) -> Result<bool, String> {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        let mut config = RedisConfig::new(mode, urls);
        config.tls = tls;
        let made = config
            .addresses()
            .and_then(|addresses| certificates(&config, &addresses));
        made.map(|certificates| certificates.is_some())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn tls_is_for_all_addresses_or_for_none() {
        let cluster = |urls: &[&str], tls| made(RedisMode::Cluster, urls, tls);
        assert_eq!(cluster(&["redis://a", "redis://b"], None), Ok(false));
        assert_eq!(cluster(&["rediss://a", "rediss://b"], None), Ok(true));
        let error = cluster(&["redis://a", "rediss://b"], None).unwrap_err();
        assert!(error.contains("mixed"), "{error}");
        let error = cluster(&["redis://a"], Some(RedisTls::default())).unwrap_err();
        assert!(error.contains("rediss://"), "{error}");
        assert!(CryptoProvider::get_default().is_some());
    }

    #[test]
    fn checks_cannot_be_switched_off() {
        let url = "rediss://u:hunter2@a:6379/#insecure";
        let error = made(RedisMode::Single, &[url], None).unwrap_err();
        assert!(
            error.contains("#insecure") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn refused_certificates_come_with_advice() {
        let told = |error: Error| {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            explain(&RedisError::from(error))
        };
        let alert = |alert| told(Error::AlertReceived(alert));
        let asked = alert(AlertDescription::CertificateRequired);
        assert!(asked.contains("set redis.tls_certificate"), "{asked}");
        let unknown = alert(AlertDescription::UnknownCA);
        assert!(unknown.contains("signed redis.tls_certificate"));
        let invalid = |error| told(Error::InvalidCertificate(error));
        assert!(invalid(CertificateError::UnknownIssuer).contains("set redis.tls_ca"));
        assert!(invalid(CertificateError::NotValidForName).contains("must hold the name"));
        assert!(!invalid(CertificateError::Expired).contains(';'));
    }

    #[test]
    fn keys_are_not_printed() {
        let mut config = RedisConfig::single("rediss://a");
        config.tls = Some(RedisTls {
            ca: None,
            identity: Some(RedisIdentity {
                certificate: b"certificate".to_vec(),
                key: b"hunter2".to_vec(),
            }),
        });
        let bytes = format!("{:?}", b"hunter2");
        for text in [format!("{config:?}"), format!("{:?}", config.tls)] {
            assert!(
                !text.contains("hunter2") && !text.contains(&bytes),
                "{text}"
            );
        }
    }
}
