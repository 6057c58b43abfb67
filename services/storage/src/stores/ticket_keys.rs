//! Keys of TLS tickets, the same for all edges. Each is announced for one period, used for one, and
//! accepted for one more: then it is gone, and so is what was sealed with it.
//!
//! The database's clock decides when a period is over. A key from the future (the clock was wrong
//! when it was made) is replaced at once.

use sestina_proto as proto;
use sqlx::Row as _;

use crate::dialect::dialects;
use crate::error::Fault;

/// Keys that are kept: the one before, the one in use, the next one.
const KEPT: i64 = 3;

dialects! {
    items:

    /// The keys, after what was due.
    pub(crate) async fn get(
        conn: &mut Conn,
        request: &proto::TicketKeysRequest,
    ) -> Result<proto::TicketKeysReply, Fault> {
        let period = i64::try_from(request.period_ms).unwrap_or(i64::MAX);
        let now = now_ms(conn).await?;
        let newest = sqlx::query("SELECT number, made_ms FROM ticket_key ORDER BY number DESC LIMIT 1")
            .fetch_optional(&mut *conn)
            .await?;
        let newest = newest.map(|row| (row.get::<i64, _>(0), row.get::<i64, _>(1)));
        let due: Vec<i64> = match newest {
            None => vec![1, 2],
            Some((number, made)) => {
                let wrong = made > now.saturating_add(period);
                let over = now >= made.saturating_add(period);
                (over || wrong).then_some(number + 1).into_iter().collect()
            }
        };
        for number in due {
            let key: [u8; 32] = rand::random();
            // Another router may have asked at the same time: the first one's key stays.
            sqlx::query(
                "INSERT INTO ticket_key (number, key, made_ms) VALUES ($1, $2, $3)
                 ON CONFLICT DO NOTHING",
            )
            .bind(number)
            .bind(&key[..])
            .bind(now)
            .execute(&mut *conn)
            .await?;
            sqlx::query("DELETE FROM ticket_key WHERE number <= $1")
                .bind(number - KEPT)
                .execute(&mut *conn)
                .await?;
        }
        let rows = sqlx::query("SELECT number, key FROM ticket_key ORDER BY number")
            .fetch_all(conn)
            .await?;
        let keys = rows.iter().map(|row| proto::TicketKeyRow {
            number: u64::try_from(row.get::<i64, _>(0)).unwrap_or_default(),
            key: row.get::<Vec<u8>, _>(1).into(),
        });
        Ok(proto::TicketKeysReply { keys: keys.collect() })
    }
}
