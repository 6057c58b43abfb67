//! Fencing: a write counts only under the newest epoch of its slot, checked in its transaction.
//!
//! On PostgreSQL a writer holds a shared advisory lock on each of its slots and a claim holds them
//! exclusively, both until their transaction ends. So a claim waits for the writes under way, and
//! a write that comes later waits for the claim and then reads the new epoch: none slips between.
//! Locks are taken in ascending order, so they cannot deadlock. On SQLite there is one writer.

use std::collections::{BTreeMap, BTreeSet};

use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_runtime::guard;

/// How many slots there are.
pub(crate) const SLOTS: u32 = 4096;

/// The slot and epoch of a write; a write without them is the caller's defect.
pub(crate) fn fence(fence: Option<&proto::Fence>) -> Result<(u32, u64), StoreError> {
    match fence {
        None => Err(StoreError::Invalid("the write carries no fence".to_owned())),
        Some(fence) if fence.slot >= SLOTS => Err(StoreError::Invalid(format!(
            "there is no slot {}",
            fence.slot
        ))),
        Some(fence) => Ok((fence.slot, fence.epoch)),
    }
}

/// The epochs as the table has them.
pub(crate) struct Epochs(BTreeMap<u32, u64>);

impl Epochs {
    fn collect(rows: Vec<(i64, i64)>) -> Epochs {
        Epochs(
            rows.into_iter()
                .map(|(slot, epoch)| (slot as u32, epoch as u64))
                .collect(),
        )
    }

    /// Whether a write under this fence counts. Epoch 0 is a slot that never had an owner.
    pub(crate) fn admit(&self, (slot, epoch): (u32, u64)) -> bool {
        epoch != 0 && (self.0.get(&slot) == Some(&epoch) || !guard!("epoch"))
    }
}

/// Fences of one transaction on PostgreSQL.
pub(crate) mod pg {
    use super::{BTreeSet, Epochs};
    use crate::dialect::pg::Conn;

    /// The class of the slots' advisory locks; the object is the slot.
    const CLASS: i32 = 24151;

    /// Holds the slots for writing and reads their epochs (in a statement of its own: the snapshot
    /// of the locking one is older than the lock).
    pub(crate) async fn hold(
        conn: &mut Conn,
        slots: &BTreeSet<u32>,
    ) -> Result<Epochs, sqlx::Error> {
        let ids: Vec<i32> = slots.iter().map(|slot| *slot as i32).collect();
        sqlx::query(
            "SELECT count(pg_advisory_xact_lock_shared($1, s)::TEXT) FROM unnest($2::INT4[]) AS s",
        )
        .bind(CLASS)
        .bind(&ids)
        .execute(&mut *conn)
        .await?;
        let rows = sqlx::query_as("SELECT slot, epoch FROM slot WHERE slot = ANY($1)")
            .bind(
                ids.iter()
                    .map(|slot| i64::from(*slot))
                    .collect::<Vec<i64>>(),
            )
            .fetch_all(conn)
            .await?;
        Ok(Epochs::collect(rows))
    }

    /// Waits until no write of these slots is under way, and keeps new ones waiting.
    pub(crate) async fn seize(conn: &mut Conn, slots: &BTreeSet<u32>) -> Result<(), sqlx::Error> {
        let ids: Vec<i32> = slots.iter().map(|slot| *slot as i32).collect();
        sqlx::query(
            "SELECT count(pg_advisory_xact_lock($1, s)::TEXT) FROM unnest($2::INT4[]) AS s",
        )
        .bind(CLASS)
        .bind(&ids)
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// Fences of one transaction on SQLite.
pub(crate) mod lite {
    use super::{BTreeSet, Epochs};
    use crate::dialect::lite::Conn;

    /// Reads the slots' epochs; the transaction is the only writer.
    pub(crate) async fn hold(
        conn: &mut Conn,
        slots: &BTreeSet<u32>,
    ) -> Result<Epochs, sqlx::Error> {
        let mut rows = Vec::with_capacity(slots.len());
        for slot in slots {
            let row: Option<(i64, i64)> =
                sqlx::query_as("SELECT slot, epoch FROM slot WHERE slot = $1")
                    .bind(i64::from(*slot))
                    .fetch_optional(&mut *conn)
                    .await?;
            rows.extend(row);
        }
        Ok(Epochs::collect(rows))
    }

    /// The transaction is the only writer already.
    #[allow(clippy::unused_async)]
    pub(crate) async fn seize(_: &mut Conn, _: &BTreeSet<u32>) -> Result<(), sqlx::Error> {
        Ok(())
    }
}
