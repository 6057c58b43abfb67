//! Pruning: rows that will not be asked for again.
//!
//! Everything goes in pieces, each a transaction of its own, so that no lock is held for long and
//! other writes come in between. Being interrupted is harmless: the next run continues.

use sestina_api::store::StoreError;
use sestina_proto as proto;

use crate::dialect::dialects;
use crate::error::Fault;

/// Rows in one piece.
const PIECE: i64 = 2000;

/// How long the row of a process that is gone is kept. A process that was suspended for longer
/// would get a new lease, but every slot it owned has another epoch by then.
const LEASE_KEEP_MS: i64 = 7 * 86_400_000;

/// One kind of pruning. Run repeatedly until it removes less than a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Leases that ended long ago and whose holders own nothing.
    Leases,
    /// Keys and answers of binding writes older than this.
    Outcomes(i64),
    /// Keys of offline messages delivered before this.
    Delivered(i64),
    /// Archive rows (SQLite) or keys of dropped rows (PostgreSQL) older than this.
    Archived(i64),
    /// Rows of archives whose account was deleted.
    Deleted,
}

/// The chores of a request, by the database's clock. Zero or less keeps for ever.
pub(crate) fn chores(request: &proto::MaintainRequest, now: i64) -> Result<Vec<Chore>, StoreError> {
    let before = |keep: i64, unit_ms: i64| {
        keep.checked_mul(unit_ms)
            .map(|keep_ms| now.saturating_sub(keep_ms))
            .ok_or_else(|| StoreError::Invalid(format!("keeping for {keep} is out of range")))
    };
    let mut chores = vec![Chore::Leases, Chore::Deleted];
    if request.outcome_keep_s > 0 {
        let before = before(request.outcome_keep_s, 1000)?;
        chores.extend([Chore::Outcomes(before), Chore::Delivered(before)]);
    }
    if request.archive_keep_days > 0 {
        chores.push(Chore::Archived(before(
            request.archive_keep_days,
            86_400_000,
        )?));
    }
    Ok(chores)
}

/// The texts that differ.
mod texts {
    pub(super) mod pg {
        pub(crate) const OUTCOMES: &str = "DELETE FROM outcome WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM outcome WHERE created_ms < $1 LIMIT $2))";
        pub(crate) const DELIVERED: &str = "DELETE FROM offline WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM offline WHERE delivered_ms < $1 LIMIT $2))";
        pub(crate) const ARCHIVED: &str = "DELETE FROM archive_key WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM archive_key WHERE at_ms < $1 LIMIT $2))";
        pub(crate) const DELETED: &str = "DELETE FROM archive a USING (
                SELECT archive, at_ms, epoch, counter FROM archive
                WHERE archive = $1 LIMIT $2) n
            WHERE a.archive = n.archive AND a.at_ms = n.at_ms AND a.epoch = n.epoch
                AND a.counter = n.counter";
        pub(crate) const DELETED_KEYS: &str = "DELETE FROM archive_key WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM archive_key WHERE archive = $1 LIMIT $2))";
    }
    pub(super) mod lite {
        pub(crate) const OUTCOMES: &str = "DELETE FROM outcome WHERE rowid IN (
            SELECT rowid FROM outcome WHERE created_ms < $1 LIMIT $2)";
        pub(crate) const DELIVERED: &str = "DELETE FROM offline WHERE rowid IN (
            SELECT rowid FROM offline WHERE delivered_ms < $1 LIMIT $2)";
        pub(crate) const ARCHIVED: &str = "DELETE FROM archive WHERE id IN (
            SELECT id FROM archive WHERE at_ms < $1 LIMIT $2)";
        pub(crate) const DELETED: &str = "DELETE FROM archive WHERE id IN (
            SELECT id FROM archive WHERE archive = $1 LIMIT $2)";
        /// The keys are an index of the rows: nothing to do.
        pub(crate) const DELETED_KEYS: &str = "DELETE FROM archive WHERE archive = $1 AND $2 < 0";
    }
}

dialects! {
    with texts as texts;
    items:

    /// The chores there are.
    pub(crate) async fn plan(
        conn: &mut Conn,
        request: &proto::MaintainRequest,
    ) -> Result<Vec<Chore>, Fault> {
        Ok(chores(request, now_ms(conn).await?)?)
    }

    /// Does a piece of a chore; returns whether there may be more.
    pub(crate) async fn piece(conn: &mut Conn, chore: &Chore) -> Result<bool, Fault> {
        let removed = match chore {
            Chore::Leases => leases(conn).await?,
            Chore::Outcomes(before) => remove(conn, texts::OUTCOMES, *before).await?,
            Chore::Delivered(before) => remove(conn, texts::DELIVERED, *before).await?,
            Chore::Archived(before) => remove(conn, texts::ARCHIVED, *before).await?,
            Chore::Deleted => return deleted(conn).await,
        };
        Ok(removed as i64 >= PIECE)
    }

    async fn remove(conn: &mut Conn, text: &'static str, bound: i64) -> Result<u64, Fault> {
        Ok(sqlx::query(text).bind(bound).bind(PIECE).execute(conn).await?.rows_affected())
    }

    async fn leases(conn: &mut Conn) -> Result<u64, Fault> {
        let before = now_ms(conn).await? - LEASE_KEEP_MS;
        // The address of an owner stays known for as long as it owns a slot.
        let done = sqlx::query(
            "DELETE FROM lease WHERE expires_ms < $1 AND NOT EXISTS (SELECT 1 FROM slot
             WHERE slot.owner = lease.name AND slot.incarnation = lease.incarnation)",
        )
        .bind(before)
        .execute(conn)
        .await?;
        // It removes all there are, in one piece.
        Ok(done.rows_affected().min(PIECE as u64 - 1))
    }

    /// A piece of the first deleted archive; the name goes last.
    async fn deleted(conn: &mut Conn) -> Result<bool, Fault> {
        let archive: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM archive_owner WHERE jid IS NULL ORDER BY id LIMIT 1",
        )
        .fetch_optional(&mut *conn)
        .await?;
        let Some(archive) = archive else { return Ok(false) };
        let rows = remove(conn, texts::DELETED, archive).await?;
        let keys = remove(conn, texts::DELETED_KEYS, archive).await?;
        if rows == 0 && keys == 0 {
            sqlx::query("DELETE FROM archive_owner WHERE id = $1 AND jid IS NULL")
                .bind(archive)
                .execute(conn)
                .await?;
        }
        Ok(true)
    }
}

/// Drops the oldest month if it ends before `cutoff`; returns its end.
pub(crate) async fn drop_month(
    conn: &mut sqlx::PgConnection,
    cutoff: i64,
) -> Result<Option<i64>, Fault> {
    Ok(sqlx::query_scalar("SELECT archive_drop_oldest($1)")
        .bind(cutoff)
        .fetch_one(conn)
        .await?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn zero_keeps_for_ever() {
        let none = proto::MaintainRequest {
            archive_keep_days: 0,
            outcome_keep_s: 0,
        };
        assert_eq!(chores(&none, 5).unwrap(), [Chore::Leases, Chore::Deleted]);
        let some = proto::MaintainRequest {
            archive_keep_days: 2,
            outcome_keep_s: 3,
        };
        let now = 200_000_000;
        assert_eq!(
            chores(&some, now).unwrap()[2..],
            [
                Chore::Outcomes(now - 3000),
                Chore::Delivered(now - 3000),
                Chore::Archived(now - 2 * 86_400_000)
            ]
        );
        let huge = proto::MaintainRequest {
            archive_keep_days: i64::MAX,
            outcome_keep_s: 0,
        };
        assert!(chores(&huge, now).is_err());
    }
}
