//! PostgreSQL: pools that survive the database being killed, hung or failed over.
//!
//! Whatever goes wrong inside a transaction, its connection is closed, never returned: a
//! connection of unknown state would make the next user wait or fail. Opening a new one is cheap
//! beside that.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sestina_api::store::StoreError;
use sestina_runtime::failpoint;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Database, Executor, PgConnection, PgPool, Pool};

use crate::config::StorageConfig;
use crate::error::{Fault, is_unavailable};
use crate::health::Writes;

/// An idle connection is trusted without a round trip for this long.
const TRUSTED: Duration = Duration::from_secs(1);

/// How many dead connections one operation may meet before it gives up. A restart of the database
/// kills all of a pool at once; those idle for less than [`TRUSTED`] are found when used.
const DEAD_LIMIT: usize = 64;

/// Which pool an operation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolClass {
    /// Renewals. A connection belongs to the runtime on which it was made, so this class is used by
    /// what the lease thread serves, and by nothing else.
    Lease,
    /// The slot table, claims, lists of leases, secrets.
    Control,
    Main,
    /// What is written to archives, and maintenance.
    Archive,
    /// What is read from archives: many pages at once must not keep archiving from its connections.
    Query,
}

impl PoolClass {
    const ALL: [PoolClass; 5] = [
        PoolClass::Lease,
        PoolClass::Control,
        PoolClass::Main,
        PoolClass::Archive,
        PoolClass::Query,
    ];

    /// Leases and the slot table.
    fn is_of_leases(self) -> bool {
        matches!(self, PoolClass::Lease | PoolClass::Control)
    }
}

/// The pools of one PostgreSQL database.
#[derive(Debug)]
pub(crate) struct Pg {
    lease: PgPool,
    control: PgPool,
    main: PgPool,
    archive: PgPool,
    query: PgPool,
    deadline: Duration,
    writes: Writes,
}

/// Options for a session; `limited` ones end by themselves whatever happens.
pub(crate) fn options(
    config: &StorageConfig,
    limited: bool,
) -> Result<PgConnectOptions, sqlx::Error> {
    let options: PgConnectOptions = config.url.parse()?;
    let options = options
        .application_name("sestina-storage")
        .disable_statement_logging();
    // Ends the locks of a transaction whose storage process vanished without closing its socket.
    let keepalive = [
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
    ];
    let options = options
        .options(keepalive)
        .options([("tcp_keepalives_count", "3")]);
    if !limited {
        return Ok(options);
    }
    let limit = config.statement_timeout.as_millis().max(1).to_string();
    // Neither limit cancels the wait of a COMMIT for its synchronous standby (PostgreSQL disarms
    // them before it commits), so a commit is never reported done too early: that wait ends by
    // our own deadline, as "unknown".
    Ok(options.options([
        ("statement_timeout", limit.as_str()),
        ("lock_timeout", limit.as_str()),
        ("idle_in_transaction_session_timeout", limit.as_str()),
    ]))
}

impl Pg {
    pub(crate) fn new(config: &StorageConfig) -> Result<Pg, sqlx::Error> {
        let pool = |size: u32| -> Result<PgPool, sqlx::Error> {
            Ok(PgPoolOptions::new()
                .max_connections(size.max(1))
                .acquire_timeout(config.acquire_timeout)
                .idle_timeout(Duration::from_secs(600))
                .max_lifetime(Duration::from_secs(3600))
                .test_before_acquire(false)
                .before_acquire(|conn, meta| {
                    Box::pin(async move {
                        if meta.idle_for > TRUSTED {
                            conn.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .connect_lazy_with(options(config, true)?))
        };
        Ok(Pg {
            lease: pool(config.lease_pool_size)?,
            control: pool(config.control_pool_size)?,
            main: pool(config.pool_size)?,
            archive: pool(config.archive_pool_size)?,
            query: pool(config.query_pool_size)?,
            deadline: config.deadline(),
            writes: Writes::default(),
        })
    }

    /// What became of the last writes.
    pub(crate) fn writes(&self) -> &Writes {
        &self.writes
    }

    fn pool(&self, class: PoolClass) -> &PgPool {
        match class {
            PoolClass::Lease => &self.lease,
            PoolClass::Control => &self.control,
            PoolClass::Main => &self.main,
            PoolClass::Archive => &self.archive,
            PoolClass::Query => &self.query,
        }
    }

    /// Runs `work` in a transaction that sees each statement's newest data.
    pub(crate) async fn write<T, F>(&self, class: PoolClass, work: F) -> Result<T, Fault>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Fault>>,
    {
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        let done = self.run(class, begin, "storage.write", work).await;
        match &done {
            Ok(value) => self.writes.note(Ok(value)),
            Err(Fault::Db(error)) => self.writes.note::<T>(Err(error)),
            Err(_) => {}
        }
        if done.is_ok() && !class.is_of_leases() {
            failpoint::hit_async("storage.written").await;
        }
        done
    }

    /// Runs `work` on one snapshot.
    pub(crate) async fn read<T, F>(&self, class: PoolClass, work: F) -> Result<T, Fault>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Fault>>,
    {
        self.run(
            class,
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            "storage.read",
            work,
        )
        .await
    }

    async fn run<T, F>(
        &self,
        class: PoolClass,
        begin: &'static str,
        point: &'static str,
        work: F,
    ) -> Result<T, Fault>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Fault>>,
    {
        let transaction = async {
            let mut conn = self.begin(class, begin).await?;
            let mut result = work(&mut conn).await;
            // Leases and the table have points of their own.
            if !class.is_of_leases() && failpoint::hit_async(point).await {
                result = Err(made_away().into());
            }
            finish(conn, result).await
        };
        match tokio::time::timeout(self.deadline, transaction).await {
            Ok(result) => result,
            Err(_) => Err(overdue(self.deadline).into()),
        }
    }

    /// Nothing has happened before BEGIN is answered, so a dead connection is replaced silently.
    async fn begin(
        &self,
        class: PoolClass,
        begin: &'static str,
    ) -> Result<Guard<sqlx::Postgres>, Fault> {
        let pool = self.pool(class);
        let mut dead = 0;
        loop {
            let mut conn = Guard::acquire(pool).await?;
            match conn.execute(begin).await {
                Ok(_) => return Ok(conn),
                Err(error) if is_unavailable(&error) && dead < DEAD_LIMIT => dead += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) async fn close(&self) {
        for class in PoolClass::ALL {
            self.pool(class).close().await;
        }
    }
}

/// What a fail point makes of an operation.
pub(crate) fn made_away() -> StoreError {
    StoreError::Unavailable("a fail point says that the database is unavailable".to_owned())
}

pub(crate) fn overdue(deadline: Duration) -> StoreError {
    StoreError::Unavailable(format!(
        "the database did not answer within {} ms",
        deadline.as_millis()
    ))
}

/// Commits, or rolls back what our own logic refused; the connection returns to its pool only if
/// it is known to be sound.
pub(crate) async fn finish<D, T>(mut conn: Guard<D>, result: Result<T, Fault>) -> Result<T, Fault>
where
    D: Database,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
{
    match result {
        Ok(value) => {
            conn.execute("COMMIT").await?;
            conn.sound();
            Ok(value)
        }
        Err(fault @ Fault::Db(_)) => Err(fault),
        Err(fault) => {
            conn.execute("ROLLBACK").await?;
            conn.sound();
            Err(fault)
        }
    }
}

/// A pooled connection that is closed when dropped, unless it was declared sound: a future that is
/// cancelled by its deadline leaves a statement behind, and waiting for its end would occupy the
/// pool for as long as the database hangs.
pub(crate) struct Guard<D: Database> {
    conn: Option<PoolConnection<D>>,
}

impl<D: Database> Guard<D> {
    pub(crate) async fn acquire(pool: &Pool<D>) -> Result<Guard<D>, sqlx::Error> {
        Ok(Guard {
            conn: Some(pool.acquire().await?),
        })
    }

    /// Gives the connection back to its pool.
    fn sound(mut self) {
        drop(self.conn.take());
    }
}

impl<D: Database> Deref for Guard<D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        self.conn
            .as_ref()
            .expect("present until dropped or declared sound")
    }
}

impl<D: Database> DerefMut for Guard<D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        self.conn
            .as_mut()
            .expect("present until dropped or declared sound")
    }
}

impl<D: Database> Drop for Guard<D> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}
