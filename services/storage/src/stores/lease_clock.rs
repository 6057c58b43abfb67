//! The clock of the database may be set back. Then the ends of leases lie too far ahead, and nothing
//! would fail over until the clock has caught up. A lease cannot end later than its whole term from
//! now: an end that does is moved to there, so that a step back costs one term at most.
//!
//! What lives renews, and gets an end by the new clock anyway; this concerns the dead.

use crate::dialect::dialects;
use crate::error::Fault;

/// The holder of a lease: name and incarnation.
pub(crate) type Holder = (String, i64);

dialects! {
    items:

    /// Leases whose end lies further ahead than their term.
    pub(crate) async fn ahead(conn: &mut Conn, _request: &()) -> Result<Vec<Holder>, Fault> {
        let now = now_ms(conn).await?;
        let ahead = sqlx::query_as(
            "SELECT name, incarnation FROM lease WHERE NOT ended AND expires_ms > $1 + ttl_ms",
        )
        .bind(now)
        .fetch_all(conn)
        .await?;
        Ok(ahead)
    }

    /// Moves the end of a lease to one term from now, if it lies further ahead.
    pub(crate) async fn clamp(conn: &mut Conn, holder: &Holder) -> Result<(), Fault> {
        // Holds the row, so that the clock is read after whatever renewal was under way. One lease to a
        // transaction: a transaction that locks several does so in one order.
        sqlx::query("UPDATE lease SET ended = ended WHERE name = $1 AND incarnation = $2")
            .bind(&holder.0)
            .bind(holder.1)
            .execute(&mut *conn)
            .await?;
        let now = now_ms(conn).await?;
        let done = sqlx::query(
            "UPDATE lease SET expires_ms = $3 + ttl_ms
             WHERE name = $1 AND incarnation = $2 AND expires_ms > $3 + ttl_ms",
        )
        .bind(&holder.0)
        .bind(holder.1)
        .bind(now)
        .execute(conn)
        .await?;
        if done.rows_affected() > 0 {
            tracing::warn!(
                name = holder.0,
                "a lease ended later than its term allows: the clock of the database was set back"
            );
        }
        Ok(())
    }
}
