//! Leases of processes, by the database's clock.
//!
//! A lease belongs to a name *and* an incarnation, so a process that starts again does not wait
//! for, or disturb, what its predecessor left. `ended` is final: set by the holder when it leaves
//! and by a claim that took slots from a holder whose lease had run out, so that a renewal that
//! comes late finds out.

use sestina_api::store::StoreError;
use sestina_proto as proto;

use super::checked;
use crate::dialect::dialects;
use crate::error::Fault;

/// A row of the table: name, incarnation, role, address, draining, expires_ms, ended.
pub(crate) type LeaseRow = (String, i64, i64, String, bool, i64, bool);

/// What the row says at `now`.
pub(crate) fn to_lease(row: LeaseRow, now: i64) -> proto::Lease {
    let (name, incarnation, role, address, draining, expires_ms, ended) = row;
    let remaining = if ended {
        0
    } else {
        expires_ms.saturating_sub(now).max(0)
    };
    let node = proto::Node {
        name,
        incarnation: incarnation as u64,
        role: role as i32,
        address,
        draining,
        ..proto::Node::default()
    };
    proto::Lease {
        node: Some(node),
        remaining_ms: u32::try_from(remaining).unwrap_or(u32::MAX),
    }
}

fn node_of(node: Option<&proto::Node>) -> Result<&proto::Node, StoreError> {
    match node {
        Some(node) if !node.name.is_empty() => {
            checked(&node.name)?;
            checked(&node.address)?;
            Ok(node)
        }
        _ => Err(StoreError::Invalid("the request names no node".to_owned())),
    }
}

dialects! {
    items:

    /// Takes or renews a lease. The clock is read before the row is waited for, so the lease may
    /// end a little early, never late against the holder's count (from before the request).
    pub(crate) async fn renew(
        conn: &mut Conn,
        request: &proto::LeaseRenewRequest,
    ) -> Result<proto::LeaseRenewReply, Fault> {
        let node = node_of(request.node.as_ref())?;
        let expires_ms = now_ms(conn).await? + i64::from(request.ttl_ms);
        let done = sqlx::query(
            "INSERT INTO lease (name, incarnation, role, address, draining, expires_ms, ended)
             VALUES ($1, $2, $3, $4, $5, $6, FALSE)
             ON CONFLICT (name, incarnation) DO UPDATE SET role = excluded.role,
                 address = excluded.address, draining = excluded.draining,
                 expires_ms = excluded.expires_ms
             WHERE NOT lease.ended",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(i64::from(node.role))
        .bind(&node.address)
        .bind(node.draining)
        .bind(expires_ms)
        .execute(conn)
        .await?;
        Ok(proto::LeaseRenewReply { lost: done.rows_affected() == 0 })
    }

    /// Ends a lease for good.
    pub(crate) async fn end(
        conn: &mut Conn,
        request: &proto::LeaseEndRequest,
    ) -> Result<proto::Empty, Fault> {
        let node = node_of(request.node.as_ref())?;
        // Also if it was never taken: a first renewal may still be under way.
        sqlx::query(
            "INSERT INTO lease (name, incarnation, role, address, draining, expires_ms, ended)
             VALUES ($1, $2, $3, $4, $5, $6, TRUE)
             ON CONFLICT (name, incarnation) DO UPDATE SET ended = TRUE,
                 expires_ms = excluded.expires_ms",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(i64::from(node.role))
        .bind(&node.address)
        .bind(node.draining)
        .bind(now_ms(conn).await?)
        .execute(&mut *conn)
        .await?;
        sqlx::query("UPDATE planner SET expires_ms = 0 WHERE name = $1 AND incarnation = $2")
            .bind(&node.name)
            .bind(node.incarnation as i64)
            .execute(conn)
            .await?;
        Ok(proto::Empty {})
    }

    /// All leases, ended ones with nothing remaining.
    pub(crate) async fn list(
        conn: &mut Conn,
        _request: &proto::Empty,
    ) -> Result<proto::LeaseListReply, Fault> {
        let (rows, now) = rows(conn).await?;
        let leases = rows.into_iter().map(|row| to_lease(row, now)).collect();
        Ok(proto::LeaseListReply { leases })
    }

    /// All rows, and the time to judge them by.
    pub(crate) async fn rows(conn: &mut Conn) -> Result<(Vec<LeaseRow>, i64), Fault> {
        let rows = sqlx::query_as(
            "SELECT name, incarnation, role, address, draining, expires_ms, ended FROM lease
             ORDER BY name, incarnation",
        )
        .fetch_all(&mut *conn)
        .await?;
        Ok((rows, now_ms(conn).await?))
    }
}
