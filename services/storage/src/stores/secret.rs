//! The cluster's secret: made for the first process that asks, the same for all.

use sestina_proto as proto;

use crate::dialect::dialects;
use crate::error::Fault;

dialects! {
    items:

    /// Returns the secret; makes it if there is none.
    pub(crate) async fn get(
        conn: &mut Conn,
        _request: &proto::Empty,
    ) -> Result<proto::ClusterSecretReply, Fault> {
        let candidate: [u8; 32] = rand::random();
        sqlx::query("INSERT INTO cluster_secret (secret) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(&candidate[..])
            .execute(&mut *conn)
            .await?;
        let secret: Vec<u8> =
            sqlx::query_scalar("SELECT secret FROM cluster_secret").fetch_one(conn).await?;
        Ok(proto::ClusterSecretReply { secret: secret.into() })
    }
}
