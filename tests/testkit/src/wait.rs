//! Polls until a condition holds.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `probe` repeatedly until it succeeds; fails with its last error after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                bail!("waited {limit:?} for {what}: {error:#}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn returns_the_first_success_and_names_the_last_error() {
        let mut calls = 0;
        let got = wait_for("three", Duration::from_secs(5), || {
            calls += 1;
            if calls < 3 {
                bail!("only {calls}")
            } else {
                Ok(calls)
            }
        });
        assert_eq!(got.unwrap(), 3);
        let error = wait_for("never", Duration::ZERO, || -> Result<()> { bail!("no") });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("never") && text.ends_with("no"), "{text}");
    }
}
