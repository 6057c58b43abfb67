//! The format of a cluster's state in Redis, whose number has a key of its own. A program that does
//! not know the format neither reads nor writes there, so it cannot misread the state. Fields may
//! be added to records without a change of the number.

use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, RedisError, Value};

/// The newest format that this program reads and writes.
pub(crate) const FORMAT: u64 = 1;

/// The key that holds the number; the cluster's prefix is put before it.
pub(crate) const KEY: &str = "{lease}:format";

/// Checks that this program knows the format of the stored state; the error says why not. A store
/// without state gets this program's format.
pub(crate) async fn check(connection: &mut impl ConnectionLike, key: &str) -> Result<(), String> {
    let mut get = redis::cmd("GET");
    get.arg(key);
    let found: Option<String> = ask(connection, &get).await.map_err(away)?;
    let Some(found) = found else {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(FORMAT).arg("NX");
        // A full server, or a replica, refuses this write like all later ones.
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
