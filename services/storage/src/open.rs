//! Opening: which database, its schema, and what runs for as long as it is open.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;

use crate::batch::Batcher;
use crate::config::{StorageConfig, redacted};
use crate::error::{Fault, OpenError, is_unavailable};
use crate::pool::{Pg, PoolClass};
use crate::storage::{Backend, Inner, Storage};
use crate::stores::format::FORMAT;
use crate::stores::identity::ClusterIdentity;
use crate::stores::{archive, format, identity};
use crate::writer::Lite;
use crate::{pool, writer};

/// Appends to archives that run at once on PostgreSQL. Those of one slot stay in order.
const SHARDS: usize = 4;

/// How often partitions are made ahead; two months are always there.
const AHEAD: Duration = Duration::from_secs(6 * 3600);

/// How long a migration may wait for another replica's, which may be rewriting a table.
const MIGRATION: Duration = Duration::from_secs(600);

/// A binary that is older than the schema (a rolling upgrade, or one that is taken back) goes on:
/// migrations only ever add.
fn tolerant(mut migrator: Migrator) -> Migrator {
    migrator.set_ignore_missing(true);
    migrator
}

impl Storage {
    /// Opens the database, brings its schema up to date and starts what runs beside it. Any number
    /// of processes may do so at once on PostgreSQL.
    pub async fn open(config: StorageConfig) -> Result<Arc<Storage>, OpenError> {
        let (stop, stopping) = watch::channel(false);
        let (backend, identity, shards) = if config.url.starts_with("sqlite:") {
            let (lite, identity) = open_sqlite(&config).await?;
            (Backend::Sqlite(lite), identity, 1)
        } else if config.url.starts_with("postgres:") || config.url.starts_with("postgresql:") {
            let (pg, identity) = open_postgres(&config).await?;
            (Backend::Postgres(pg), identity, SHARDS)
        } else {
            let reason = "its scheme is not known".to_owned();
            return Err(OpenError::Url {
                url: redacted(&config.url),
                reason,
            });
        };
        let inner = Arc::new(Inner::new(backend, identity));
        let appends = (0..shards)
            .map(|_| {
                let inner = Arc::clone(&inner);
                Batcher::spawn(move |batch| {
                    let inner = Arc::clone(&inner);
                    async move { inner.append(batch).await }
                })
            })
            .collect();
        let ahead = tokio::spawn(keep_ahead(Arc::downgrade(&inner), stopping));
        Ok(Arc::new(Storage::new(inner, appends, stop, ahead)))
    }
}

/// Refuses a database that is written in a format which this program does not know.
fn readable(config: &StorageConfig, format: Option<i64>) -> Result<(), OpenError> {
    match format {
        Some(theirs) if theirs > FORMAT => Err(OpenError::Format {
            url: redacted(&config.url),
            ours: FORMAT,
            theirs,
        }),
        _ => Ok(()),
    }
}

/// Refuses a database of another cluster, unless it is opened to be renamed.
fn checked(
    config: &StorageConfig,
    identity: ClusterIdentity,
) -> Result<ClusterIdentity, OpenError> {
    if identity.name == config.cluster || config.any_cluster {
        return Ok(identity);
    }
    Err(OpenError::Cluster {
        url: redacted(&config.url),
        ours: config.cluster.clone(),
        theirs: identity.name,
    })
}

async fn open_postgres(config: &StorageConfig) -> Result<(Pg, ClusterIdentity), OpenError> {
    let url = || redacted(&config.url);
    let usable = |error: sqlx::Error| OpenError::Url {
        url: url(),
        reason: error.to_string(),
    };
    let away = |reason: String| OpenError::Unavailable { url: url(), reason };
    let connected = |error: sqlx::Error| {
        let (url, reason) = (url(), error.to_string());
        match is_unavailable(&error) {
            true => OpenError::Unavailable { url, reason },
            false => OpenError::Connect { url, reason },
        }
    };
    // Without limits: a migration takes what it takes.
    let options = pool::options(config, false).map_err(usable)?;
    let pg = Pg::new(config).map_err(usable)?;
    let mut conn = tokio::time::timeout(config.deadline(), options.connect())
        .await
        .map_err(|_| away("no answer".to_owned()))?
        .map_err(connected)?;
    let format = format::pg::read(&mut conn).await.map_err(connected)?;
    readable(config, format)?;
    let migrator = tolerant(sqlx::migrate!("migrations/postgres"));
    // An advisory lock lets one replica migrate at a time.
    let migrated =
        tokio::time::timeout(MIGRATION, migrator.run_direct(None, &mut conn, false)).await;
    let failed = |reason: String| OpenError::Migrate { url: url(), reason };
    migrated
        .map_err(|_| failed("another process has been migrating for too long".to_owned()))?
        .map_err(|error| match error {
            MigrateError::Execute(error) if is_unavailable(&error) => connected(error),
            error => failed(error.to_string()),
        })?;
    let identity = identity::pg::join(&mut conn, &config.cluster)
        .await
        .map_err(connected)?;
    let identity = checked(config, identity)?;
    if let Err(error) = conn.close().await {
        tracing::debug!(%error, "closing the migration's connection failed");
    }
    Ok((pg, identity))
}

async fn open_sqlite(config: &StorageConfig) -> Result<(Lite, ClusterIdentity), OpenError> {
    let url = || redacted(&config.url);
    let options = writer::options(config).map_err(|error| OpenError::Url {
        url: url(),
        reason: error.to_string(),
    })?;
    let mut conn = writer::connect(config, &options).await.map_err(|error| {
        let reason = format!("{error}; the folder must exist and be writable");
        OpenError::Connect { url: url(), reason }
    })?;
    let format = format::lite::read(&mut conn).await;
    let format = format.map_err(|error| OpenError::Connect {
        url: url(),
        reason: error.to_string(),
    })?;
    readable(config, format)?;
    let migrator = tolerant(sqlx::migrate!("migrations/sqlite"));
    // SQLite has no lock for migrations: if another process does the same at this moment, one of
    // the two fails and finds the work done when it looks again.
    let mut migrated = migrator.run_direct(None, &mut conn, false).await;
    if migrated.is_err() {
        migrated = migrator.run_direct(None, &mut conn, false).await;
    }
    migrated.map_err(|error| OpenError::Migrate {
        url: url(),
        reason: error.to_string(),
    })?;
    let identity = identity::lite::join(&mut conn, &config.cluster)
        .await
        .map_err(|error| OpenError::Connect {
            url: url(),
            reason: error.to_string(),
        })?;
    let identity = checked(config, identity)?;
    let lite = Lite::start(config, options, conn).map_err(|error| OpenError::Connect {
        url: url(),
        reason: format!("its file cannot be looked at: {error}"),
    })?;
    Ok((lite, identity))
}

/// Makes partitions ahead: at once, and then at intervals until the storage ends.
async fn keep_ahead(inner: Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if let Backend::Postgres(pg) = &inner.backend {
            let made: Result<_, Fault> = pg
                .write(PoolClass::Archive, |conn| {
                    Box::pin(archive::months_ahead(conn))
                })
                .await;
            match made {
                Ok(months) => months
                    .into_iter()
                    .for_each(|month| inner.months.learn(month)),
                // An append makes a partition that it lacks.
                Err(fault) => tracing::warn!(?fault, "cannot make archive partitions ahead"),
            }
        } else {
            return;
        }
        drop(inner);
        tokio::select! {
            _ = stopping.changed() => return,
            () = tokio::time::sleep(AHEAD) => {}
        }
    }
}
