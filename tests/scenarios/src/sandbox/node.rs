//! A process of the three tiers: a runtime of its own. When the runtime is dropped, its tasks stop
//! where they are and its sockets close, as when a process is killed.

use std::future::Future;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

pub(super) struct Node {
    runtime: Option<Runtime>,
}

impl Node {
    pub(super) fn new(name: &str) -> Result<Node> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()?;
        Ok(Node {
            runtime: Some(runtime),
        })
    }

    /// Runs a future inside.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let runtime = self.runtime.as_ref().context("the process is dead")?;
        Ok(runtime.spawn(work).await?)
    }

    /// Drops the runtime, without notice to its tasks.
    pub(super) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
