//! Two typed dialects from one text: where PostgreSQL and SQLite understand the same SQL, a store
//! is written once and compiled twice.

/// Expands the items into the modules `pg` and `lite`. In each, `Conn` is that database's
/// connection, `now_ms` reads its clock and `fence` checks its fences; `with path::to::store as
/// name;` in front makes another store's functions for the same database known as `name`.
macro_rules! dialects {
    ($(with $($path:ident)::+ as $alias:ident;)* items: $($item:item)*) => {
        /// On PostgreSQL.
        pub(crate) mod pg {
            #![allow(unused_imports)]
            use super::*;
            use crate::dialect::pg::{Conn, now_ms};
            use crate::fence::pg as fence;
            $(use $($path)::+::pg as $alias;)*
            $($item)*
        }
        /// On SQLite.
        pub(crate) mod lite {
            #![allow(unused_imports)]
            use super::*;
            use crate::dialect::lite::{Conn, now_ms};
            use crate::fence::lite as fence;
            $(use $($path)::+::lite as $alias;)*
            $($item)*
        }
    };
}
pub(crate) use dialects;

pub(crate) mod pg {
    pub(crate) type Conn = sqlx::PgConnection;

    /// The database's clock, Unix milliseconds: not the start of the transaction but now.
    pub(crate) async fn now_ms(conn: &mut Conn) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::BIGINT")
            .fetch_one(conn)
            .await
    }
}

pub(crate) mod lite {
    pub(crate) type Conn = sqlx::SqliteConnection;

    /// The clock as SQLite reads it, Unix milliseconds.
    pub(crate) async fn now_ms(conn: &mut Conn) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER)",
        )
        .fetch_one(conn)
        .await
    }
}
