//! One loaded set of certificates.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sestina_certs::CertInfo;

use super::protocol::{Purpose, TlsVersions};
use super::tickets::{TicketKeys, Tickets};
use super::validity::{self, HostValidity};

/// One loaded set of certificates, with the configurations that use it. A connection keeps the
/// set that it began with, so that channel binding names the certificate the client was shown.
pub struct CertSet {
    configs: [Arc<ServerConfig>; Purpose::ALL.len()],
    hosts: Arc<Hosts>,
}

/// A certificate and the names that it answers for.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) info: CertInfo,
    /// As TLS writes them.
    pub(super) hosts: Vec<String>,
    pub(super) end_point: Vec<u8>,
}

/// The first entry is the default.
#[derive(Debug)]
struct Hosts(Vec<Entry>);

impl CertSet {
    /// `entries` holds at least one.
    pub(super) fn new(
        entries: Vec<Entry>,
        versions: TlsVersions,
        provider: &Arc<CryptoProvider>,
        tickets: &Arc<TicketKeys>,
    ) -> Result<Self, rustls::Error> {
        let hosts = Arc::new(Hosts(entries));
        // New certificates end old tickets: a resumed session would bind to the old ones.
        let end_points = hosts.0.iter().map(|entry| &entry.end_point[..]);
        let ticketer: Arc<dyn ProducesTickets> = Arc::new(Tickets::new(tickets, end_points));
        let build = |purpose: Purpose| -> Result<Arc<ServerConfig>, rustls::Error> {
            Self::config(purpose, versions, provider, &hosts, &ticketer)
        };
        let configs = [
            build(Purpose::StartTls)?,
            build(Purpose::DirectTls)?,
            build(Purpose::Https)?,
        ];
        Ok(Self { configs, hosts })
    }

    /// The configuration for handshakes of this kind.
    pub fn config_for(&self, purpose: Purpose) -> &Arc<ServerConfig> {
        &self.configs[purpose as usize]
    }

    /// `tls-server-end-point` of the certificate shown to a client that asked for this name.
    pub fn server_end_point(&self, sni: Option<&str>) -> Vec<u8> {
        self.hosts
            .find(sni)
            .map(|entry| entry.end_point.clone())
            .unwrap_or_default()
    }

    /// The certificates, the default first.
    pub fn certificates(&self) -> impl Iterator<Item = &CertInfo> {
        self.hosts.0.iter().map(|entry| &entry.info)
    }

    /// How each of these hosts is served at this time in Unix seconds.
    pub fn validity(&self, hosts: &[String], now: i64) -> Vec<HostValidity> {
        validity::of(&self.hosts.0, hosts, now)
    }

    fn config(
        purpose: Purpose,
        versions: TlsVersions,
        provider: &Arc<CryptoProvider>,
        hosts: &Arc<Hosts>,
        ticketer: &Arc<dyn ProducesTickets>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions.supported())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(hosts) as Arc<dyn ResolvesServerCert>);
        config.ignore_client_order = true;
        config.alpn_protocols = purpose.alpn();
        config.ticketer = Arc::clone(ticketer);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // Tickets are for a client that comes back once; a second would serve parallel connections.
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }
}

impl Hosts {
    /// Configured names first, then what the certificates say, then the default.
    fn find(&self, sni: Option<&str>) -> Option<&Entry> {
        find(&self.0, sni)
    }
}

pub(super) fn find<'a>(entries: &'a [Entry], sni: Option<&str>) -> Option<&'a Entry> {
    let named = sni.and_then(|name| {
        let asked = |entry: &&Entry| entry.hosts.iter().any(|h| h.eq_ignore_ascii_case(name));
        let mut all = entries.iter();
        all.find(asked)
            .or_else(|| entries.iter().find(|e| e.info.covers(name)))
    });
    named.or_else(|| entries.first())
}

impl ResolvesServerCert for Hosts {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
            .map(|entry| Arc::clone(&entry.key))
    }
}
