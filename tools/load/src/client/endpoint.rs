//! The address and transport of a server.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::net::tls::{TlsClient, Trust};

/// The transport of the XML stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP, encrypted after `<starttls/>`.
    Starttls,
    /// TLS from the first byte.
    DirectTls,
    /// WebSocket over HTTPS.
    Wss,
    /// WebSocket over HTTP.
    Ws,
    /// TCP without encryption: only for listeners on loopback.
    Tcp,
}

impl Transport {
    /// Whether elements are WebSocket messages.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Wss | Self::Ws)
    }
}

/// The trusted certificates.
#[derive(Debug, Clone, Default, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct TrustOptions {
    /// PEM file with trusted certificate authorities, or with the server's own certificate.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Accept any certificate.
    #[arg(long)]
    pub insecure: bool,
}

impl TrustOptions {
    /// Loads the trusted certificates.
    ///
    /// # Errors
    /// When neither or both are given, or the file is unusable.
    pub fn load(&self) -> Result<Trust> {
        match (&self.ca, self.insecure) {
            (Some(path), false) => Trust::from_file(path),
            (None, true) => Ok(Trust::Anything),
            (Some(_), true) => anyhow::bail!("'ca' and 'insecure' exclude each other"),
            (None, false) => anyhow::bail!(
                "no certificate to believe: give 'ca' (a PEM file) or 'insecure' to believe any"
            ),
        }
    }
}

/// One host, and its transport.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The XMPP domain.
    pub domain: String,
    /// The transport of the stream.
    pub transport: Transport,
    /// The path of WebSocket requests.
    pub path: String,
    /// TLS settings.
    pub tls: TlsClient,
}

impl Endpoint {
    /// An endpoint with the usual WebSocket path.
    ///
    /// # Errors
    /// When the certificates are unusable.
    pub fn new(domain: &str, transport: Transport, trust: &Trust) -> Result<Self> {
        let alpn: &[&str] = if transport == Transport::DirectTls {
            &["xmpp-client"]
        } else {
            &[]
        };
        Ok(Self {
            domain: domain.to_owned(),
            transport,
            path: "/xmpp-websocket".to_owned(),
            tls: TlsClient::new(trust, alpn)?,
        })
    }

    /// The endpoint for one client that comes back: see [`TlsClient::with_memory`].
    #[must_use]
    pub fn with_memory(&self) -> Self {
        Self {
            tls: self.tls.with_memory(),
            ..self.clone()
        }
    }
}
