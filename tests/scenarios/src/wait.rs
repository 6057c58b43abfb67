//! Waits for a condition that another task makes true.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};

/// The pause between two checks.
const STEP: Duration = Duration::from_millis(5);

/// Checks repeatedly until the condition holds; after `limit` it fails with an error that names it.
pub async fn until<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<()> {
    until_some(what, limit, || {
        let held = condition();
        async move { held.await.then_some(()) }
    })
    .await
}

/// Checks repeatedly until there is a value.
pub async fn until_some<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    let wait = async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(STEP).await;
        }
    };
    match tokio::time::timeout(limit, wait).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("{what}: not within {limit:?}"),
    }
}
