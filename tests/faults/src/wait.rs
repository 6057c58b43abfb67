//! Waiting for something that another task or process makes true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Looks again and again until there is a value; an error that names what was waited for, and what
/// was seen last, if it takes longer than `limit`.
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
