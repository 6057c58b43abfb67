//! What both roles of a handshake share: versions, cipher suites, and what is spoken under TLS.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SupportedProtocolVersion};

/// Versions of TLS that are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// TLS 1.2 and 1.3 (RFC 7590, RFC 9325).
    #[default]
    From12,
    /// TLS 1.3 alone.
    Only13,
}

static FROM_12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static ONLY_13: [&SupportedProtocolVersion; 1] = [&TLS13];

impl TlsVersions {
    /// The newest first.
    pub(super) fn supported(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::From12 => &FROM_12,
            Self::Only13 => &ONLY_13,
        }
    }
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

/// The usual cipher suites, those with SHA-256 and AES-128 first: as strong as the curve that the
/// keys are agreed on, and the cheapest to set up, which counts when many clients come at once.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}
