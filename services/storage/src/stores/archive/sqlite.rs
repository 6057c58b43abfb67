//! Appending on SQLite: the rows of many callers in one transaction of the writer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sqlx::SqliteConnection;

use super::place::{Head, Placed, fresh, late, order, place};
use super::{Fenced, Rows, admit, blob, peers, slots, tail};
use crate::error::Fault;
use crate::fence;

/// Appends a batch.
pub(crate) async fn append(
    conn: &mut SqliteConnection,
    batch: &[Arc<Rows>],
) -> Result<Fenced, Fault> {
    let epochs = fence::lite::hold(conn, &slots(batch)).await?;
    let (admitted, fenced) = admit(batch, &epochs)?;
    let peers = peer_ids(conn, peers(&admitted)).await?;
    for (jid, rows) in &admitted {
        let (id, head) = owner(conn, jid).await?;
        let mut known = HashSet::new();
        for row in rows {
            if row.moves {
                sqlx::query(
                    "DELETE FROM archive WHERE archive = $1 AND stanza_id = $2
                     AND (epoch, counter) < ($3, $4)",
                )
                .bind(id)
                .bind(&row.stanza_id[..])
                .bind(order(row).0)
                .bind(order(row).1)
                .execute(&mut *conn)
                .await?;
            }
            let there: Option<i64> =
                sqlx::query_scalar("SELECT 1 FROM archive WHERE archive = $1 AND stanza_id = $2")
                    .bind(id)
                    .bind(&row.stanza_id[..])
                    .fetch_optional(&mut *conn)
                    .await?;
            known.extend(there.map(|_| row.stanza_id.to_vec()));
        }
        let fresh = fresh(rows, &known);
        let tail = match late(&fresh, head) {
            Some(lowest) => tail::lite::read(conn, id, lowest).await?,
            None => BTreeMap::new(),
        };
        let (placed, newest) = place(&fresh, head, tail)?;
        for placed in &placed {
            insert(conn, id, placed, &peers).await?;
        }
        if newest != head {
            sqlx::query(
                "UPDATE archive_owner SET newest_ms = $2, newest_epoch = $3, newest_counter = $4
                 WHERE id = $1",
            )
            .bind(id)
            .bind(newest.0)
            .bind(newest.1)
            .bind(newest.2)
            .execute(&mut *conn)
            .await?;
        }
    }
    Ok(fenced)
}

/// The ids of the other sides; new ones get one.
async fn peer_ids<'a>(
    conn: &mut SqliteConnection,
    jids: BTreeSet<&'a str>,
) -> Result<HashMap<&'a str, i64>, Fault> {
    let mut ids = HashMap::with_capacity(jids.len());
    for jid in jids {
        let found: Option<i64> = sqlx::query_scalar("SELECT id FROM archive_peer WHERE jid = $1")
            .bind(jid)
            .fetch_optional(&mut *conn)
            .await?;
        let id = match found {
            Some(id) => id,
            None => {
                sqlx::query_scalar("INSERT INTO archive_peer (jid) VALUES ($1) RETURNING id")
                    .bind(jid)
                    .fetch_one(&mut *conn)
                    .await?
            }
        };
        ids.insert(jid, id);
    }
    Ok(ids)
}

/// The archive's id and newest row; makes it if it is missing.
async fn owner(conn: &mut SqliteConnection, jid: &str) -> Result<(i64, Head), Fault> {
    let found: Option<(i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT id, newest_ms, newest_epoch, newest_counter FROM archive_owner WHERE jid = $1",
    )
    .bind(jid)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some((id, at_ms, epoch, counter)) = found {
        return Ok((id, (at_ms, epoch, counter)));
    }
    let id = sqlx::query_scalar("INSERT INTO archive_owner (jid) VALUES ($1) RETURNING id")
        .bind(jid)
        .fetch_one(conn)
        .await?;
    Ok((id, (-1, -1, -1)))
}

async fn insert(
    conn: &mut SqliteConnection,
    archive: i64,
    placed: &Placed<'_>,
    peers: &HashMap<&str, i64>,
) -> Result<(), Fault> {
    let peer = peers
        .get(placed.row.with_bare.as_str())
        .ok_or(sqlx::Error::RowNotFound)?;
    sqlx::query(
        "INSERT INTO archive
             (archive, at_ms, epoch, counter, stanza_id, peer, resource, stanza)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(archive)
    .bind(placed.place.0)
    .bind(placed.place.1)
    .bind(placed.place.2)
    .bind(&placed.row.stanza_id[..])
    .bind(peer)
    .bind(&placed.row.with_resource)
    .bind(blob(placed.row)?)
    .execute(conn)
    .await?;
    Ok(())
}
