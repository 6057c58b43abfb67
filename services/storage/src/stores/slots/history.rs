//! Where the slot table is and where it was: how it is found out that the database has lost commits (a
//! standby that lagged was promoted, a backup was restored).
//!
//! Every change of the table writes a new position with a random token, and the last of them are
//! kept. Every renewal of a lease reports the position that its process has. One that the database
//! does not know was lost with the commits: the table then goes on under the next timeline, which all
//! processes take although its version is lower, and on which owners assert what they hold.

use sestina_proto as proto;
use sestina_runtime::guard;

use crate::dialect::dialects;
use crate::error::Fault;

/// So many positions are kept. What a process has that is older was no commit of late.
const KEPT: u64 = 1_000;

/// A row: timeline, version, token.
type Row = (i64, i64, i64);

fn of((timeline, version, token): Row) -> proto::Position {
    proto::Position {
        timeline: timeline as u64,
        version: version as u64,
        token: token as u64,
    }
}

/// Whether the table, which is at `at`, had a position; `kept` is the one that it had under that
/// version. Of older timelines there is nothing to find out: those who know them are told of this one.
fn had(at: proto::Position, position: proto::Position, kept: Option<proto::Position>) -> bool {
    if position.timeline < at.timeline {
        return true;
    }
    match kept {
        Some(kept) => kept == position,
        None => position.timeline == at.timeline && position.version + KEPT <= at.version,
    }
}

dialects! {
    items:

    /// Where the table is.
    pub(crate) async fn position(conn: &mut Conn) -> Result<proto::Position, Fault> {
        let row: Row = sqlx::query_as("SELECT timeline, version, token FROM slot_table")
            .fetch_one(conn)
            .await?;
        Ok(of(row))
    }

    /// The same, and no other transaction changes it before this one ends.
    pub(crate) async fn lock(conn: &mut Conn) -> Result<proto::Position, Fault> {
        let row: Row = sqlx::query_as(
            "UPDATE slot_table SET version = version RETURNING timeline, version, token",
        )
        .fetch_one(conn)
        .await?;
        Ok(of(row))
    }

    /// The next position, on that timeline.
    pub(crate) async fn advance(
        conn: &mut Conn,
        at: proto::Position,
        timeline: u64,
    ) -> Result<proto::Position, Fault> {
        let next = proto::Position { timeline, version: at.version + 1, token: rand::random() };
        sqlx::query("UPDATE slot_table SET timeline = $1, version = $2, token = $3")
            .bind(next.timeline as i64)
            .bind(next.version as i64)
            .bind(next.token as i64)
            .execute(&mut *conn)
            .await?;
        sqlx::query("INSERT INTO slot_history (timeline, version, token) VALUES ($1, $2, $3)")
            .bind(next.timeline as i64)
            .bind(next.version as i64)
            .bind(next.token as i64)
            .execute(&mut *conn)
            .await?;
        sqlx::query("DELETE FROM slot_history WHERE version <= $1")
            .bind(next.version as i64 - KEPT as i64)
            .execute(conn)
            .await?;
        Ok(next)
    }

    /// Whether the table, which is at `at`, had this position.
    async fn knows(
        conn: &mut Conn,
        at: proto::Position,
        position: proto::Position,
    ) -> Result<bool, Fault> {
        if at == position {
            return Ok(true);
        }
        let kept: Option<Row> = sqlx::query_as(
            "SELECT timeline, version, token FROM slot_history WHERE version = $1",
        )
        .bind(position.version as i64)
        .fetch_optional(conn)
        .await?;
        Ok(had(at, position, kept.map(of)))
    }

    /// Whether slots may move that were chosen by the table at `known`: it is of this timeline, and
    /// processes whose leases may have been lost have had the time to renew them.
    pub(crate) async fn may_move(
        conn: &mut Conn,
        at: proto::Position,
        known: proto::Position,
    ) -> Result<bool, Fault> {
        if !guard!("timeline") {
            return Ok(true);
        }
        if known.timeline != at.timeline || !knows(conn, at, known).await? {
            return Ok(false);
        }
        let quiet: i64 =
            sqlx::query_scalar("SELECT quiet_until_ms FROM slot_table").fetch_one(&mut *conn).await?;
        Ok(quiet <= now_ms(conn).await?)
    }

    /// Whether the table never had a position that a process has: commits were lost.
    pub(crate) async fn is_lost(conn: &mut Conn, known: proto::Position) -> Result<bool, Fault> {
        if known.timeline == 0 || !guard!("timeline") {
            return Ok(false);
        }
        let at = position(conn).await?;
        Ok(!knows(conn, at, known).await?)
    }

    /// Begins the next timeline, because a process has a position that the table never had. No slot
    /// moves before a lease of `ttl_ms` that is not renewed has run out.
    pub(crate) async fn begin(
        conn: &mut Conn,
        name: &str,
        known: proto::Position,
        ttl_ms: u32,
    ) -> Result<(), Fault> {
        // Another process may report the same just now.
        let at = lock(conn).await?;
        if knows(conn, at, known).await? {
            return Ok(());
        }
        let next = advance(conn, at, at.timeline.max(known.timeline) + 1).await?;
        let quiet = now_ms(conn).await? + i64::from(ttl_ms);
        sqlx::query("UPDATE slot_table SET quiet_until_ms = $1").bind(quiet).execute(conn).await?;
        tracing::error!(
            reported_by = name,
            reported_timeline = known.timeline,
            reported_version = known.version,
            version = at.version,
            timeline = next.timeline,
            "the database lost commits: a process knows a slot table that it does not have (was a \
             standby promoted that lagged, or a backup restored?). Owners assert their slots anew; \
             what else was lost, as archived messages, is not found out"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_lost_if_the_table_should_have_it_and_does_not() {
        let at = |timeline, version, token| proto::Position {
            timeline,
            version,
            token,
        };
        let now = at(2, 2_000, 7);
        assert!(had(now, at(2, 1_500, 3), Some(at(2, 1_500, 3))));
        assert!(!had(now, at(2, 1_500, 3), Some(at(2, 1_500, 4))), "another");
        assert!(
            !had(now, at(2, 1_500, 3), Some(at(1, 1_500, 3))),
            "timeline"
        );
        assert!(!had(now, at(2, 2_001, 3), None), "a later version");
        assert!(!had(now, at(3, 1, 3), None), "a later timeline");
        assert!(had(now, at(2, 1_000, 3), None), "too old to be known");
        assert!(had(now, at(1, 9_000, 3), None), "an older timeline");
    }
}
