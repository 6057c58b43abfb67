//! Hosts and limits of the sandbox, the same in every topology.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sestina_config::Config;
use sestina_config::modules::ModulesAt;
use sestina_edge::listen::{ListenerConfig, ListenerKind};
use sestina_edge::tls::{CertStore, TlsConfig};
use sestina_edge::{Edge, EdgeConfig};
use sestina_router::config::{RouterConfig, RouterLimits};
use sestina_router::services::Services;

use super::EdgeAddress;

/// The host with accounts.
pub const HOST: &str = "example.org";
/// Its rooms.
pub const ROOMS: &str = "rooms.example.org";
/// More rooms of that host: each shares the slot of the room with its name at [`ROOMS`].
const LOBBY: &str = "lobby.example.org";
/// The host with anonymous logins.
pub const ANONYMOUS: &str = "guest.example.org";
/// The rooms of that host.
const ANONYMOUS_ROOMS: &str = "rooms.guest.example.org";

const LISTENERS: [(&str, ListenerKind); 3] = [
    ("start-tls", ListenerKind::StartTls),
    ("tls", ListenerKind::DirectTls),
    ("websocket", ListenerKind::Https),
];

/// Bytes that are sent to a client before it must acknowledge some.
const CREDIT: usize = 128 << 10;

/// The modules of the hosts: [`HOST`] has a limit that a test can reach, and [`ANONYMOUS`] lacks two modules.
fn modules() -> Result<BTreeMap<String, ModulesAt>> {
    let text = format!(
        "[[host]]\ndomain = {HOST:?}\nmuc = {ROOMS:?}\n\
         [host.modules.blocking]\nmax_list_bytes = 512\n\
         [[host]]\ndomain = {ANONYMOUS:?}\nmuc = {ANONYMOUS_ROOMS:?}\n\
         [host.modules]\ndisabled = [\"blocking\", \"version\"]\n\
         [[rooms]]\ndomain = {LOBBY:?}\n"
    );
    let config = Config::read(&sestina_router::modules::declared(), &text)?;
    Ok(config.modules.at().clone())
}

fn services() -> Services {
    Services::default()
        .with_host(HOST, true)
        .with_rooms(ROOMS, [HOST])
        .with_rooms(LOBBY, [])
        .with_slots_of(LOBBY, ROOMS)
        .with_host(ANONYMOUS, false)
        .with_rooms(ANONYMOUS_ROOMS, [ANONYMOUS])
}

pub(super) fn router_config() -> Result<RouterConfig> {
    Ok(RouterConfig {
        services: services(),
        modules: modules()?,
        scram_iterations: 4096,
        workers: 2,
        // Low enough for tests to reach it.
        offline_limit: 8,
        limits: RouterLimits {
            session_queue_bytes: 1 << 20,
            session_credit_bytes: CREDIT,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    })
}

pub(super) fn edge_config(name: &str) -> EdgeConfig {
    let mut host = sestina_edge::HostConfig::new(HOST);
    host.muc_domains = vec![ROOMS.to_owned()];
    let hosts = vec![
        host,
        sestina_edge::HostConfig::anonymous(ANONYMOUS, ANONYMOUS_ROOMS),
    ];
    let mut config = EdgeConfig::new(name, hosts);
    config.slots = services().hasher().clone();
    config.session_credit = CREDIT;
    config.login.delay = Duration::from_millis(10);
    config.drain.over = Duration::from_millis(100);
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

/// The certificates of the client listeners, made in that folder by the first caller.
pub(super) fn certificates(folder: &Path) -> Result<Arc<CertStore>> {
    let config = TlsConfig {
        domains: vec![HOST.to_owned(), ANONYMOUS.to_owned()],
        data_dir: folder.to_owned(),
        ..TlsConfig::default()
    };
    Ok(CertStore::open(&config)?)
}

/// The certificate that [`certificates`] made.
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
