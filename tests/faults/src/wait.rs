//! Waits for a condition that another task or process makes true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Checks repeatedly until there is a value. After `limit` it fails with an error that names the
/// condition and the last result.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= end => {
                bail!("{what}: not within {limit:?}; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
