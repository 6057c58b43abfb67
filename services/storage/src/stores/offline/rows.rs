//! Offline rows in bulk, where the two databases differ.

use std::collections::{HashMap, HashSet};

use super::{NewRow, User};
use crate::error::Fault;

/// On PostgreSQL: arrays.
pub(crate) mod pg {
    use super::{Fault, HashMap, HashSet, NewRow, User};
    use crate::dialect::pg::Conn;

    /// Makes the users that are missing and locks all, in one order.
    pub(crate) async fn lock_users(
        conn: &mut Conn,
        jids: &[&str],
    ) -> Result<HashMap<String, User>, Fault> {
        sqlx::query(
            "INSERT INTO offline_user (bare)
             SELECT n FROM unnest($1::TEXT[]) AS n
             WHERE NOT EXISTS (SELECT 1 FROM offline_user u WHERE u.bare = n)
             ON CONFLICT DO NOTHING",
        )
        .bind(jids)
        .execute(&mut *conn)
        .await?;
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT bare, id, waiting FROM offline_user WHERE bare = ANY($1)
             ORDER BY id FOR NO KEY UPDATE",
        )
        .bind(jids)
        .fetch_all(conn)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(bare, id, waiting)| (bare, User { id, waiting }))
            .collect())
    }

    /// Which of the keys the user has, delivered ones included.
    pub(crate) async fn known(
        conn: &mut Conn,
        user: i64,
        keys: &[Vec<u8>],
    ) -> Result<HashSet<Vec<u8>>, Fault> {
        let known: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT key FROM offline WHERE owner = $1 AND key = ANY($2)")
                .bind(user)
                .bind(keys)
                .fetch_all(conn)
                .await?;
        Ok(known.into_iter().collect())
    }

    pub(crate) async fn insert(conn: &mut Conn, user: i64, rows: &[NewRow]) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO offline (owner, key, epoch, counter, at_ms, stanza)
             SELECT $1, n.* FROM unnest($2::BYTEA[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[],
                                        $6::BYTEA[]) AS n",
        )
        .bind(user)
        .bind(rows.iter().map(|row| &row.key[..]).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.epoch).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.counter).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.at_ms).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &row.stanza[..]).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
        sqlx::query("UPDATE offline_user SET waiting = waiting + $2 WHERE id = $1")
            .bind(user)
            .bind(rows.len() as i64)
            .execute(conn)
            .await?;
        Ok(())
    }

    pub(crate) async fn deliver(
        conn: &mut Conn,
        user: i64,
        keys: &[Vec<u8>],
        now: i64,
    ) -> Result<(), Fault> {
        let done = sqlx::query(
            "UPDATE offline SET delivered_ms = $3, stanza = ''
             WHERE owner = $1 AND key = ANY($2) AND delivered_ms IS NULL",
        )
        .bind(user)
        .bind(keys)
        .bind(now)
        .execute(&mut *conn)
        .await?;
        sqlx::query("UPDATE offline_user SET waiting = waiting - $2 WHERE id = $1")
            .bind(user)
            .bind(done.rows_affected() as i64)
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// On SQLite: loops, without a network in between.
pub(crate) mod lite {
    use super::{Fault, HashMap, HashSet, NewRow, User};
    use crate::dialect::lite::Conn;

    /// Makes the users that are missing; the transaction is the only writer.
    pub(crate) async fn lock_users(
        conn: &mut Conn,
        jids: &[&str],
    ) -> Result<HashMap<String, User>, Fault> {
        let mut users = HashMap::with_capacity(jids.len());
        for jid in jids {
            let (id, waiting) = sqlx::query_as(
                "INSERT INTO offline_user (bare) VALUES ($1)
                 ON CONFLICT (bare) DO UPDATE SET waiting = waiting RETURNING id, waiting",
            )
            .bind(*jid)
            .fetch_one(&mut *conn)
            .await?;
            users.insert((*jid).to_owned(), User { id, waiting });
        }
        Ok(users)
    }

    /// Which of the keys the user has, delivered ones included.
    pub(crate) async fn known(
        conn: &mut Conn,
        user: i64,
        keys: &[Vec<u8>],
    ) -> Result<HashSet<Vec<u8>>, Fault> {
        let mut known = HashSet::new();
        for key in keys {
            let key: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT key FROM offline WHERE owner = $1 AND key = $2")
                    .bind(user)
                    .bind(key)
                    .fetch_optional(&mut *conn)
                    .await?;
            known.extend(key);
        }
        Ok(known)
    }

    pub(crate) async fn insert(conn: &mut Conn, user: i64, rows: &[NewRow]) -> Result<(), Fault> {
        for row in rows {
            sqlx::query(
                "INSERT INTO offline (owner, key, epoch, counter, at_ms, stanza)
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(user)
            .bind(&row.key)
            .bind(row.epoch)
            .bind(row.counter)
            .bind(row.at_ms)
            .bind(&row.stanza)
            .execute(&mut *conn)
            .await?;
        }
        sqlx::query("UPDATE offline_user SET waiting = waiting + $2 WHERE id = $1")
            .bind(user)
            .bind(rows.len() as i64)
            .execute(conn)
            .await?;
        Ok(())
    }

    pub(crate) async fn deliver(
        conn: &mut Conn,
        user: i64,
        keys: &[Vec<u8>],
        now: i64,
    ) -> Result<(), Fault> {
        let mut done = 0;
        for key in keys {
            let marked = sqlx::query(
                "UPDATE offline SET delivered_ms = $3, stanza = x''
                 WHERE owner = $1 AND key = $2 AND delivered_ms IS NULL",
            )
            .bind(user)
            .bind(key)
            .bind(now)
            .execute(&mut *conn)
            .await?;
            done += marked.rows_affected();
        }
        sqlx::query("UPDATE offline_user SET waiting = waiting - $2 WHERE id = $1")
            .bind(user)
            .bind(done as i64)
            .execute(conn)
            .await?;
        Ok(())
    }
}
