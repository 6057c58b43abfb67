//! Checks that a single value does not allow: combinations, and the options that each role needs.

mod domains;
mod ports;
mod redis;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::{ConfigError, ConfigErrors};
use crate::sections::{Config, RedisMode};
use crate::values::Secret;

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All tiers, in one process.
    Serve,
    /// The edge tier.
    Edge,
    /// The router tier.
    Router,
    /// The storage tier.
    Storage,
}

impl Role {
    /// Its name in commands, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Serve => "serve",
            Role::Edge => "edge",
            Role::Router => "router",
            Role::Storage => "storage",
        }
    }
}

/// RFC 6120 §13.12: no limit may be smaller than this.
const SMALLEST_STANZA_LIMIT: usize = 10_000;

#[derive(Default)]
struct Findings(Vec<ConfigError>);

impl Findings {
    fn require(&mut self, holds: bool, key: &str, reason: impl Into<String>) {
        if !holds {
            self.0.push(ConfigError::Invalid {
                key: key.to_owned(),
                reason: reason.into(),
            });
        }
    }

    fn pair(&mut self, key: &str, certificate: &Option<PathBuf>, private: &Option<PathBuf>) {
        self.require(
            certificate.is_some() == private.is_some(),
            key,
            "a certificate and its key are set together or not at all",
        );
    }

    fn end(self) -> Result<(), ConfigErrors> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(self.0))
        }
    }
}

/// Whether a cluster can have the name.
pub fn is_cluster_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    (1..=100).contains(&name.len()) && name.chars().all(allowed)
}

impl Config {
    /// Checks that the configuration suffices for a role.
    pub fn check(&self, role: Role) -> Result<(), ConfigErrors> {
        let mut found = Findings::default();
        let cluster = &self.cluster;
        if role != Role::Serve {
            found.require(
                cluster.plaintext || cluster.tls_ca.is_some(),
                "cluster.tls_ca",
                "set tls_ca, tls_certificate and tls_key, or plaintext = true if the network \
                 between the tiers is safe by itself",
            );
            let reachable = cluster
                .advertise
                .as_deref()
                .is_some_and(|a| !a.starts_with("0.0.0.0:"))
                && cluster
                    .advertise
                    .as_deref()
                    .is_some_and(|a| !a.starts_with("[::]:"));
            found.require(
                reachable,
                "cluster.advertise",
                "listening on all addresses, the process must be told by which host:port the \
                 others reach it",
            );
        }
        if role == Role::Edge {
            found.require(
                !cluster.routers.is_empty(),
                "cluster.routers",
                "an edge needs the host:port of at least one router",
            );
        }
        if role == Role::Router {
            found.require(
                !cluster.storages.is_empty(),
                "cluster.storages",
                "a router needs the host:port of at least one storage process",
            );
            found.require(
                self.redis.mode != RedisMode::Memory,
                "redis.mode",
                "routers share their live state in Redis: use single, sentinel or cluster",
            );
        }
        for (key, reason) in ports::taken_twice(&self.listeners(role)) {
            found.require(false, &key, reason);
        }
        found.end()
    }

    /// The checks for every role.
    pub(crate) fn check_values(&self) -> Result<(), ConfigErrors> {
        let mut found = Findings::default();
        domains::check(self, &mut found);
        self.check_edge(&mut found);
        self.check_stores(&mut found);
        self.check_cluster(&mut found);
        self.check_telemetry(&mut found);
        found.end()
    }

    fn check_edge(&self, found: &mut Findings) {
        let limits = &self.edge.limits;
        found.pair(
            "edge.tls.certificate",
            &self.edge.tls.certificate,
            &self.edge.tls.key,
        );
        found.require(
            *limits.pre_auth_stanza <= *limits.stanza,
            "edge.limits.pre_auth_stanza",
            "strangers may not send more than users: lower it to edge.limits.stanza",
        );
        found.require(
            *limits.pre_auth_stanza >= SMALLEST_STANZA_LIMIT,
            "edge.limits.pre_auth_stanza",
            format!("RFC 6120 allows no limit below {SMALLEST_STANZA_LIMIT} bytes"),
        );
        for (key, value) in [
            ("edge.limits.depth", limits.depth),
            ("edge.limits.attributes", limits.attributes),
            ("edge.limits.auth_attempts", limits.auth_attempts),
        ] {
            found.require(value > 0, key, "must be at least 1");
        }
        found.require(
            *limits.output_queue >= *limits.stanza,
            "edge.limits.output_queue",
            "must hold at least one stanza of edge.limits.stanza bytes",
        );
        found.require(
            *self.sm.max_queue >= *limits.stanza,
            "sm.max_queue",
            "must hold at least one stanza of edge.limits.stanza bytes",
        );
        found.require(
            *self.router.user_queue >= *self.sm.max_queue,
            "router.user_queue",
            "must hold at least the sm.max_queue bytes of one session",
        );
        found.require(
            *self.router.slot_queue >= *self.router.user_queue,
            "router.slot_queue",
            "must hold at least the router.user_queue bytes of one user",
        );
        found.require(
            *self.router.edge_buffer > 0,
            "router.edge_buffer",
            "with 0, no stanza would reach an edge",
        );
        found.require(
            self.router.session_rooms > 0,
            "router.session_rooms",
            "with 0, no session could enter a room",
        );
    }

    fn check_stores(&self, found: &mut Findings) {
        let storage = &self.storage;
        found.require(
            storage.connections > 0,
            "storage.connections",
            "must be at least 1",
        );
        found.require(
            storage.archive_connections > 0,
            "storage.archive_connections",
            "must be at least 1",
        );
        found.require(
            storage.query_connections > 0,
            "storage.query_connections",
            "must be at least 1",
        );
        let known = |url: &Secret| {
            ["postgres://", "postgresql://", "sqlite:"]
                .iter()
                .any(|s| url.expose().starts_with(s))
        };
        found.require(
            storage.url.as_ref().is_none_or(known),
            "storage.url",
            "must begin with postgres:// or sqlite:",
        );
        redis::check(&self.redis, found);
    }

    fn check_cluster(&self, found: &mut Findings) {
        let cluster = &self.cluster;
        found.require(
            is_cluster_name(&cluster.name),
            "cluster.name",
            "must have 1 to 100 letters, digits, dots, hyphens, underscores or slashes",
        );
        let files = [&cluster.tls_ca, &cluster.tls_certificate, &cluster.tls_key];
        let set = files.iter().filter(|file| file.is_some()).count();
        found.require(
            set == 0 || set == 3,
            "cluster.tls_ca",
            "tls_ca, tls_certificate and tls_key are set together or not at all",
        );
        found.require(
            set == 0 || !cluster.plaintext,
            "cluster.plaintext",
            "certificates are set as well; remove either them or plaintext = true",
        );
        found.require(
            (1..=64).contains(&cluster.lanes),
            "cluster.lanes",
            "must be from 1 to 64",
        );
        found.require(
            *cluster.lease_renew + *cluster.lease_margin < *cluster.lease_ttl
                && !cluster.lease_renew.is_zero(),
            "cluster.lease_ttl",
            "must be longer than lease_renew and lease_margin together, or no lease would ever \
             be fresh",
        );
    }

    fn check_telemetry(&self, found: &mut Findings) {
        let telemetry = &self.telemetry;
        found.require(
            (0.0..=1.0).contains(&telemetry.trace_ratio),
            "telemetry.trace_ratio",
            "must be from 0 to 1",
        );
        found.require(
            !telemetry.otlp_interval.is_zero(),
            "telemetry.otlp_interval",
            "must not be zero",
        );
        if let Some(endpoint) = &telemetry.otlp_endpoint {
            found.require(
                endpoint.starts_with("http://") || endpoint.starts_with("https://"),
                "telemetry.otlp_endpoint",
                "must begin with http:// or https://",
            );
            found.require(
                endpoint.starts_with("https://") == telemetry.otlp_ca.is_some(),
                "telemetry.otlp_ca",
                "goes with an https:// endpoint, and only with it",
            );
            found.require(
                !holds_password(endpoint),
                "telemetry.otlp_endpoint",
                "must not hold a password",
            );
        }
    }

    /// The addresses that a process of this role listens on, with their options.
    pub fn listeners(&self, role: Role) -> Vec<(&'static str, SocketAddr)> {
        let edge = &self.edge;
        let clients = [
            ("edge.c2s", &edge.c2s),
            ("edge.c2s_tls", &edge.c2s_tls),
            ("edge.c2s_plaintext", &edge.c2s_plaintext),
            ("edge.http", &edge.http),
            ("edge.https", &edge.https),
        ];
        let mut all = Vec::new();
        if matches!(role, Role::Serve | Role::Edge) {
            for (key, addresses) in clients {
                all.extend(addresses.iter().map(|address| (key, *address)));
            }
        }
        if role != Role::Serve {
            all.push(("cluster.listen", self.cluster.listen));
        }
        let metrics = self.telemetry.prometheus.iter();
        all.extend(metrics.map(|address| ("telemetry.prometheus", *address)));
        all
    }

    /// URL of the database, or the default one.
    pub fn storage_url(&self) -> Secret {
        self.storage.url.clone().unwrap_or_else(|| {
            Secret::new(format!(
                "sqlite:{}",
                self.node.data_dir.join("sestina.db").display()
            ))
        })
    }
}

/// Whether the part before an `@` in the authority of a URL holds a password.
fn holds_password(url: &str) -> bool {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    let authority = after.split(['/', '?']).next().unwrap_or(after);
    authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
