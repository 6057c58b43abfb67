//! Leases of processes, by the database's clock.
//!
//! A lease belongs to a name *and* an incarnation, so a process that starts again does not wait
//! for, or disturb, what its predecessor left. `ended` is final: set by the holder when it leaves
//! and by a claim that took slots from a holder whose lease had run out, so that a renewal that
//! comes late finds out. The first request of an incarnation leaves the hash of its secret; nothing
//! is done for that incarnation without it from then on.

use bytes::Bytes;
use sestina_api::identity::Secret;
use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_runtime::guard;

use super::checked;
use super::versions::number;
use crate::dialect::dialects;
use crate::error::Fault;

/// A row of the table: name, incarnation, role, address, draining, expires_ms, ended, timeline, oldest,
/// newest, program.
pub(crate) type LeaseRow = (
    String,
    i64,
    i64,
    String,
    bool,
    i64,
    bool,
    i64,
    i64,
    i64,
    String,
);

/// What the row says at `now`.
pub(crate) fn to_lease(row: LeaseRow, now: i64) -> proto::Lease {
    let (oldest, newest, program) = (number(row.8), number(row.9), row.10.clone());
    let (name, incarnation, role, address, draining, expires_ms, ended, timeline, ..) = row;
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
        installed: (timeline > 0).then(|| proto::Position {
            timeline: timeline as u64,
            ..proto::Position::default()
        }),
        oldest,
        newest,
        program,
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

/// The hash that is kept of a request's secret.
fn proof_of(secret: &Bytes) -> Result<[u8; 32], StoreError> {
    let proof = Secret::from_wire(secret.clone()).proof();
    proof.ok_or_else(|| StoreError::Invalid("the incarnation's secret is missing".to_owned()))
}

/// The error of a request that speaks for an incarnation without its secret.
pub(crate) fn wrong_secret(name: &str) -> StoreError {
    StoreError::Invalid(format!(
        "the secret is not that of this incarnation of {name}"
    ))
}

dialects! {
    with crate::stores::slots::history as history;
    with crate::stores::versions as versions;
    items:

    /// Takes or renews a lease. The clock is read before the row is waited for, so the lease may
    /// end a little early, never late against the holder's count (from before the request).
    pub(crate) async fn renew(
        conn: &mut Conn,
        request: &proto::LeaseRenewRequest,
    ) -> Result<proto::LeaseRenewReply, Fault> {
        let node = node_of(request.node.as_ref())?;
        let proof = proof_of(&request.secret)?;
        let installed = node.installed.unwrap_or_default();
        // Before the lease: claims take the table's row first as well.
        if history::is_lost(conn, installed).await?
            && speaks(conn, &node.name, node.incarnation, &proof).await?
        {
            history::begin(conn, &node.name, installed, request.ttl_ms).await?;
        }
        let now = now_ms(conn).await?;
        if let Some(error) = versions::conflict(conn, node, now).await?
            && !holds(conn, node, now).await?
        {
            let refused = error.to_string();
            return Ok(proto::LeaseRenewReply { lost: true, wrong_secret: false, refused });
        }
        let expires_ms = now + i64::from(request.ttl_ms);
        let done = sqlx::query(
            "INSERT INTO lease (name, incarnation, role, address, draining, expires_ms, ended,
                 proof, timeline, ttl_ms, oldest, newest, program)
             VALUES ($1, $2, $3, $4, $5, $6, FALSE, $7, $9, $10, $11, $12, $13)
             ON CONFLICT (name, incarnation) DO UPDATE SET role = excluded.role,
                 address = excluded.address, draining = excluded.draining,
                 expires_ms = excluded.expires_ms, proof = excluded.proof,
                 timeline = CASE WHEN lease.timeline > excluded.timeline THEN lease.timeline
                     ELSE excluded.timeline END,
                 ttl_ms = excluded.ttl_ms
             WHERE NOT lease.ended AND (lease.proof IS NULL OR lease.proof = excluded.proof OR $8)",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(i64::from(node.role))
        .bind(&node.address)
        .bind(node.draining)
        .bind(expires_ms)
        .bind(&proof[..])
        .bind(!guard!("incarnation-secret"))
        .bind(installed.timeline as i64)
        .bind(i64::from(request.ttl_ms))
        .bind(i64::from(node.versions().oldest))
        .bind(i64::from(node.versions().newest))
        .bind(&node.program)
        .execute(&mut *conn)
        .await?;
        let lost = done.rows_affected() == 0;
        let wrong_secret = lost && !speaks(conn, &node.name, node.incarnation, &proof).await?;
        Ok(proto::LeaseRenewReply {
            lost: lost && !wrong_secret,
            wrong_secret,
            refused: String::new(),
        })
    }

    /// Whether this incarnation has a lease now.
    async fn holds(conn: &mut Conn, node: &proto::Node, now: i64) -> Result<bool, Fault> {
        let held: Option<bool> = sqlx::query_scalar(
            "SELECT ended FROM lease
             WHERE name = $1 AND incarnation = $2 AND NOT ended AND expires_ms > $3",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(now)
        .fetch_optional(conn)
        .await?;
        Ok(held.is_some())
    }

    /// Whether a secret with this hash speaks for the incarnation. Any secret speaks for an
    /// incarnation that has left none yet.
    pub(crate) async fn speaks(
        conn: &mut Conn,
        name: &str,
        incarnation: u64,
        proof: &[u8],
    ) -> Result<bool, Fault> {
        let kept = kept(conn, name, incarnation).await?;
        Ok(kept.is_none_or(|kept| kept == proof) || !guard!("incarnation-secret"))
    }

    /// The hash that the incarnation has left.
    async fn kept(conn: &mut Conn, name: &str, incarnation: u64) -> Result<Option<Vec<u8>>, Fault> {
        let row: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT proof FROM lease WHERE name = $1 AND incarnation = $2")
                .bind(name)
                .bind(incarnation as i64)
                .fetch_optional(conn)
                .await?;
        Ok(row.flatten())
    }

    /// Whether a secret is that of an incarnation.
    pub(crate) async fn prove(
        conn: &mut Conn,
        request: &proto::LeaseProveRequest,
    ) -> Result<proto::LeaseProveReply, Fault> {
        let node = node_of(request.node.as_ref())?;
        let proof = proof_of(&request.secret)?;
        let kept = kept(conn, &node.name, node.incarnation).await?;
        Ok(proto::LeaseProveReply {
            known: kept.is_some(),
            proved: kept.is_some_and(|kept| kept == proof),
        })
    }

    /// Fails if the secret in `request` is not that of the incarnation for which it speaks.
    pub(crate) async fn check_speaker(
        conn: &mut Conn,
        name: &str,
        incarnation: u64,
        secret: &Bytes,
    ) -> Result<(), Fault> {
        let proof = proof_of(secret)?;
        match speaks(conn, name, incarnation, &proof).await? {
            true => Ok(()),
            false => Err(wrong_secret(name).into()),
        }
    }

    /// Notes that a process has asserted what it owns on this timeline; true the first time. The
    /// process needs a lease that has not ended, and the secret that it left with that lease.
    pub(crate) async fn asserts(
        conn: &mut Conn,
        node: &proto::Node,
        secret: &Bytes,
        timeline: i64,
    ) -> Result<bool, Fault> {
        let proof = proof_of(secret)?;
        let before: Option<(i64, Option<Vec<u8>>, bool)> = sqlx::query_as(
            "SELECT timeline, proof, ended FROM lease WHERE name = $1 AND incarnation = $2",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .fetch_optional(&mut *conn)
        .await?;
        let Some((before, kept, false)) = before else {
            let name = &node.name;
            return Err(StoreError::Invalid(format!("{name} has no lease here")).into());
        };
        if kept.is_none_or(|kept| kept != proof) {
            return Err(wrong_secret(&node.name).into());
        }
        sqlx::query("UPDATE lease SET timeline = $3 WHERE name = $1 AND incarnation = $2")
            .bind(&node.name)
            .bind(node.incarnation as i64)
            .bind(timeline)
            .execute(conn)
            .await?;
        Ok(before < timeline)
    }

    /// A claim took slots from a holder: its lease has ended, also if the database lost its row.
    pub(crate) async fn robbed(
        conn: &mut Conn,
        name: &str,
        incarnation: u64,
    ) -> Result<(), Fault> {
        sqlx::query(
            "INSERT INTO lease (name, incarnation, role, address, draining, expires_ms, ended)
             VALUES ($1, $2, $3, '', FALSE, 0, TRUE)
             ON CONFLICT (name, incarnation) DO UPDATE SET ended = TRUE",
        )
        .bind(name)
        .bind(incarnation as i64)
        .bind(i64::from(i32::from(proto::NodeRole::Router)))
        .execute(conn)
        .await?;
        Ok(())
    }

    /// Ends a lease for good.
    pub(crate) async fn end(
        conn: &mut Conn,
        request: &proto::LeaseEndRequest,
    ) -> Result<proto::Empty, Fault> {
        let node = node_of(request.node.as_ref())?;
        let proof = proof_of(&request.secret)?;
        // Also if it was never taken: a first renewal may still be under way.
        let ended = sqlx::query(
            "INSERT INTO lease (name, incarnation, role, address, draining, expires_ms, ended,
                 proof)
             VALUES ($1, $2, $3, $4, $5, $6, TRUE, $7)
             ON CONFLICT (name, incarnation) DO UPDATE SET ended = TRUE,
                 expires_ms = excluded.expires_ms, proof = excluded.proof
             WHERE lease.proof IS NULL OR lease.proof = excluded.proof OR $8",
        )
        .bind(&node.name)
        .bind(node.incarnation as i64)
        .bind(i64::from(node.role))
        .bind(&node.address)
        .bind(node.draining)
        .bind(now_ms(conn).await?)
        .bind(&proof[..])
        .bind(!guard!("incarnation-secret"))
        .execute(&mut *conn)
        .await?;
        if ended.rows_affected() == 0 {
            return Err(wrong_secret(&node.name).into());
        }
        sqlx::query("UPDATE planner SET expires_ms = 0 WHERE name = $1 AND incarnation = $2")
            .bind(&node.name)
            .bind(node.incarnation as i64)
            .execute(conn)
            .await?;
        Ok(proto::Empty {})
    }

    /// Ends all leases and the planner's: for a database whose only process has just begun.
    pub(crate) async fn end_all(conn: &mut Conn, _request: &()) -> Result<(), Fault> {
        sqlx::query("UPDATE lease SET ended = TRUE WHERE NOT ended").execute(&mut *conn).await?;
        sqlx::query("UPDATE planner SET expires_ms = 0").execute(conn).await?;
        Ok(())
    }

    /// All leases, ended ones with nothing remaining.
    pub(crate) async fn list(
        conn: &mut Conn,
        _request: &proto::Empty,
    ) -> Result<proto::LeaseListReply, Fault> {
        let (rows, now) = rows(conn).await?;
        let leases = rows.into_iter().map(|row| to_lease(row, now)).collect();
        let storages = versions::storages(conn, now).await?;
        Ok(proto::LeaseListReply { leases, storages })
    }

    /// All rows, and the time to judge them by.
    pub(crate) async fn rows(conn: &mut Conn) -> Result<(Vec<LeaseRow>, i64), Fault> {
        let rows = sqlx::query_as(
            "SELECT name, incarnation, role, address, draining, expires_ms, ended, timeline,
                 oldest, newest, program
             FROM lease ORDER BY name, incarnation",
        )
        .fetch_all(&mut *conn)
        .await?;
        Ok((rows, now_ms(conn).await?))
    }
}
