//! The addresses of Redis and the time limits of its calls.

use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::tls;

/// The kind of servers at the configured addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Single,
    /// Sentinels that know the master under this name.
    Sentinel {
        /// The master's name.
        master_name: String,
    },
    /// Nodes of a Redis Cluster.
    Cluster,
}

/// How to reach Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// The kind of servers at `urls`.
    pub mode: RedisMode,
    /// `redis://[user:password@]host:port[/database]`, or `rediss://` for TLS, the same for all:
    /// the server, the sentinels, or some nodes of the cluster.
    pub urls: Vec<String>,
    /// Certificates for TLS; none: the system's trust store, and no client certificate.
    pub tls: Option<RedisTls>,
    /// User name on the data servers, if the URLs have none (or name sentinels).
    pub username: Option<String>,
    /// Password on the data servers, under the same condition.
    pub password: Option<String>,
    /// Database on a master behind sentinels.
    pub database: i64,
    /// The prefix of all keys: clusters that share a Redis have different prefixes.
    pub prefix: String,
    /// How long one call of the state store may take.
    pub state_store_timeout: Duration,
    /// How long one call about leases may take.
    pub lease_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// Certificates for `rediss://` addresses, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The authority that has signed Redis's certificates; none: those of the system's trust store.
    pub ca: Option<Vec<u8>>,
    /// The certificate for servers that ask clients for one.
    pub identity: Option<RedisIdentity>,
}

/// A certificate and its private key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisIdentity {
    /// The certificate (chain).
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for RedisIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log.
        f.debug_struct("RedisIdentity").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // URLs may hold passwords.
        f.debug_struct("RedisConfig")
            .field("mode", &self.mode)
            .field("urls", &self.urls.len())
            .field("tls", &self.tls.is_some())
            .field("database", &self.database)
            .field("prefix", &self.prefix)
            .field("state_store_timeout", &self.state_store_timeout)
            .field("lease_timeout", &self.lease_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// A configuration that no connection can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisConfigError {
    /// The list of addresses is empty.
    #[error("no redis url is configured; name at least one")]
    NoUrl,
    /// An address is invalid. The error gives its number only, since the address may hold a
    /// password.
    #[error(
        "redis url number {number} is not usable: {reason}; write redis://host:port or rediss://host:port"
    )]
    Url {
        /// The number of the address, from 1.
        number: usize,
        /// The reason.
        reason: String,
    },
    /// More than one address for a single server.
    #[error(
        "{0} redis urls are configured for a single server; name one, or choose sentinel or cluster"
    )]
    TooMany(usize),
    /// Some addresses are with TLS, some without.
    #[error("redis:// and rediss:// addresses are mixed; write all of them with TLS or none")]
    Mixed,
    /// An address disables the checks of certificates.
    #[error(
        "redis url number {0} ends in #insecure; certificates are always checked, so remove it \
         and name the authority that has signed redis's certificate"
    )]
    Unchecked(usize),
    /// Certificates, but no address with TLS.
    #[error(
        "certificates for redis are configured, but no rediss:// address; write rediss://host:port"
    )]
    TlsUnused,
    /// The redis crate refuses the configuration: certificates that cannot be read, or credentials
    /// that differ.
    #[error("redis cannot be used as configured: {0}")]
    Unusable(String),
}

impl RedisConfig {
    /// With default timeouts.
    pub fn new(mode: RedisMode, urls: Vec<String>) -> RedisConfig {
        RedisConfig {
            mode,
            urls,
            tls: None,
            username: None,
            password: None,
            database: 0,
            prefix: String::new(),
            state_store_timeout: Duration::from_millis(800),
            lease_timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(1),
        }
    }

    /// One server.
    pub fn single(url: impl Into<String>) -> RedisConfig {
        RedisConfig::new(RedisMode::Single, vec![url.into()])
    }

    /// Sentinels.
    pub fn sentinel(master_name: impl Into<String>, urls: Vec<String>) -> RedisConfig {
        RedisConfig::new(
            RedisMode::Sentinel {
                master_name: master_name.into(),
            },
            urls,
        )
    }

    /// A Redis Cluster.
    pub fn cluster(urls: Vec<String>) -> RedisConfig {
        RedisConfig::new(RedisMode::Cluster, urls)
    }

    /// The parsed addresses.
    pub(crate) fn addresses(&self) -> Result<Vec<ConnectionInfo>, RedisConfigError> {
        if self.urls.is_empty() {
            return Err(RedisConfigError::NoUrl);
        }
        if self.mode == RedisMode::Single && self.urls.len() > 1 {
            return Err(RedisConfigError::TooMany(self.urls.len()));
        }
        let urls = self.urls.iter().enumerate();
        urls.map(|(at, url)| {
            let info =
                url.as_str()
                    .into_connection_info()
                    .map_err(|error| RedisConfigError::Url {
                        number: at + 1,
                        reason: error.to_string(),
                    })?;
            if tls::unchecked(&info) {
                return Err(RedisConfigError::Unchecked(at + 1));
            }
            // Behind sentinels the credentials are the master's, not the sentinels'.
            if matches!(self.mode, RedisMode::Sentinel { .. }) {
                return Ok(info);
            }
            Ok(self.with_credentials(info))
        })
        .collect()
    }

    /// Adds the configured credentials to an address that has none.
    pub(crate) fn with_credentials(&self, info: ConnectionInfo) -> ConnectionInfo {
        let mut settings = info.redis_settings().clone();
        if let (None, Some(username)) = (settings.username(), &self.username) {
            settings = settings.set_username(username);
        }
        if let (None, Some(password)) = (settings.password(), &self.password) {
            settings = settings.set_password(password);
        }
        info.set_redis_settings(settings)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn broken_addresses_are_refused_without_telling_the_password() {
        let none = RedisConfig::new(RedisMode::Cluster, Vec::new());
        assert_eq!(none.addresses().unwrap_err(), RedisConfigError::NoUrl);
        let two = RedisConfig::new(
            RedisMode::Single,
            vec!["redis://a".into(), "redis://b".into()],
        );
        assert_eq!(two.addresses().unwrap_err(), RedisConfigError::TooMany(2));
        let bad = RedisConfig::cluster(vec!["redis://a".into(), "http://u:hunter2@b".into()]);
        let error = bad.addresses().unwrap_err().to_string();
        assert!(
            error.contains("number 2") && !error.contains("hunter2"),
            "{error}"
        );
        let text = format!("{:?}", RedisConfig::single("redis://u:hunter2@b"));
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn credentials_fill_what_urls_leave_out() {
        let mut config = RedisConfig::single("redis://h");
        config.password = Some("p".into());
        assert_eq!(
            config.addresses().unwrap()[0].redis_settings().password(),
            Some("p")
        );
        config.urls = vec!["redis://:own@h".into()];
        assert_eq!(
            config.addresses().unwrap()[0].redis_settings().password(),
            Some("own")
        );
    }
}
