//! Errors: why opening failed, and which database errors mean "away".

use sestina_api::store::StoreError;

/// Why the storage could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no database this crate knows, or is malformed.
    #[error(
        "storage url {url:?} is not usable: {reason}; use postgres://user:password@host/database, sqlite:/path/file.db or sqlite::memory:"
    )]
    Url {
        /// The URL, without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The database is of another cluster.
    #[error(
        "the database {url:?} is of cluster {theirs:?}, and this process of cluster {ours:?}; set cluster.name to {theirs:?}, or name another database, or, if this database was moved or restored to become another cluster's, stop all its processes and call `sestina cluster rename {ours}`"
    )]
    Cluster {
        /// The URL, without its password.
        url: String,
        /// As configured here.
        ours: String,
        /// As written in the database.
        theirs: String,
    },
    /// A later version has written to the database what this one does not know.
    #[error(
        "the database {url:?} is written in format {theirs}, and this program knows formats up to {ours}; nothing was changed: use the program of the later version, or restore a backup from before the upgrade (docs/operations.md, \"Upgrades\")"
    )]
    Format {
        /// The URL, without its password.
        url: String,
        /// The newest format of this program.
        ours: i64,
        /// The format of the database.
        theirs: i64,
    },
    /// The database cannot be reached now: it is worth trying again.
    #[error("cannot reach the database {url:?}: {reason}; check that it runs")]
    Unavailable {
        /// The URL, without its password.
        url: String,
        /// What the database or the network said.
        reason: String,
    },
    /// The database does not let us in.
    #[error(
        "cannot connect to the database {url:?}: {reason}; check that it runs and that user and password are right"
    )]
    Connect {
        /// The URL, without its password.
        url: String,
        /// What the database or the network said.
        reason: String,
    },
    /// The schema could not be brought up to date.
    #[error("cannot migrate the database {url:?}: {reason}; the database user must own the schema")]
    Migrate {
        /// The URL, without its password.
        url: String,
        /// What the database said.
        reason: String,
    },
}

/// What can stop an operation inside the crate.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The driver or the database; the transaction's state is unknown.
    Db(sqlx::Error),
    /// An answer of our own; the transaction is sound and is rolled back.
    Store(StoreError),
    /// These times (Unix milliseconds) have no archive partition yet; make them and try again.
    Partitions(Vec<i64>),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::Db(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Store(error)
    }
}

impl From<prost::DecodeError> for Fault {
    fn from(error: prost::DecodeError) -> Fault {
        Fault::Store(StoreError::Internal(format!(
            "a stored stanza is damaged: {error}"
        )))
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> StoreError {
        match fault {
            Fault::Store(error) => error,
            Fault::Db(error) if is_unavailable(&error) => {
                StoreError::Unavailable(error.to_string())
            }
            Fault::Db(error) => StoreError::Internal(error.to_string()),
            Fault::Partitions(_) => {
                StoreError::Unavailable("archive partitions keep disappearing".to_owned())
            }
        }
    }
}

/// Whether trying again later can help.
pub(crate) fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => match error.code() {
            Some(code)
                if error
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .is_some() =>
            {
                postgres_away(&code)
            }
            Some(code) => code.parse().is_ok_and(sqlite_away),
            None => false,
        },
        _ => false,
    }
}

/// Connection lost, resources short, operator at work (start-up, shutdown, cancelled statement),
/// lock not available, serialisation failure or deadlock, or a standby that may be promoted soon.
fn postgres_away(sqlstate: &str) -> bool {
    matches!(sqlstate.get(..2), Some("08" | "53" | "57" | "58"))
        || matches!(
            sqlstate,
            "55P03" | "40001" | "40P01" | "25006" | "25P03" | "25P02"
        )
}

/// `BUSY`, `LOCKED`, `IOERR`, `FULL`, `CANTOPEN`; the low byte of an extended code says which.
fn sqlite_away(code: i64) -> bool {
    matches!(code & 0xff, 5 | 6 | 10 | 13 | 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_retry_cures_is_away() {
        assert!(postgres_away("57P01") && postgres_away("57014") && postgres_away("55P03"));
        assert!(!postgres_away("23505") && !postgres_away("42P01"));
        assert!(sqlite_away(5) && sqlite_away(522) && sqlite_away(13));
        assert!(!sqlite_away(19) && !sqlite_away(2067));
        let fault = Fault::Db(sqlx::Error::PoolTimedOut);
        assert!(matches!(
            StoreError::from(fault),
            StoreError::Unavailable(_)
        ));
        let fault = Fault::Db(sqlx::Error::RowNotFound);
        assert!(matches!(StoreError::from(fault), StoreError::Internal(_)));
    }
}
