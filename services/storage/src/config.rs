//! What `Storage::open` needs to know.

use std::fmt;
use std::time::Duration;

/// The name of a cluster that is given none.
const DEFAULT_CLUSTER: &str = "sestina";

/// Where the database is, and how hard to lean on it.
#[derive(Clone)]
pub struct StorageConfig {
    /// `postgres://user:password@host/database`, `sqlite:/path/file.db` or `sqlite::memory:`.
    pub url: String,
    /// Name of the cluster; a database of another one is refused.
    pub cluster: String,
    /// Opens a database of whatever cluster: only to rename it.
    pub any_cluster: bool,
    /// Connections for accounts, offline messages and data of entities (PostgreSQL); readers (SQLite).
    pub pool_size: u32,
    /// Connections for what is written to archives, and for maintenance (PostgreSQL): of their own,
    /// so that archive traffic cannot delay a login.
    pub archive_pool_size: u32,
    /// Connections for what is read from archives (PostgreSQL): of their own, so that clients that
    /// page through them cannot delay archiving.
    pub query_pool_size: u32,
    /// Connections for the slot table, lists of leases and the secret (PostgreSQL): of their own, so
    /// that nothing can delay a claim.
    pub control_pool_size: u32,
    /// Connections for renewals (PostgreSQL): of their own, because the thread that serves renewals
    /// makes and drives them.
    pub lease_pool_size: u32,
    /// How long to wait for a connection, a new one included.
    pub acquire_timeout: Duration,
    /// How long one statement, or a lock it waits for, may take; then it is cancelled.
    /// A whole operation ends after this and the acquire timeout together.
    pub statement_timeout: Duration,
}

impl StorageConfig {
    /// The defaults for `url`.
    pub fn new(url: impl Into<String>) -> StorageConfig {
        StorageConfig {
            url: url.into(),
            cluster: DEFAULT_CLUSTER.to_owned(),
            any_cluster: false,
            pool_size: 8,
            archive_pool_size: 8,
            query_pool_size: 4,
            control_pool_size: 3,
            lease_pool_size: 3,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(3),
        }
    }

    /// The longest that one operation may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.acquire_timeout + self.statement_timeout
    }
}

/// Hides the password in `url`.
impl fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageConfig")
            .field("url", &redacted(&self.url))
            .field("cluster", &self.cluster)
            .field("pool_size", &self.pool_size)
            .field("archive_pool_size", &self.archive_pool_size)
            .field("query_pool_size", &self.query_pool_size)
            .field("control_pool_size", &self.control_pool_size)
            .field("lease_pool_size", &self.lease_pool_size)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish()
    }
}

/// A URL without what may hold a password: the user part and the query.
pub(crate) fn redacted(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://***@{}", &url[..scheme], &url[at + 1..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password() {
        let config = StorageConfig::new("postgres://u:se@cret@db:5432/x?password=secret");
        let shown = format!("{config:?}");
        assert!(shown.contains("postgres://***@db:5432/x"), "{shown}");
        assert!(!shown.contains("cret"), "{shown}");
        assert_eq!(redacted("sqlite:/var/lib/a.db"), "sqlite:/var/lib/a.db");
    }
}
