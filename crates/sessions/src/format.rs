//! The format in which a cluster's state is written in Redis, under a key of its own. A program
//! that does not know the format neither reads nor writes there, so it cannot misread anything.
//! Adding fields to records does not change the number.

use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, RedisError, Value};

/// The newest format that this program reads and writes.
pub(crate) const FORMAT: u64 = 1;

/// The key that holds the number; the cluster's prefix is put before it.
pub(crate) const KEY: &str = "{lease}:format";

/// Checks that this program knows the format of the state that is there; the error says why it does
/// not. If there is no state yet, its format is this program's from now on.
pub(crate) async fn check(connection: &mut impl ConnectionLike, key: &str) -> Result<(), String> {
    let mut get = redis::cmd("GET");
    get.arg(key);
    let found: Option<String> = ask(connection, &get).await.map_err(away)?;
    let Some(found) = found else {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(FORMAT).arg("NX");
        // A server that is full, or a replica, refuses this like all that comes after it.
        if let Err(error) = ask::<Value>(connection, &set).await {
            tracing::debug!(%error, "the format of the state in redis could not be noted");
        }
        return Ok(());
    };
    match found.parse::<u64>() {
        Ok(format) if format <= FORMAT => Ok(()),
        _ => Err(format!(
            "redis holds the state of this cluster in format {found}, and this program knows formats up \
             to {FORMAT}; nothing of it is used: run the program of the later version \
             (docs/operations.md, \"Upgrades\")"
        )),
    }
}

fn away(error: RedisError) -> String {
    crate::tls::explain(&error)
}

async fn ask<T: FromRedisValue>(
    connection: &mut impl ConnectionLike,
    command: &Cmd,
) -> Result<T, RedisError> {
    let value = connection
        .req_packed_command(command)
        .await
        .and_then(Value::extract_error)?;
    Ok(T::from_redis_value(value)?)
}
