//! Slot rows in bulk: all 4,096 may move in one claim, and their locks are held meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use super::table::SlotRow;
use crate::error::Fault;

fn by_slot(rows: Vec<SlotRow>) -> BTreeMap<u32, SlotRow> {
    rows.into_iter().map(|row| (row.0 as u32, row)).collect()
}

/// On PostgreSQL: one statement each.
pub(crate) mod pg {
    use super::{BTreeMap, BTreeSet, Fault, SlotRow, by_slot};
    use crate::dialect::pg::Conn;

    /// All of them, in order.
    pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<SlotRow>, Fault> {
        let rows = sqlx::query_as("SELECT slot, owner, incarnation, epoch FROM slot ORDER BY slot");
        Ok(rows.fetch_all(conn).await?)
    }

    pub(crate) async fn load(
        conn: &mut Conn,
        slots: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, SlotRow>, Fault> {
        let ids: Vec<i64> = slots.iter().map(|slot| i64::from(*slot)).collect();
        let rows =
            sqlx::query_as("SELECT slot, owner, incarnation, epoch FROM slot WHERE slot = ANY($1)")
                .bind(ids)
                .fetch_all(conn)
                .await?;
        Ok(by_slot(rows))
    }

    pub(crate) async fn store(conn: &mut Conn, rows: &[SlotRow]) -> Result<(), Fault> {
        let slots: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let owners: Vec<&str> = rows.iter().map(|row| row.1.as_str()).collect();
        let incarnations: Vec<i64> = rows.iter().map(|row| row.2).collect();
        let epochs: Vec<i64> = rows.iter().map(|row| row.3).collect();
        sqlx::query(
            "UPDATE slot SET owner = n.owner, incarnation = n.incarnation, epoch = n.epoch
             FROM unnest($1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[])
                 AS n (slot, owner, incarnation, epoch)
             WHERE slot.slot = n.slot",
        )
        .bind(slots)
        .bind(owners)
        .bind(incarnations)
        .bind(epochs)
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// On SQLite: some hundred rows in a statement.
pub(crate) mod lite {
    use sqlx::{QueryBuilder, Sqlite};

    use super::{BTreeMap, BTreeSet, Fault, SlotRow, by_slot};
    use crate::dialect::lite::Conn;

    /// All of them, in order.
    pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<SlotRow>, Fault> {
        let rows = sqlx::query_as("SELECT slot, owner, incarnation, epoch FROM slot ORDER BY slot");
        Ok(rows.fetch_all(conn).await?)
    }

    /// Four values each, of the 32,766 that one statement may have.
    const AT_ONCE: usize = 512;

    pub(crate) async fn load(
        conn: &mut Conn,
        slots: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, SlotRow>, Fault> {
        let rows: Vec<SlotRow> = sqlx::query_as("SELECT slot, owner, incarnation, epoch FROM slot")
            .fetch_all(conn)
            .await?;
        let mut rows = by_slot(rows);
        rows.retain(|slot, _| slots.contains(slot));
        Ok(rows)
    }

    /// In few statements: each is handed to another thread, which takes longer than the update.
    pub(crate) async fn store(conn: &mut Conn, rows: &[SlotRow]) -> Result<(), Fault> {
        for rows in rows.chunks(AT_ONCE) {
            let mut update =
                QueryBuilder::<Sqlite>::new("WITH n (slot, owner, incarnation, epoch) AS (");
            update.push_values(rows, |mut row, (slot, owner, incarnation, epoch)| {
                row.push_bind(slot)
                    .push_bind(owner)
                    .push_bind(incarnation)
                    .push_bind(epoch);
            });
            update.push(
                ") UPDATE slot SET owner = n.owner, incarnation = n.incarnation, epoch = n.epoch
                 FROM n WHERE slot.slot = n.slot",
            );
            update.build().execute(&mut *conn).await?;
        }
        Ok(())
    }
}
