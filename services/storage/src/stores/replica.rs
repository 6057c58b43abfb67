//! Replicas of sessions and rooms that a process without a state store saves when it is stopped.
//!
//! They come in parts, one transaction each. Until the last part is there nothing can be loaded, so
//! a process that dies while it saves leaves nothing half-done behind.

use prost::Message;
use sestina_proto as proto;

use super::number;
use crate::dialect::dialects;
use crate::error::Fault;

/// Objects read from the database at one time.
const AT_ONCE: i64 = 64;

dialects! {
    items:

    /// Stores one part.
    pub(crate) async fn save(
        conn: &mut Conn,
        request: &proto::ReplicaSaveRequest,
    ) -> Result<proto::Empty, Fault> {
        if request.first {
            forget(conn).await?;
        }
        for object in &request.objects {
            sqlx::query("INSERT INTO replica (object) VALUES ($1)")
                .bind(object.encode_to_vec())
                .execute(&mut *conn)
                .await?;
        }
        if request.last {
            sqlx::query("INSERT INTO replica_complete (one) VALUES (1) ON CONFLICT DO NOTHING")
                .execute(&mut *conn)
                .await?;
        }
        Ok(proto::Empty {})
    }

    /// Reads one part.
    pub(crate) async fn load(
        conn: &mut Conn,
        request: &proto::ReplicaLoadRequest,
    ) -> Result<proto::ReplicaLoadReply, Fault> {
        let mut reply = proto::ReplicaLoadReply::default();
        let complete: Option<i32> = sqlx::query_scalar("SELECT one FROM replica_complete")
            .fetch_optional(&mut *conn)
            .await?;
        if complete.is_none() {
            return Ok(reply);
        }
        let (mut after, mut bytes) = (number(request.after)?, 0);
        loop {
            let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
                "SELECT id, object FROM replica WHERE id > $1 ORDER BY id LIMIT $2",
            )
            .bind(after)
            .bind(AT_ONCE)
            .fetch_all(&mut *conn)
            .await?;
            if rows.is_empty() {
                return Ok(reply);
            }
            for (id, object) in rows {
                after = id;
                bytes += object.len() as u64;
                reply.objects.push(proto::ReplicaObject::decode(&object[..])?);
                if bytes >= request.max_bytes {
                    reply.next = u64::try_from(after).unwrap_or_default();
                    return Ok(reply);
                }
            }
        }
    }

    /// Forgets all of them.
    pub(crate) async fn clear(
        conn: &mut Conn,
        _request: &proto::Empty,
    ) -> Result<proto::Empty, Fault> {
        forget(conn).await?;
        Ok(proto::Empty {})
    }

    async fn forget(conn: &mut Conn) -> Result<(), Fault> {
        sqlx::query("DELETE FROM replica_complete").execute(&mut *conn).await?;
        sqlx::query("DELETE FROM replica").execute(&mut *conn).await?;
        Ok(())
    }
}
