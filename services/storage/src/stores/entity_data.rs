//! Data that modules keep about an entity (a user, a room or a node), by name.
//!
//! A write is binding: one transaction stores the data, and the key and the answer of the request that
//! changes it. If the request comes again, it gets this answer and changes nothing. A request that arrives
//! after a later one for the same entity was committed changes nothing either: its router may have given it
//! up, and the database may have lost the commit that cancelled it. Keys and answers are pruned by age; the
//! data stays until it is deleted. The data of a user is deleted with the account, by a trigger: a storage
//! process of an older release, which knows nothing of this table, may be the one that deletes the account.

use std::collections::BTreeSet;

use prost::Message;
use sestina_api::store::{
    ENTITY_BYTES, ENTITY_ITEMS, ENTITY_NAME_BYTES, ENTITY_VALUE_BYTES, StoreError,
};
use sestina_proto as proto;

use super::{checked, key_bytes};
use crate::dialect::dialects;
use crate::error::Fault;
use crate::fence::fence as fence_of;

/// A name of 1 to `limit` bytes that both databases can hold.
fn named<'a>(what: &str, text: &'a str, limit: usize) -> Result<&'a str, StoreError> {
    match text.len() {
        0 => Err(StoreError::Invalid(format!(
            "the name of the {what} is empty"
        ))),
        length if length > limit => Err(StoreError::Invalid(format!(
            "the name of the {what} has {length} bytes, and at most {limit} are allowed"
        ))),
        _ => checked(text),
    }
}

/// The entity of a request that names so many items.
fn entity_of(entity: &str, items: usize) -> Result<&str, StoreError> {
    if items > ENTITY_ITEMS {
        return Err(StoreError::Invalid(format!(
            "the request names {items} items, and at most {ENTITY_ITEMS} are allowed"
        )));
    }
    named("entity", entity, ENTITY_BYTES)
}

fn item_name(name: &str) -> Result<&str, StoreError> {
    named("item", name, ENTITY_NAME_BYTES)
}

fn check_item(item: &proto::EntityDataItem) -> Result<(), StoreError> {
    let name = item_name(&item.name)?;
    match item.value.len() {
        length if length > ENTITY_VALUE_BYTES => Err(StoreError::Invalid(format!(
            "the value of {name:?} has {length} bytes, and at most {ENTITY_VALUE_BYTES} are allowed"
        ))),
        _ => Ok(()),
    }
}

dialects! {
    items:

    /// The items with these names that exist.
    pub(crate) async fn get(
        conn: &mut Conn,
        request: &proto::EntityDataGetRequest,
    ) -> Result<proto::EntityDataReply, Fault> {
        let entity = entity_of(&request.entity, request.names.len())?;
        let mut items = Vec::with_capacity(request.names.len());
        for name in &request.names {
            let value: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT value FROM entity_data WHERE entity = $1 AND name = $2")
                    .bind(entity)
                    .bind(item_name(name)?)
                    .fetch_optional(&mut *conn)
                    .await?;
            let item = |value: Vec<u8>| proto::EntityDataItem {
                name: name.clone(),
                value: value.into(),
            };
            items.extend(value.map(item));
        }
        Ok(proto::EntityDataReply { items })
    }

    /// Writes the items with the request's key and answer, or returns the answer stored before.
    pub(crate) async fn put(
        conn: &mut Conn,
        request: &proto::EntityDataPutRequest,
    ) -> Result<proto::EntityDataPutReply, Fault> {
        let at = fence_of(request.fence.as_ref())?;
        let key = key_bytes(request.key.as_ref())?;
        let invalid = || StoreError::Invalid("the request carries no answer".to_owned());
        let answer = request.answer.as_ref().ok_or_else(invalid)?.encode_to_vec();
        let entity = entity_of(&request.entity, request.items.len())?;
        request.items.iter().try_for_each(check_item)?;
        let mut reply = proto::EntityDataPutReply::default();
        if !fence::hold(conn, &BTreeSet::from([at.0])).await?.admit(at) {
            reply.fenced = true;
            return Ok(reply);
        }
        let first = sqlx::query(
            "INSERT INTO outcome (key, reply, created_ms) VALUES ($1, $2, $3)
             ON CONFLICT (key) DO NOTHING",
        )
        .bind(&key)
        .bind(answer)
        .bind(now_ms(conn).await?)
        .execute(&mut *conn)
        .await?;
        if first.rows_affected() == 0 {
            let stored: Vec<u8> = sqlx::query_scalar("SELECT reply FROM outcome WHERE key = $1")
                .bind(&key)
                .fetch_one(conn)
                .await?;
            reply.replayed = true;
            reply.answer = Some(proto::Stanza::decode(&stored[..])?);
            return Ok(reply);
        }
        if request.counter > 0 && !advance(conn, entity, (at.1, request.counter)).await? {
            sqlx::query("DELETE FROM outcome WHERE key = $1")
                .bind(&key)
                .execute(conn)
                .await?;
            reply.overtaken = true;
            return Ok(reply);
        }
        for item in &request.items {
            write(conn, entity, item).await?;
        }
        Ok(reply)
    }

    /// Notes a request as the last one for its entity; false if one is noted that is not earlier.
    async fn advance(
        conn: &mut Conn,
        entity: &str,
        (epoch, counter): (u64, u64),
    ) -> Result<bool, Fault> {
        let noted = sqlx::query(
            "INSERT INTO entity_order (entity, epoch, counter) VALUES ($1, $2, $3)
             ON CONFLICT (entity) DO UPDATE SET epoch = excluded.epoch, counter = excluded.counter
             WHERE (entity_order.epoch, entity_order.counter) < (excluded.epoch, excluded.counter)",
        )
        .bind(entity)
        .bind(epoch as i64)
        .bind(counter as i64)
        .execute(conn)
        .await?;
        Ok(noted.rows_affected() > 0)
    }

    async fn write(
        conn: &mut Conn,
        entity: &str,
        item: &proto::EntityDataItem,
    ) -> Result<(), Fault> {
        if item.value.is_empty() {
            sqlx::query("DELETE FROM entity_data WHERE entity = $1 AND name = $2")
                .bind(entity)
                .bind(&item.name)
                .execute(conn)
                .await?;
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO entity_data (entity, name, value) VALUES ($1, $2, $3)
             ON CONFLICT (entity, name) DO UPDATE SET value = excluded.value",
        )
        .bind(entity)
        .bind(&item.name)
        .bind(&item.value[..])
        .execute(conn)
        .await?;
        Ok(())
    }
}
