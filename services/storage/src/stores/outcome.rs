//! Outcomes of IQ sets: a replay gets the answer that the first run got.

use std::collections::BTreeSet;

use prost::Message;
use sestina_api::store::StoreError;
use sestina_proto as proto;

use super::key_bytes;
use crate::dialect::dialects;
use crate::error::Fault;
use crate::fence::fence as fence_of;

dialects! {
    items:

    /// Stores the outcome, or returns the one stored before.
    pub(crate) async fn put(
        conn: &mut Conn,
        request: &proto::OutcomePutRequest,
    ) -> Result<proto::OutcomeReply, Fault> {
        let at = fence_of(request.fence.as_ref())?;
        let key = key_bytes(request.key.as_ref())?;
        let invalid = || StoreError::Invalid("the outcome carries no reply".to_owned());
        let reply = request.reply.as_ref().ok_or_else(invalid)?.encode_to_vec();
        if !fence::hold(conn, &BTreeSet::from([at.0])).await?.admit(at) {
            return Ok(proto::OutcomeReply { fenced: true, reply: None });
        }
        sqlx::query(
            "INSERT INTO outcome (key, reply, created_ms) VALUES ($1, $2, $3)
             ON CONFLICT (key) DO NOTHING",
        )
        .bind(&key)
        .bind(reply)
        .bind(now_ms(conn).await?)
        .execute(&mut *conn)
        .await?;
        let stored: Vec<u8> = sqlx::query_scalar("SELECT reply FROM outcome WHERE key = $1")
            .bind(&key)
            .fetch_one(conn)
            .await?;
        let reply = proto::Stanza::decode(&stored[..])?;
        Ok(proto::OutcomeReply { fenced: false, reply: Some(reply) })
    }
}
