//! Asks all sentinels for the master at once; the majority decides.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult,
    Value,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::RedisConfig;
use crate::tls;

/// The address of the master, by the majority of the sentinels, or of those that answer within
/// `limit`. A sentinel that is down, hangs or was partitioned does not decide.
pub(crate) async fn master(
    sentinels: &[Client],
    name: &str,
    limit: Duration,
) -> Result<(String, u16), String> {
    let mut asked = JoinSet::new();
    for sentinel in sentinels {
        let (sentinel, name) = (sentinel.clone(), name.to_owned());
        asked.spawn(async move {
            match timeout(limit, ask(sentinel, &name, limit)).await {
                Ok(Ok(Some(address))) => Ok(address),
                Ok(Ok(None)) => Err(format!("a sentinel does not know a master named {name}")),
                Ok(Err(error)) => Err(tls::explain(&error)),
                Err(_) => Err(format!("a sentinel did not answer within {limit:?}")),
            }
        });
    }
    let mut votes: HashMap<(String, u16), usize> = HashMap::new();
    let mut why = "no sentinel is configured".to_owned();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(address)) => {
                let count = votes.entry(address.clone()).or_default();
                *count += 1;
                if *count > sentinels.len() / 2 {
                    return Ok(address);
                }
            }
            Ok(Err(error)) => why = error,
            Err(error) => why = error.to_string(),
        }
    }
    votes
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(address, _)| address)
        .ok_or(why)
}

async fn ask(sentinel: Client, name: &str, limit: Duration) -> RedisResult<Option<(String, u16)>> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let mut connection = sentinel
        .get_multiplexed_async_connection_with_config(&settings)
        .await?;
    let mut command = redis::cmd("SENTINEL");
    command
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(name)
        .query_async(&mut connection)
        .await
}

/// The connection info of the master: with TLS if the sentinels are reached with TLS.
pub(crate) fn node(
    (host, port): (String, u16),
    encrypted: bool,
    config: &RedisConfig,
) -> ConnectionInfo {
    let address = if encrypted {
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    // A host and a port always make a connection info.
    let info = address
        .into_connection_info()
        .expect("an address needs no parsing");
    let settings = info.redis_settings().clone().set_db(config.database);
    config.with_credentials(info.set_redis_settings(settings))
}

/// Checks the role: a sentinel may be outdated, or the master was just demoted.
pub(crate) async fn check_master(connection: &mut MultiplexedConnection) -> Result<(), String> {
    let role: RedisResult<Vec<Value>> = redis::cmd("ROLE").query_async(connection).await;
    match role.map_err(|error| tls::explain(&error))?.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err("the server that the sentinels name is not a master (yet)".into()),
    }
}
