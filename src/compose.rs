//! Derives the settings of each tier from the configuration. Pure, except for reading certificates.

mod domains;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use sestina_certs::Role as CertRole;
use sestina_cluster::lease::LeaseTerms;
use sestina_config::{Config, Net, RedisMode, Secret};
use sestina_edge::limits::ConnLimitsConfig;
use sestina_edge::listen::{ListenConfig, ListenerConfig, ListenerKind, Networks};
use sestina_edge::tls::{CertFiles, TlsConfig};
use sestina_edge::transport::WireLimits;
use sestina_edge::{EdgeConfig, StreamLimits};
use sestina_proto as proto;
use sestina_router::config::{RouterConfig, RouterLimits};
use sestina_rpc::target::Target;
use sestina_rpc::{Cluster, MutualTls, Security, TlsFiles};
use sestina_runtime::memory;
use sestina_state::{RedisConfig, RedisIdentity, RedisTls};
use sestina_storage::StorageConfig;
use sestina_xmpp::sasl::Mechanism;
use sestina_xmpp::xml::Limits;

pub use domains::pipelines;
use domains::{modules, services};

/// The edge's socket queue is this many times the bytes that routers may have under way to one
/// session.
const CREDITS_IN_QUEUE: usize = 4;
/// Unsettled input of a session: room for this many of the largest stanzas.
const STANZAS_UNSETTLED: usize = 4;
/// Sessions may hold this fraction of the memory (1/n), unless the configuration sets it.
const HELD_OF_MEMORY: usize = 4;
/// Names of listeners, as in logs.
const HTTP: &str = "http";
const PLAINTEXT: &str = "c2s_plaintext";

/// A process of the cluster, with a new incarnation.
pub fn node(name: &str, role: proto::NodeRole, address: &str) -> proto::Node {
    proto::Node {
        name: name.to_owned(),
        // 0 means no process.
        incarnation: rand::random::<u64>().max(1),
        role: role.into(),
        address: address.to_owned(),
        draining: false,
        ..proto::Node::default()
    }
    .speaking(env!("CARGO_PKG_VERSION"))
}

/// `host:port` at which the other processes reach this one.
pub fn address(config: &Config) -> String {
    let listen = || config.cluster.listen.to_string();
    config.cluster.advertise.clone().unwrap_or_else(listen)
}

/// The cluster of this process; storage tells its id later.
pub fn cluster(config: &Config) -> Cluster {
    Cluster::new(&config.cluster.name)
}

/// The times of leases.
pub fn lease_terms(config: &Config) -> LeaseTerms {
    let every = *config.cluster.lease_renew;
    LeaseTerms {
        ttl: *config.cluster.lease_ttl,
        every,
        timeout: every.min(Duration::from_secs(1)),
        margin: *config.cluster.lease_margin,
    }
}

/// The bytes that routers may have under way to one session: given to the edge and not yet written.
fn session_credit(config: &Config) -> usize {
    (*config.edge.limits.output_queue / CREDITS_IN_QUEUE).max(1)
}

/// Settings of a router. `alone`: it is the only process, so no other process can hold copies.
pub fn router(config: &Config, alone: bool) -> RouterConfig {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    RouterConfig {
        services: services(config),
        workers: u16::try_from(config.router.workers)
            .unwrap_or(u16::MAX)
            .max(1),
        state_store: !alone,
        ack_settled: alone,
        sm_resume_max_s: u32::try_from(config.sm.resume_timeout.as_secs()).unwrap_or(u32::MAX),
        offline_limit: count(config.router.offline_limit),
        modules: modules(config),
        config_hash: config.config_hash(),
        limits: RouterLimits {
            room_history: config.router.muc_history,
            max_rooms_per_session: config.router.session_rooms,
            session_queue_bytes: *config.sm.max_queue,
            user_queue_bytes: *config.router.user_queue,
            slot_queue_bytes: *config.router.slot_queue,
            session_credit_bytes: session_credit(config),
            max_storage_backlog_bytes: *config.router.archive_buffer,
            lane_bytes: *config.router.edge_buffer,
            replica_commit_bytes: *config.redis.commit_bytes,
            ..RouterLimits::default()
        },
        ..RouterConfig::default()
    }
}

/// Settings of an edge of this name.
pub fn edge(config: &Config, name: &str) -> anyhow::Result<EdgeConfig> {
    let limits = &config.edge.limits;
    let hosts = config.host.iter().map(|host| sestina_edge::HostConfig {
        domain: host.domain.clone(),
        anonymous: host.anonymous,
        mechanisms: if host.anonymous {
            Vec::new()
        } else {
            host.mechanisms
                .iter()
                .filter_map(|name| Mechanism::parse(name))
                .collect()
        },
        muc_domains: vec![host.muc_domain()],
    });
    let mut edge = EdgeConfig::new(name, hosts.collect());
    edge.address = address(config);
    edge.config_hash = config.config_hash();
    edge.slots = services(config).hasher().clone();
    edge.listen = listen(config)?;
    // HTTP without TLS has this name; a proxy in front terminates TLS.
    edge.plaintext_listeners = vec![PLAINTEXT.to_owned(), HTTP.to_owned()];
    edge.before_login.xml.bytes = *limits.pre_auth_stanza;
    edge.after_login = StreamLimits {
        xml: Limits {
            bytes: *limits.stanza,
            depth: limits.depth,
            attributes: limits.attributes,
            ..Limits::default()
        },
        bytes_per_second: *limits.rate as u64,
        burst_bytes: *limits.burst as u64,
    };
    edge.login.time = *limits.auth_timeout;
    edge.login.tries = u32::try_from(limits.auth_attempts).unwrap_or(u32::MAX);
    edge.unsettled_bytes = edge.unsettled_bytes.max(*limits.stanza * STANZAS_UNSETTLED);
    edge.held_bytes = match *limits.held {
        0 => (memory::total() / HELD_OF_MEMORY).min(edge.held_bytes),
        bytes => bytes,
    };
    edge.session_credit = session_credit(config);
    edge.lanes = u32::try_from(config.cluster.lanes).unwrap_or(1);
    edge.lease.ttl = *config.cluster.lease_ttl;
    edge.lease.every = *config.cluster.lease_renew;
    edge.lease.margin = *config.cluster.lease_margin;
    // Half of the time for draining is for waiting on owners.
    edge.drain.over = edge.drain.over.min(*config.node.drain_timeout / 2);
    edge.drain.wait = edge.drain.wait.min(*config.node.drain_timeout / 2);
    Ok(edge)
}

fn listen(config: &Config) -> anyhow::Result<ListenConfig> {
    let edge = &config.edge;
    let proxies = networks(&edge.proxy_protocol)?;
    let listener = |name: &str, kind, addresses: &[std::net::SocketAddr]| {
        let mut listener = ListenerConfig::new(name, kind, addresses.to_vec());
        listener.proxy_protocol_from = proxies.clone();
        listener
    };
    let mut listeners = vec![
        listener("c2s", ListenerKind::StartTls, &edge.c2s),
        listener("c2s_tls", ListenerKind::DirectTls, &edge.c2s_tls),
        listener(PLAINTEXT, ListenerKind::StartTls, &edge.c2s_plaintext),
        listener(HTTP, ListenerKind::Http, &edge.http),
        listener("https", ListenerKind::Https, &edge.https),
    ];
    listeners.retain(|listener| !listener.addresses.is_empty());
    let mut listen = ListenConfig {
        listeners,
        limits: connections(config),
        wire: WireLimits {
            queue_bytes: *edge.limits.output_queue,
            message_bytes: *edge.limits.pre_auth_stanza,
        },
        ..ListenConfig::default()
    };
    listen.http.trusted_proxies = networks(&edge.trusted_proxies)?;
    Ok(listen)
}

fn connections(config: &Config) -> ConnLimitsConfig {
    let limits = &config.edge.limits;
    let unlimited = |n: usize| if n == 0 { usize::MAX } else { n };
    let per_address = unlimited(limits.connections_per_address);
    let rate = if limits.connection_rate == 0 {
        f64::MAX
    } else {
        limits.connection_rate as f64
    };
    let unauthenticated_per_address = match limits.connections_per_address {
        0 => usize::MAX,
        _ => unlimited(limits.unauthenticated_per_address),
    };
    ConnLimitsConfig {
        per_address,
        unauthenticated: unlimited(limits.unauthenticated),
        unauthenticated_per_address,
        rate_per_second: rate,
        burst: u32::try_from(per_address.max(limits.connection_rate)).unwrap_or(u32::MAX),
        ..ConnLimitsConfig::default()
    }
}

fn networks(list: &[Net]) -> anyhow::Result<Networks> {
    let texts: Vec<String> = list.iter().map(Net::to_string).collect();
    Ok(Networks::parse(&texts)?)
}

/// Certificates of the client listeners.
pub fn client_tls(config: &Config) -> TlsConfig {
    let mut certificates = Vec::new();
    if let (Some(cert), Some(key)) = (&config.edge.tls.certificate, &config.edge.tls.key) {
        certificates.push(CertFiles {
            option: "`edge.tls.certificate` and `edge.tls.key`".to_owned(),
            hosts: Vec::new(),
            cert: cert.clone(),
            key: key.clone(),
        });
    }
    for host in &config.host {
        if let (Some(cert), Some(key)) = (&host.certificate, &host.key) {
            let hosts = vec![host.domain.clone(), host.muc_domain()];
            certificates.push(CertFiles {
                option: format!("`certificate` and `key` of host {}", host.domain),
                hosts,
                cert: cert.clone(),
                key: key.clone(),
            });
        }
    }
    TlsConfig {
        certificates,
        domains: config.host.iter().map(|host| host.domain.clone()).collect(),
        data_dir: config.node.data_dir.clone(),
        ..TlsConfig::default()
    }
}

/// The option that names the database.
pub fn storage_option(config: &Config) -> &'static str {
    let storage = &config.storage;
    match (&storage.url_file, &storage.url) {
        (Some(_), _) => "`storage.url_file`",
        (None, Some(_)) => "`storage.url`",
        (None, None) => "`node.data_dir`",
    }
}

/// Settings of the database.
pub fn storage(config: &Config) -> StorageConfig {
    let storage = &config.storage;
    StorageConfig {
        cluster: config.cluster.name.clone(),
        pool_size: storage.connections,
        archive_pool_size: storage.archive_connections,
        query_pool_size: storage.query_connections,
        acquire_timeout: *storage.acquire_timeout,
        statement_timeout: *storage.statement_timeout,
        ..StorageConfig::new(config.storage_url().expose())
    }
}

/// Settings of Redis; none if live state stays in this process.
pub fn redis(config: &Config) -> anyhow::Result<Option<RedisConfig>> {
    let redis = &config.redis;
    let mode = match redis.mode {
        RedisMode::Memory => return Ok(None),
        RedisMode::Single => sestina_state::RedisMode::Single,
        RedisMode::Sentinel => sestina_state::RedisMode::Sentinel {
            master_name: redis.master_name.clone().unwrap_or_default(),
        },
        RedisMode::Cluster => sestina_state::RedisMode::Cluster,
    };
    let mut to = RedisConfig::new(mode, redis.urls.clone());
    to.username = redis.username.clone();
    to.password = redis
        .password
        .as_ref()
        .map(|password: &Secret| password.expose().to_owned());
    to.connect_timeout = *redis.connect_timeout;
    to.state_store_timeout = *redis.response_timeout;
    // A renewal that takes longer would come too late.
    to.lease_timeout = (*redis.response_timeout).min(*config.cluster.lease_renew / 2);
    to.tls = redis_tls(&redis.tls_ca, &redis.tls_certificate, &redis.tls_key)?;
    Ok(Some(to))
}

/// Reads the certificates for Redis now, so that errors in them show at the start and not at the
/// first connection.
fn redis_tls(
    ca: &Option<PathBuf>,
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
) -> anyhow::Result<Option<RedisTls>> {
    let mut tls = RedisTls::default();
    if let Some(ca) = ca {
        let name = ca.display().to_string();
        let pem = read("redis.tls_ca", ca)?;
        sestina_certs::parse_roots(&name, &pem).context("`redis.tls_ca`")?;
        tls.ca = Some(pem);
    }
    if let (Some(certificate), Some(key)) = (certificate, key) {
        let identity = RedisIdentity {
            certificate: read("redis.tls_certificate", certificate)?,
            key: read("redis.tls_key", key)?,
        };
        let names = (certificate.display(), key.display());
        sestina_certs::parse_identity(
            &names.0.to_string(),
            &identity.certificate,
            &names.1.to_string(),
            &identity.key,
        )
        .context("`redis.tls_certificate` and `redis.tls_key`")?;
        tls.identity = Some(identity);
    }
    Ok((tls != RedisTls::default()).then_some(tls))
}

fn read(key: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("`{key}`: cannot read {}", path.display()))
}

/// The protection of this process's connections to other tiers.
pub fn security(config: &Config) -> anyhow::Result<Security> {
    let cluster = &config.cluster;
    match (&cluster.tls_certificate, &cluster.tls_key, &cluster.tls_ca) {
        (Some(cert), Some(key), Some(ca)) => {
            let files = TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                ca: ca.clone(),
            };
            let tls = MutualTls::load(files)
                .context("`cluster.tls_certificate`, `cluster.tls_key` and `cluster.tls_ca`")?;
            Ok(Security::Mutual(tls))
        }
        _ => Ok(Security::Plaintext),
    }
}

/// Reads configured addresses of other processes.
pub fn targets(key: &str, list: &[String]) -> anyhow::Result<Vec<Target>> {
    list.iter()
        .map(|text| text.parse::<Target>().with_context(|| format!("`{key}`")))
        .collect()
}

/// Warns if this process's certificate lacks its role: other processes will refuse it.
pub fn check_own_certificate(security: &Security, role: CertRole) {
    let Security::Mutual(tls) = security else {
        return;
    };
    match sestina_certs::describe_der(&tls.leaf()) {
        Ok(info) if info.roles.contains(&role) => {}
        Ok(info) => tracing::error!(
            subject = info.subject,
            wanted = role.uri(),
            "the certificate of this process lacks its role, the others will refuse it; issue \
             one with `sestina certs node --role {}`",
            role.name()
        ),
        Err(error) => tracing::error!(%error, "the certificate of this process cannot be read"),
    }
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
