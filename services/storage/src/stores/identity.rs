//! Which cluster a database belongs to: a name, which is configured, and a random id.

use sestina_api::store::StoreError;

use crate::dialect::dialects;
use crate::error::Fault;

/// Name and id of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// As configured.
    pub name: String,
    /// Random, in hexadecimal.
    pub id: String,
}

/// The name that a database gets.
pub(crate) struct NewName(pub(crate) String);

fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

dialects! {
    items:

    /// What the database says; if it says nothing yet, it is of `name` from now on.
    pub(crate) async fn join(conn: &mut Conn, name: &str) -> Result<ClusterIdentity, sqlx::Error> {
        sqlx::query("INSERT INTO cluster_identity (name, id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(random_id())
            .execute(&mut *conn)
            .await?;
        let (name, id) =
            sqlx::query_as("SELECT name, id FROM cluster_identity").fetch_one(conn).await?;
        Ok(ClusterIdentity { name, id })
    }

    /// Gives it another name and another id, so that it is a cluster of its own. Not while processes
    /// of the cluster live.
    pub(crate) async fn rename(
        conn: &mut Conn,
        name: &NewName,
    ) -> Result<ClusterIdentity, Fault> {
        let alive: i64 =
            sqlx::query_scalar("SELECT count(*) FROM lease WHERE NOT ended AND expires_ms > $1")
                .bind(now_ms(conn).await?)
                .fetch_one(&mut *conn)
                .await?;
        if alive > 0 {
            let text = format!("{alive} processes of the cluster live; stop all of them first");
            return Err(StoreError::Invalid(text).into());
        }
        let id = random_id();
        sqlx::query(
            "INSERT INTO cluster_identity (name, id) VALUES ($1, $2)
             ON CONFLICT (one) DO UPDATE SET name = excluded.name, id = excluded.id",
        )
        .bind(&name.0)
        .bind(&id)
        .execute(conn)
        .await?;
        Ok(ClusterIdentity { name: name.0.clone(), id })
    }
}
