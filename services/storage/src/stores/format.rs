//! The format that a database is written in. Migrations only add, so an older program goes on with the
//! schema of a newer one; where something is written that an older program would take for something
//! else, the format gets the next number, and programs that do not know that number refuse the database.

/// The newest format that this program reads and writes.
pub(crate) const FORMAT: i64 = 1;

/// The format on PostgreSQL; none: the database is empty, or older than formats.
pub(crate) mod pg {
    use crate::dialect::pg::Conn;

    pub(crate) async fn read(conn: &mut Conn) -> Result<Option<i64>, sqlx::Error> {
        let known: bool = sqlx::query_scalar("SELECT to_regclass('storage_format') IS NOT NULL")
            .fetch_one(&mut *conn)
            .await?;
        match known {
            true => {
                sqlx::query_scalar("SELECT format FROM storage_format")
                    .fetch_optional(conn)
                    .await
            }
            false => Ok(None),
        }
    }
}

/// The same on SQLite.
pub(crate) mod lite {
    use crate::dialect::lite::Conn;

    pub(crate) async fn read(conn: &mut Conn) -> Result<Option<i64>, sqlx::Error> {
        let known: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'storage_format'",
        )
        .fetch_one(&mut *conn)
        .await?;
        match known {
            0 => Ok(None),
            _ => {
                sqlx::query_scalar("SELECT format FROM storage_format")
                    .fetch_optional(conn)
                    .await
            }
        }
    }
}
