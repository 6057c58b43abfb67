//! Hosts and limits of the sandbox, the same in every topology.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sestina_edge::listen::{ListenerConfig, ListenerKind};
use sestina_edge::tls::{CertStore, TlsConfig};
use sestina_edge::{Edge, EdgeConfig};
use sestina_router::config::{HostConfig, RouterConfig};

use super::EdgeAddress;

/// The host with accounts.
pub const HOST: &str = "example.org";
/// Its rooms.
pub const ROOMS: &str = "rooms.example.org";
/// The host for everyone.
pub const ANONYMOUS: &str = "guest.example.org";
/// Rooms of the host for everyone.
const ANONYMOUS_ROOMS: &str = "rooms.guest.example.org";

const LISTENERS: [(&str, ListenerKind); 3] = [
    ("start-tls", ListenerKind::StartTls),
    ("tls", ListenerKind::DirectTls),
    ("websocket", ListenerKind::Https),
];

/// Bytes that a client is sent before it has to acknowledge some.
const CREDIT: usize = 128 << 10;

pub(super) fn router_config() -> RouterConfig {
    RouterConfig {
        hosts: vec![
            HostConfig {
                domain: HOST.to_owned(),
                anonymous: false,
                accounts: true,
                muc: ROOMS.to_owned(),
            },
            HostConfig {
                domain: ANONYMOUS.to_owned(),
                anonymous: true,
                accounts: false,
                muc: ANONYMOUS_ROOMS.to_owned(),
            },
        ],
        scram_iterations: 4096,
        workers: 2,
        // Few enough to be reached.
        offline_limit: 8,
        session_queue_bytes: 1 << 20,
        session_credit_bytes: CREDIT,
        ..RouterConfig::default()
    }
}

pub(super) fn edge_config(name: &str) -> EdgeConfig {
    let mut host = sestina_edge::HostConfig::new(HOST);
    host.muc_domains = vec![ROOMS.to_owned()];
    let hosts = vec![
        host,
        sestina_edge::HostConfig::anonymous(ANONYMOUS, ANONYMOUS_ROOMS),
    ];
    let mut config = EdgeConfig::new(name, hosts);
    config.session_credit = CREDIT;
    config.login_delay = Duration::from_millis(10);
    config.drain_over = Duration::from_millis(100);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.listen.listeners = LISTENERS
        .into_iter()
        .map(|(name, kind)| ListenerConfig::new(name, kind, vec![any]))
        .collect();
    // All clients of a test come from one address.
    config.listen.limits.per_address = 10_000;
    config.listen.limits.rate_per_second = 10_000.0;
    config.listen.limits.burst = 10_000;
    config
}

/// The certificates of the client listeners, made in that folder by whoever is first.
pub(super) fn certificates(folder: &Path) -> Result<Arc<CertStore>> {
    let config = TlsConfig {
        domains: vec![HOST.to_owned(), ANONYMOUS.to_owned()],
        data_dir: folder.to_owned(),
        ..TlsConfig::default()
    };
    Ok(CertStore::open(&config)?)
}

/// What [`certificates`] made.
pub(super) fn certificate(folder: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(folder.join("tls/self-signed.crt"))?)
}

pub(super) fn address_of(edge: &Edge) -> Result<EdgeAddress> {
    let find = |name: &str| {
        let found = edge.addresses().iter().find(|(n, _)| **n == *name);
        found.map(|(_, at)| *at).context("a listener is missing")
    };
    Ok(EdgeAddress {
        start_tls: find(LISTENERS[0].0)?,
        tls: find(LISTENERS[1].0)?,
        websocket: find(LISTENERS[2].0)?,
    })
}
