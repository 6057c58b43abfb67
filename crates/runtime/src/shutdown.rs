//! Signals become tokens.
//!
//! SIGTERM or SIGINT asks to drain; a second one asks to end at once. SIGHUP asks to reload
//! certificates, secrets and the log filter.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The requests of the operator to this process.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Take no new work, settle, hand over, then end.
    pub drain: CancellationToken,
    /// End now: nothing is handed over any more.
    pub now: CancellationToken,
    /// Counts the requests to reload.
    pub reloads: watch::Receiver<u64>,
}

/// The task behind [`Shutdown`]; the caller spawns [`Listener::run`] into its task group.
#[derive(Debug)]
pub struct Listener {
    term: Signal,
    int: Signal,
    hup: Signal,
    drain: CancellationToken,
    now: CancellationToken,
    reloads: watch::Sender<u64>,
}

/// Installs the handlers. From here on these signals have no default effect, so the listener must
/// be run.
pub fn listen() -> io::Result<(Shutdown, Listener)> {
    let drain = CancellationToken::new();
    let now = CancellationToken::new();
    let (reloads, watch) = watch::channel(0);
    let listener = Listener {
        term: signal(SignalKind::terminate())?,
        int: signal(SignalKind::interrupt())?,
        hup: signal(SignalKind::hangup())?,
        drain: drain.clone(),
        now: now.clone(),
        reloads,
    };
    Ok((
        Shutdown {
            drain,
            now,
            reloads: watch,
        },
        listener,
    ))
}

impl Listener {
    /// Turns signals into tokens until the second request to end.
    pub async fn run(mut self) {
        loop {
            let name = tokio::select! {
                _ = self.term.recv() => "SIGTERM",
                _ = self.int.recv() => "SIGINT",
                _ = self.hup.recv() => {
                    tracing::info!("SIGHUP: reloading what can be reloaded");
                    self.reloads.send_modify(|count| *count += 1);
                    continue;
                }
                () = self.now.cancelled() => return,
            };
            if self.drain.is_cancelled() {
                tracing::warn!(
                    signal = name,
                    "asked again to end: ending without handing over"
                );
                self.now.cancel();
                return;
            }
            tracing::info!(
                signal = name,
                "draining; send the signal again to end at once"
            );
            self.drain.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn first_drains_second_ends_and_hangup_reloads() {
        let (mut shutdown, listener) = listen().unwrap();
        let task = tokio::spawn(listener.run());
        kill_process(getpid(), Signal::HUP).unwrap();
        shutdown.reloads.changed().await.unwrap();
        assert_eq!(*shutdown.reloads.borrow(), 1);
        assert!(!shutdown.drain.is_cancelled());
        kill_process(getpid(), Signal::TERM).unwrap();
        shutdown.drain.cancelled().await;
        assert!(!shutdown.now.is_cancelled());
        kill_process(getpid(), Signal::INT).unwrap();
        shutdown.now.cancelled().await;
        task.await.unwrap();
    }
}
