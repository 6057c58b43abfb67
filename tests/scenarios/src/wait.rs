//! Waiting for something that another task makes true.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};

/// Between two looks.
const STEP: Duration = Duration::from_millis(5);

/// Looks until the condition holds; an error that names it if that takes longer than `limit`.
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

/// Looks until there is a value.
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
