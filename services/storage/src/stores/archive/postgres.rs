//! Appending on PostgreSQL: the rows of many callers in one transaction and few statements.
//!
//! Transactions that run at once lock in one order: slots, new peers, new owners, owners (each
//! sorted), so they cannot deadlock. The lock on an owner orders the appends to its archive.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::PgConnection;

use super::place::{Head, Place, Placed, fresh, late, order, place};
use super::{Fenced, Rows, admit, blob, peers, slots, tail};
use crate::error::Fault;
use crate::fence;

/// The months known to have a partition: first millisecond and the one after the last.
#[derive(Debug, Default)]
pub(crate) struct Months(Mutex<BTreeMap<i64, i64>>);

impl Months {
    fn has(&self, at_ms: i64) -> bool {
        self.0
            .lock()
            .range(..=at_ms)
            .next_back()
            .is_some_and(|(_, end)| at_ms < *end)
    }

    /// Remembers a partition, once the transaction that made it is committed.
    pub(crate) fn learn(&self, (from, end): (i64, i64)) {
        self.0.lock().insert(from, end);
    }

    /// Another replica's maintenance has dropped one.
    pub(crate) fn forget(&self) {
        self.0.lock().clear();
    }
}

/// Makes the partition of the month of `at_ms`, if it is missing.
pub(crate) async fn make_month(
    conn: &mut PgConnection,
    at_ms: i64,
) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as("SELECT o_lo, o_hi FROM archive_partition($1)")
        .bind(at_ms)
        .fetch_one(conn)
        .await
}

/// Makes the partitions of this month and the next two.
pub(crate) async fn months_ahead(conn: &mut PgConnection) -> Result<Vec<(i64, i64)>, Fault> {
    let mut at_ms = crate::dialect::pg::now_ms(conn).await?;
    let mut months = Vec::with_capacity(3);
    for _ in 0..3 {
        let month = make_month(conn, at_ms).await?;
        at_ms = month.1;
        months.push(month);
    }
    Ok(months)
}

struct Owner {
    id: i64,
    head: Head,
}

/// Appends a batch. Fails with [`Fault::Partitions`] if months are missing.
pub(crate) async fn append(
    conn: &mut PgConnection,
    batch: &[Arc<Rows>],
    months: &Months,
) -> Result<Fenced, Fault> {
    let epochs = fence::pg::hold(conn, &slots(batch)).await?;
    let (admitted, fenced) = admit(batch, &epochs)?;
    if admitted.is_empty() {
        return Ok(fenced);
    }
    let peers = peer_ids(conn, peers(&admitted)).await?;
    let jids: Vec<&str> = admitted.keys().copied().collect();
    let owners = lock_owners(conn, &jids).await?;
    take_out(conn, &owners, &admitted).await?;
    let mut known = known_ids(conn, &owners, &admitted).await?;
    let mut all = Vec::new();
    let mut heads = Vec::new();
    for (jid, rows) in &admitted {
        let owner = owners.get(*jid).ok_or(sqlx::Error::RowNotFound)?;
        let fresh = fresh(rows, &known.remove(&owner.id).unwrap_or_default());
        let tail = match late(&fresh, owner.head) {
            Some(lowest) => tail::pg::read(conn, owner.id, lowest).await?,
            None => BTreeMap::new(),
        };
        let (placed, newest) = place(&fresh, owner.head, tail)?;
        if newest != owner.head {
            heads.push((owner.id, newest));
        }
        all.extend(placed.into_iter().map(|placed| (owner.id, placed)));
    }
    let missing: BTreeSet<i64> = all
        .iter()
        .map(|(_, placed)| placed.place.0)
        .filter(|at_ms| !months.has(*at_ms))
        .collect();
    if !missing.is_empty() {
        return Err(Fault::Partitions(missing.into_iter().collect()));
    }
    if !all.is_empty() {
        insert(conn, &all, &peers, &heads).await?;
    }
    Ok(fenced)
}

/// The ids of the other sides; new ones get one.
async fn peer_ids(
    conn: &mut PgConnection,
    jids: BTreeSet<&str>,
) -> Result<HashMap<String, i64>, Fault> {
    const FIND: &str = "SELECT jid, id FROM archive_peer WHERE jid = ANY($1)";
    let wanted: Vec<&str> = jids.into_iter().collect();
    let rows: Vec<(String, i64)> = sqlx::query_as(FIND)
        .bind(&wanted)
        .fetch_all(&mut *conn)
        .await?;
    let mut found: HashMap<String, i64> = rows.into_iter().collect();
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|jid| !found.contains_key(*jid))
        .collect();
    if !missing.is_empty() {
        sqlx::query(
            "INSERT INTO archive_peer (jid) SELECT unnest($1::TEXT[]) ON CONFLICT DO NOTHING",
        )
        .bind(&missing)
        .execute(&mut *conn)
        .await?;
        let rows: Vec<(String, i64)> = sqlx::query_as(FIND).bind(&missing).fetch_all(conn).await?;
        found.extend(rows);
    }
    Ok(found)
}

/// Makes the owners that are missing, locks all of them, and reads their newest rows.
async fn lock_owners(
    conn: &mut PgConnection,
    jids: &[&str],
) -> Result<HashMap<String, Owner>, Fault> {
    let found: Vec<String> =
        sqlx::query_scalar("SELECT jid FROM archive_owner WHERE jid = ANY($1)")
            .bind(jids)
            .fetch_all(&mut *conn)
            .await?;
    if found.len() < jids.len() {
        let found: HashSet<&str> = found.iter().map(String::as_str).collect();
        let missing: Vec<&str> = jids
            .iter()
            .copied()
            .filter(|jid| !found.contains(jid))
            .collect();
        sqlx::query(
            "INSERT INTO archive_owner (jid) SELECT unnest($1::TEXT[]) ON CONFLICT DO NOTHING",
        )
        .bind(&missing)
        .execute(&mut *conn)
        .await?;
    }
    let rows: Vec<(String, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT jid, id, newest_ms, newest_epoch, newest_counter FROM archive_owner
         WHERE jid = ANY($1) ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(jids)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(jid, id, at_ms, epoch, counter)| {
            (
                jid,
                Owner {
                    id,
                    head: (at_ms, epoch, counter),
                },
            )
        })
        .collect())
}

/// Takes out what rows put further behind.
async fn take_out(
    conn: &mut PgConnection,
    owners: &HashMap<String, Owner>,
    admitted: &BTreeMap<&str, Vec<&sestina_proto::ArchiveRow>>,
) -> Result<(), Fault> {
    let moving = admitted.iter().flat_map(|(jid, rows)| {
        let owner = owners.get(*jid);
        let rows = rows.iter().filter(|row| row.moves);
        rows.filter_map(move |row| Some((owner?.id, *row)))
    });
    let moving: Vec<(i64, &sestina_proto::ArchiveRow)> = moving.collect();
    if moving.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH gone AS (
             DELETE FROM archive_key k
             USING unnest($1::BIGINT[], $2::BYTEA[], $3::BIGINT[], $4::BIGINT[])
                 AS n (archive, stanza_id, epoch, counter)
             WHERE k.archive = n.archive AND k.stanza_id = n.stanza_id
                 AND (k.epoch, k.counter) < (n.epoch, n.counter)
             RETURNING k.archive, k.at_ms, k.epoch, k.counter
         )
         DELETE FROM archive a USING gone
         WHERE a.archive = gone.archive AND a.at_ms = gone.at_ms AND a.epoch = gone.epoch
             AND a.counter = gone.counter",
    )
    .bind(moving.iter().map(|(owner, _)| *owner).collect::<Vec<_>>())
    .bind(
        moving
            .iter()
            .map(|(_, row)| &row.stanza_id[..])
            .collect::<Vec<_>>(),
    )
    .bind(
        moving
            .iter()
            .map(|(_, row)| order(row).0)
            .collect::<Vec<_>>(),
    )
    .bind(
        moving
            .iter()
            .map(|(_, row)| order(row).1)
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Which of the rows' stanza-ids the archives have.
async fn known_ids(
    conn: &mut PgConnection,
    owners: &HashMap<String, Owner>,
    admitted: &BTreeMap<&str, Vec<&sestina_proto::ArchiveRow>>,
) -> Result<HashMap<i64, HashSet<Vec<u8>>>, Fault> {
    let mut archives = Vec::new();
    let mut ids: Vec<&[u8]> = Vec::new();
    for (jid, rows) in admitted {
        // Deleted between finding and locking it: the caller's repetition makes a new one.
        let owner = owners.get(*jid).ok_or_else(|| {
            let text = format!("the archive {jid} was deleted at the same time");
            sestina_api::store::StoreError::Unavailable(text)
        })?;
        archives.extend(rows.iter().map(|_| owner.id));
        ids.extend(rows.iter().map(|row| &row.stanza_id[..]));
    }
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT k.archive, k.stanza_id FROM archive_key k
         JOIN unnest($1::BIGINT[], $2::BYTEA[]) AS n (archive, stanza_id)
             ON k.archive = n.archive AND k.stanza_id = n.stanza_id",
    )
    .bind(archives)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    let mut known: HashMap<i64, HashSet<Vec<u8>>> = HashMap::new();
    for (archive, id) in rows {
        known.entry(archive).or_default().insert(id);
    }
    Ok(known)
}

/// Writes rows, keys and heads in one statement.
async fn insert(
    conn: &mut PgConnection,
    rows: &[(i64, Placed<'_>)],
    peers: &HashMap<String, i64>,
    heads: &[(i64, Place)],
) -> Result<(), Fault> {
    let mut peer_column = Vec::with_capacity(rows.len());
    let mut stanzas = Vec::with_capacity(rows.len());
    for (_, placed) in rows {
        let peer = peers
            .get(&placed.row.with_bare)
            .ok_or(sqlx::Error::RowNotFound)?;
        peer_column.push(*peer);
        stanzas.push(blob(placed.row)?);
    }
    let column = |field: fn(&(i64, Placed<'_>)) -> i64| rows.iter().map(field).collect::<Vec<_>>();
    let head = |field: fn(&(i64, Place)) -> i64| heads.iter().map(field).collect::<Vec<_>>();
    sqlx::query(
        "WITH added AS (
             SELECT * FROM unnest($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[],
                                  $5::BYTEA[], $6::BIGINT[], $7::TEXT[], $8::BYTEA[])
                 AS n (archive, at_ms, epoch, counter, stanza_id, peer, resource, stanza)
         ), keys AS (
             INSERT INTO archive_key (archive, stanza_id, at_ms, epoch, counter)
             SELECT archive, stanza_id, at_ms, epoch, counter FROM added
         ), heads AS (
             UPDATE archive_owner o SET newest_ms = n.at_ms, newest_epoch = n.epoch,
                 newest_counter = n.counter
             FROM unnest($9::BIGINT[], $10::BIGINT[], $11::BIGINT[], $12::BIGINT[])
                 AS n (id, at_ms, epoch, counter)
             WHERE o.id = n.id
         )
         INSERT INTO archive (archive, at_ms, epoch, counter, stanza_id, peer, resource, stanza)
         SELECT archive, at_ms, epoch, counter, stanza_id, peer, resource, stanza FROM added",
    )
    .bind(column(|row| row.0))
    .bind(column(|row| row.1.place.0))
    .bind(column(|row| row.1.place.1))
    .bind(column(|row| row.1.place.2))
    .bind(
        rows.iter()
            .map(|row| &row.1.row.stanza_id[..])
            .collect::<Vec<_>>(),
    )
    .bind(peer_column)
    .bind(
        rows.iter()
            .map(|row| row.1.row.with_resource.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(stanzas)
    .bind(head(|head| head.0))
    .bind(head(|head| head.1.0))
    .bind(head(|head| head.1.1))
    .bind(head(|head| head.1.2))
    .execute(conn)
    .await?;
    Ok(())
}
