//! The times of an archive's last rows: a row that comes late is placed between them.

use std::collections::BTreeMap;

use super::place::Place;
use crate::dialect::dialects;
use crate::error::Fault;

/// How many rows are read at once.
const ROWS: i64 = 512;

dialects! {
    items:

    /// The times of the last rows, down to the neighbour before `lowest`.
    pub(crate) async fn read(
        conn: &mut Conn,
        archive: i64,
        lowest: (i64, i64),
    ) -> Result<BTreeMap<(i64, i64), i64>, Fault> {
        let mut tail = BTreeMap::new();
        let mut below = (i64::MAX, i64::MAX);
        loop {
            let rows: Vec<Place> = sqlx::query_as(
                "SELECT at_ms, epoch, counter FROM archive
                 WHERE archive = $1 AND (epoch, counter) < ($2, $3)
                 ORDER BY epoch DESC, counter DESC LIMIT $4",
            )
            .bind(archive)
            .bind(below.0)
            .bind(below.1)
            .bind(ROWS)
            .fetch_all(&mut *conn)
            .await?;
            let Some(last) = rows.last() else {
                return Ok(tail);
            };
            below = (last.1, last.2);
            let more = rows.len() as i64 == ROWS && below >= lowest;
            tail.extend(
                rows.into_iter()
                    .map(|(at_ms, epoch, counter)| ((epoch, counter), at_ms)),
            );
            if !more {
                return Ok(tail);
            }
        }
    }
}
