//! SQLite: one writer with group commit, pooled readers.
//!
//! SQLite has one writer at a time whatever one does, so there is one connection for it, owned by
//! one task. What waits while a commit syncs shares the next one: the number of syncs follows the
//! disk, not the number of writes. `synchronous=FULL` because in WAL mode NORMAL syncs only at
//! checkpoints: a power cut would take back what has been acknowledged.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sestina_api::store::StoreError;
use sestina_runtime::failpoint;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::StorageConfig;
use crate::error::Fault;
use crate::health::{DatabaseFile, Writes};
use crate::pool::{Guard, finish, made_away, overdue};

/// Writes that may wait; more wait at the door (bounded by their deadline).
const QUEUE: usize = 4096;

/// Writes in one transaction.
const BATCH: usize = 512;

/// What to do with a job once the fate of its transaction is known.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// One write. Returns whether to keep what it did, and how to answer.
type Job =
    Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, (Keep, Finish)> + Send>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

/// One SQLite database.
#[derive(Debug)]
pub(crate) struct Lite {
    jobs: mpsc::Sender<Job>,
    /// None for a database in memory: its connections would share locks, not snapshots, so reads
    /// go through the writer as well.
    readers: Option<SqlitePool>,
    stop: watch::Sender<bool>,
    writer: Mutex<Option<JoinHandle<()>>>,
    deadline: Duration,
    /// None for a database in memory.
    file: Option<Arc<DatabaseFile>>,
    writes: Arc<Writes>,
}

pub(crate) fn options(config: &StorageConfig) -> Result<SqliteConnectOptions, sqlx::Error> {
    let memory = in_memory(&config.url);
    let options = SqliteConnectOptions::from_str(&config.url)?
        .create_if_missing(true)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .busy_timeout(config.statement_timeout)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-32768")
        .disable_statement_logging();
    // Left alone in memory: there is no log to write ahead.
    Ok(if memory {
        options
    } else {
        options.journal_mode(SqliteJournalMode::Wal)
    })
}

fn in_memory(url: &str) -> bool {
    url.contains(":memory:") || url.contains("mode=memory")
}

/// The file holds password verifiers and the cluster's secret: made readable by its owner only
/// (SQLite gives its log the same mode). One that is there keeps its mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Opens the connection that will be the writer's, creating the file if need be.
pub(crate) async fn connect(
    config: &StorageConfig,
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, sqlx::Error> {
    if !in_memory(&config.url) {
        create_private(options.get_filename())?;
    }
    options.connect().await
}

impl Lite {
    /// Starts the writer on a connection whose schema is up to date.
    pub(crate) fn start(
        config: &StorageConfig,
        options: SqliteConnectOptions,
        conn: SqliteConnection,
    ) -> std::io::Result<Lite> {
        let file = match in_memory(&config.url) {
            true => None,
            false => Some(Arc::new(DatabaseFile::opened(options.get_filename())?)),
        };
        let writes = Arc::new(Writes::default());
        let readers = (!in_memory(&config.url)).then(|| {
            SqlitePoolOptions::new()
                .max_connections(config.pool_size.max(1))
                .acquire_timeout(config.acquire_timeout)
                .test_before_acquire(false)
                .connect_lazy_with(options.clone())
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (stop, stopping) = watch::channel(false);
        let writer = Writer {
            options,
            conn: Some(conn),
            queue,
            stopping,
            file: file.clone(),
            writes: writes.clone(),
        };
        let handle = tokio::spawn(writer.run());
        let writer = Mutex::new(Some(handle));
        Ok(Lite {
            jobs,
            readers,
            stop,
            writer,
            deadline: config.deadline(),
            file,
            writes,
        })
    }

    /// The file, unless the database is in memory.
    pub(crate) fn file(&self) -> Option<&DatabaseFile> {
        self.file.as_deref()
    }

    /// What became of the last writes.
    pub(crate) fn writes(&self) -> &Writes {
        &self.writes
    }

    /// A new connection to a file that is not there would make an empty one.
    fn check_file(&self) -> Result<(), Fault> {
        self.file()
            .map_or(Ok(()), |file| file.check().map_err(Fault::Store))
    }

    /// Runs `work` in the writer's next transaction and returns once that is durable.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Fault>>
            + Send
            + 'static,
    {
        self.check_file()?;
        let (answer, answered) = oneshot::channel();
        let writes = Arc::clone(&self.writes);
        let job: Job = Box::new(move |conn| {
            Box::pin(async move {
                let result = work(conn).await;
                if let Err(Fault::Db(error)) = &result {
                    writes.note::<T>(Err(error));
                }
                let mut result = result.map_err(StoreError::from);
                if failpoint::hit_async("storage.write").await {
                    result = Err(made_away());
                }
                let keep = if result.is_ok() { Keep::Yes } else { Keep::No };
                let finish: Finish = Box::new(move |committed| {
                    // An error of one's own says more than the fate of the transaction. Nobody
                    // listens any more if the caller's deadline has passed.
                    drop(answer.send(result.and_then(|value| committed.map(|()| value))));
                });
                (keep, finish)
            })
        });
        let exchange = async {
            let closed = || StoreError::Unavailable("storage is closed".to_owned());
            self.jobs.send(job).await.map_err(|_| closed())?;
            answered
                .await
                .map_err(|_| StoreError::Unavailable("the sqlite writer failed".to_owned()))?
        };
        match tokio::time::timeout(self.deadline, exchange).await {
            Ok(result) => {
                if result.is_ok() {
                    failpoint::hit_async("storage.written").await;
                }
                result.map_err(Fault::Store)
            }
            Err(_) => Err(overdue(self.deadline).into()),
        }
    }

    /// Runs `work` on one snapshot.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Fault>>
            + Send
            + 'static,
    {
        let Some(readers) = &self.readers else {
            return self.write(work).await;
        };
        self.check_file()?;
        let transaction = async {
            let mut conn = Guard::acquire(readers).await?;
            conn.execute("BEGIN").await?;
            let mut result = work(&mut conn).await;
            if failpoint::hit_async("storage.read").await {
                result = Err(made_away().into());
            }
            finish(conn, result).await
        };
        match tokio::time::timeout(self.deadline, transaction).await {
            Ok(result) => result,
            Err(_) => Err(overdue(self.deadline).into()),
        }
    }

    /// Writes what waits, then closes the database.
    pub(crate) async fn close(&self) {
        self.stop.send_replace(true);
        let writer = self.writer.lock().take();
        if let Some(writer) = writer
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the sqlite writer failed");
        }
        if let Some(readers) = &self.readers {
            readers.close().await;
        }
    }
}

/// The task that owns the writing connection. Ends when told to, or when the last handle is gone.
struct Writer {
    options: SqliteConnectOptions,
    conn: Option<SqliteConnection>,
    queue: mpsc::Receiver<Job>,
    stopping: watch::Receiver<bool>,
    file: Option<Arc<DatabaseFile>>,
    writes: Arc<Writes>,
}

impl Writer {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            self.transaction(first).await;
        }
        if let Some(conn) = self.conn.take()
            && let Err(error) = conn.close().await
        {
            tracing::warn!(%error, "closing the sqlite database failed");
        }
    }

    async fn next(&mut self) -> Option<Job> {
        tokio::select! {
            biased;
            job = self.queue.recv() => job,
            _ = self.stopping.changed() => {
                self.queue.close();
                self.queue.recv().await
            }
        }
    }

    async fn transaction(&mut self, first: Job) {
        let mut conn = match self.begin().await {
            Ok(conn) => conn,
            Err(error) => {
                // Dropping the job tells its caller.
                tracing::error!(%error, "cannot begin a transaction on the sqlite database");
                return;
            }
        };
        let mut finishes = Vec::new();
        let mut next = Some(first);
        let mut broken = None;
        while let Some(job) = next {
            match run_job(&mut conn, job, &mut finishes).await {
                Ok(()) => {}
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
            next = if finishes.len() < BATCH {
                self.queue.try_recv().ok()
            } else {
                None
            };
        }
        let gone = self.file.as_ref().and_then(|file| file.check().err());
        let committed = match broken {
            Some(error) => Err(error),
            // Rolled back: a commit to a file without a name is lost with the process.
            None if gone.is_some() => Err(std::io::Error::other("its file is gone").into()),
            None => conn.execute("COMMIT").await.map(drop),
        };
        self.writes.note(committed.as_ref());
        match committed {
            Ok(()) => self.conn = Some(conn),
            Err(ref error) => {
                tracing::error!(%error, "a transaction on the sqlite database failed");
                // A connection that cannot even roll back is replaced at the next transaction.
                if conn.execute("ROLLBACK").await.is_ok() {
                    self.conn = Some(conn);
                }
            }
        }
        let committed =
            committed.map_err(|error| gone.unwrap_or_else(|| StoreError::from(Fault::Db(error))));
        for finish in finishes {
            finish(committed.clone());
        }
    }

    async fn begin(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.options.connect().await?,
        };
        // IMMEDIATE: a read that turns into a write would fail at once, whatever the busy timeout.
        match conn.execute("BEGIN IMMEDIATE").await {
            Ok(_) => Ok(conn),
            Err(error) => {
                if matches!(error, sqlx::Error::Database(_)) {
                    self.conn = Some(conn);
                }
                Err(error)
            }
        }
    }
}

/// Runs one job inside a savepoint, so that its failure is its own.
async fn run_job(
    conn: &mut SqliteConnection,
    job: Job,
    finishes: &mut Vec<Finish>,
) -> Result<(), sqlx::Error> {
    conn.execute("SAVEPOINT job").await?;
    let (keep, finish) = job(conn).await;
    finishes.push(finish);
    if keep == Keep::No {
        conn.execute("ROLLBACK TO job").await?;
    }
    conn.execute("RELEASE job").await?;
    Ok(())
}
