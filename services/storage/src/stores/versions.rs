//! Which versions of the protocol between tiers the processes of the cluster speak. Edges and routers
//! say so with their leases; storage processes, which have none, in a table of their own.

use std::time::Duration;

use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_proto::versions::{NoCommon, Range};

use crate::dialect::dialects;
use crate::error::Fault;

/// A storage process, and how long it is counted without another word from it.
pub(crate) struct Member {
    pub(crate) node: proto::Node,
    pub(crate) term: Duration,
}

/// A row: name, incarnation, address, oldest, newest, program, expires_ms.
type MemberRow = (String, i64, String, i64, i64, String, i64);

/// A version as the database has it.
pub(crate) fn number(version: i64) -> u32 {
    u32::try_from(version).unwrap_or(u32::MAX)
}

fn to_lease(row: MemberRow, now: i64) -> proto::Lease {
    let (name, incarnation, address, oldest, newest, program, expires_ms) = row;
    let remaining = expires_ms.saturating_sub(now).max(0);
    let node = proto::Node {
        name,
        incarnation: incarnation as u64,
        role: proto::NodeRole::Storage.into(),
        address,
        oldest: number(oldest),
        newest: number(newest),
        program,
        ..proto::Node::default()
    };
    proto::Lease {
        node: Some(node),
        remaining_ms: u32::try_from(remaining).unwrap_or(u32::MAX),
    }
}

dialects! {
    items:

    /// A process that lives and has no version in common with `node`. Its own predecessor does not count.
    pub(crate) async fn conflict(
        conn: &mut Conn,
        node: &proto::Node,
        now: i64,
    ) -> Result<Option<NoCommon>, sqlx::Error> {
        let ours = node.versions();
        let found: Option<(String, i64, i64)> = sqlx::query_as(
            "SELECT name, oldest, newest FROM lease
             WHERE NOT ended AND expires_ms > $1 AND (oldest > $2 OR newest < $3)
                 AND NOT (name = $4 AND role = $5)
             UNION ALL
             SELECT name, oldest, newest FROM storage_process
             WHERE expires_ms > $1 AND (oldest > $2 OR newest < $3)
                 AND NOT (name = $4 AND $6 = $5)
             LIMIT 1",
        )
        .bind(now)
        .bind(i64::from(ours.newest))
        .bind(i64::from(ours.oldest))
        .bind(&node.name)
        .bind(i64::from(node.role))
        .bind(i64::from(i32::from(proto::NodeRole::Storage)))
        .fetch_optional(conn)
        .await?;
        Ok(found.map(|(them, oldest, newest)| NoCommon {
            us: node.name.clone(),
            ours,
            them,
            theirs: Range::told(number(oldest), number(newest)),
        }))
    }

    /// Notes that a storage process lives; refused if it cannot work with another process that lives.
    pub(crate) async fn register(conn: &mut Conn, member: &Member) -> Result<(), Fault> {
        let (node, now) = (&member.node, now_ms(conn).await?);
        let counted: Option<i64> = sqlx::query_scalar(
            "SELECT expires_ms FROM storage_process
             WHERE name = $1 AND incarnation = $2 AND expires_ms > $3",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(now)
        .fetch_optional(&mut *conn)
        .await?;
        if counted.is_none() && let Some(error) = conflict(conn, node, now).await? {
            return Err(StoreError::Invalid(error.to_string()).into());
        }
        sqlx::query("DELETE FROM storage_process WHERE expires_ms <= $1")
            .bind(now)
            .execute(&mut *conn)
            .await?;
        sqlx::query(
            "INSERT INTO storage_process (name, incarnation, address, oldest, newest, program,
                 expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (name, incarnation) DO UPDATE SET expires_ms = excluded.expires_ms",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(&node.address)
        .bind(i64::from(node.oldest))
        .bind(i64::from(node.newest))
        .bind(&node.program)
        .bind(now.saturating_add(i64::try_from(member.term.as_millis()).unwrap_or(i64::MAX)))
        .execute(conn)
        .await?;
        Ok(())
    }

    /// A storage process ends.
    pub(crate) async fn leave(conn: &mut Conn, node: &proto::Node) -> Result<(), Fault> {
        sqlx::query("DELETE FROM storage_process WHERE name = $1 AND incarnation = $2")
            .bind(&node.name)
            .bind(node.incarnation as i64)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// The storage processes that live.
    pub(crate) async fn storages(
        conn: &mut Conn,
        now: i64,
    ) -> Result<Vec<proto::Lease>, sqlx::Error> {
        let rows: Vec<MemberRow> = sqlx::query_as(
            "SELECT name, incarnation, address, oldest, newest, program, expires_ms
             FROM storage_process WHERE expires_ms > $1 ORDER BY name, incarnation",
        )
        .bind(now)
        .fetch_all(conn)
        .await?;
        Ok(rows.into_iter().map(|row| to_lease(row, now)).collect())
    }
}
