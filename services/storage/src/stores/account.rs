//! Accounts and their SCRAM keys (RFC 5802 §3: what a server stores instead of a password).

use sestina_api::store::StoreError;
use sestina_proto as proto;

use super::{checked, host_of};
use crate::dialect::dialects;
use crate::error::Fault;

/// Accounts in one page of a listing.
const PAGE: u32 = 1000;

type KeyRow = (String, Vec<u8>, i64, Vec<u8>, Vec<u8>);

fn missing(bare: &str) -> Fault {
    Fault::Store(StoreError::NotFound(format!("account {bare}")))
}

fn to_keys((mechanism, salt, iterations, stored_key, server_key): KeyRow) -> proto::ScramKeys {
    proto::ScramKeys {
        mechanism,
        salt: salt.into(),
        iterations: u32::try_from(iterations).unwrap_or(u32::MAX),
        stored_key: stored_key.into(),
        server_key: server_key.into(),
    }
}

dialects! {
    items:

    /// One account with its keys.
    pub(crate) async fn get(
        conn: &mut Conn,
        request: &proto::AccountRef,
    ) -> Result<proto::AccountReply, Fault> {
        let row: Option<(bool, i64)> =
            sqlx::query_as("SELECT disabled, created_ms FROM account WHERE bare = $1")
                .bind(checked(&request.bare)?)
                .fetch_optional(&mut *conn)
                .await?;
        let (disabled, created_ms) = row.ok_or_else(|| missing(&request.bare))?;
        let keys = keys(conn, &request.bare).await?;
        let account = proto::Account { bare: request.bare.clone(), disabled, keys, created_ms };
        Ok(proto::AccountReply { account: Some(account) })
    }

    async fn keys(conn: &mut Conn, bare: &str) -> Result<Vec<proto::ScramKeys>, Fault> {
        let rows: Vec<KeyRow> = sqlx::query_as(
            "SELECT mechanism, salt, iterations, stored_key, server_key FROM account_key
             WHERE bare = $1 ORDER BY mechanism",
        )
        .bind(bare)
        .fetch_all(conn)
        .await?;
        Ok(rows.into_iter().map(to_keys).collect())
    }

    /// Creates the account, or replaces the keys of one that is there.
    pub(crate) async fn put(
        conn: &mut Conn,
        request: &proto::AccountPutRequest,
    ) -> Result<proto::Empty, Fault> {
        let invalid = || StoreError::Invalid("the request names no account".to_owned());
        let account = request.account.as_ref().ok_or_else(invalid)?;
        let bare = checked(&account.bare)?;
        if request.create {
            let created = sqlx::query(
                "INSERT INTO account (bare, host, disabled, created_ms) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (bare) DO NOTHING",
            )
            .bind(bare)
            .bind(host_of(bare)?)
            .bind(account.disabled)
            .bind(now_ms(conn).await?)
            .execute(&mut *conn)
            .await?;
            if created.rows_affected() == 0 {
                return Err(StoreError::Exists(format!("account {bare}")).into());
            }
        } else {
            // Writes the row that it looks for, so that a deletion waits or is waited for.
            let found = sqlx::query("UPDATE account SET host = host WHERE bare = $1")
                .bind(bare)
                .execute(&mut *conn)
                .await?;
            if found.rows_affected() == 0 {
                return Err(missing(bare));
            }
        }
        sqlx::query("DELETE FROM account_key WHERE bare = $1").bind(bare).execute(&mut *conn).await?;
        for key in &account.keys {
            sqlx::query(
                "INSERT INTO account_key
                     (bare, mechanism, salt, iterations, stored_key, server_key)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (bare, mechanism) DO UPDATE SET salt = excluded.salt,
                     iterations = excluded.iterations, stored_key = excluded.stored_key,
                     server_key = excluded.server_key",
            )
            .bind(bare)
            .bind(checked(&key.mechanism)?)
            .bind(&key.salt[..])
            .bind(i64::from(key.iterations))
            .bind(&key.stored_key[..])
            .bind(&key.server_key[..])
            .execute(&mut *conn)
            .await?;
        }
        Ok(proto::Empty {})
    }

    /// Disables or enables logging in.
    pub(crate) async fn set_disabled(
        conn: &mut Conn,
        request: &proto::AccountDisable,
    ) -> Result<proto::Empty, Fault> {
        let done = sqlx::query("UPDATE account SET disabled = $2 WHERE bare = $1")
            .bind(checked(&request.bare)?)
            .bind(request.disabled)
            .execute(conn)
            .await?;
        if done.rows_affected() == 0 { Err(missing(&request.bare)) } else { Ok(proto::Empty {}) }
    }

    /// Deletes the account and all it owns. Its archive can be large: it loses its name here, so
    /// that no request finds it, and its rows in the next maintenance. A trigger deletes the data of
    /// the entity (migration 0010).
    pub(crate) async fn delete(
        conn: &mut Conn,
        request: &proto::AccountRef,
    ) -> Result<proto::Empty, Fault> {
        let bare = checked(&request.bare)?;
        let done = sqlx::query("DELETE FROM account WHERE bare = $1")
            .bind(bare)
            .execute(&mut *conn)
            .await?;
        if done.rows_affected() == 0 {
            return Err(missing(bare));
        }
        sqlx::query("DELETE FROM account_key WHERE bare = $1").bind(bare).execute(&mut *conn).await?;
        sqlx::query(
            "DELETE FROM offline WHERE owner IN (SELECT id FROM offline_user WHERE bare = $1)",
        )
        .bind(bare)
        .execute(&mut *conn)
        .await?;
        sqlx::query("DELETE FROM offline_user WHERE bare = $1").bind(bare).execute(&mut *conn).await?;
        sqlx::query("UPDATE archive_owner SET jid = NULL WHERE jid = $1")
            .bind(bare)
            .execute(&mut *conn)
            .await?;
        Ok(proto::Empty {})
    }

    /// A page of a host's accounts in order of JID.
    pub(crate) async fn list(
        conn: &mut Conn,
        request: &proto::AccountListRequest,
    ) -> Result<proto::AccountListReply, Fault> {
        let limit = if request.limit == 0 { PAGE } else { request.limit.min(PAGE) };
        let rows: Vec<(String, bool, i64)> = sqlx::query_as(
            "SELECT bare, disabled, created_ms FROM account WHERE host = $1 AND bare > $2
             ORDER BY bare LIMIT $3",
        )
        .bind(checked(&request.host)?)
        .bind(checked(&request.after)?)
        .bind(i64::from(limit))
        .fetch_all(&mut *conn)
        .await?;
        let mut accounts = Vec::with_capacity(rows.len());
        for (bare, disabled, created_ms) in rows {
            let keys = keys(conn, &bare).await?;
            accounts.push(proto::Account { bare, disabled, keys, created_ms });
        }
        Ok(proto::AccountListReply { accounts })
    }
}
