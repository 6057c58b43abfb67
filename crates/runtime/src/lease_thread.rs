//! A thread of its own for the renewals of a process's lease and the connections that they use:
//! they must not wait for the work of the process.
//!
//! A task or connection belongs to the runtime on which it was made. One that is spawned on
//! [`LeaseThread::handle`], or made while that handle is entered, is driven by this thread alone,
//! so neither a long queue of ready tasks nor a task that computes for seconds delays a renewal.
//! The thread asks for a higher priority, in case the machine is overloaded.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Blocking calls of the lease thread: name look-ups at most.
const BLOCKING: usize = 4;
/// The nice value that is asked for. Most systems allow it to privileged processes only.
#[cfg(target_os = "linux")]
const NICE: i32 = -10;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct LeaseThread {
    handle: Handle,
    stop: CancellationToken,
}

impl LeaseThread {
    /// Starts the thread.
    pub fn start() -> io::Result<LeaseThread> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING)
            .thread_name("sestina-lease")
            .build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("sestina-lease".to_owned())
            .spawn(move || {
                raise_priority();
                runtime.block_on(stopped.cancelled());
                // A look-up that hangs must not delay the end.
                runtime.shutdown_background();
            })?;
        Ok(LeaseThread { handle, stop })
    }

    /// The runtime of the thread.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for LeaseThread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Raises the priority of the calling thread, where the system allows it.
#[cfg(target_os = "linux")]
fn raise_priority() {
    // Linux has a nice value for each thread; no process id stands for the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the lease thread keeps the usual priority");
    }
}

/// Elsewhere the nice value is that of the whole process.
#[cfg(not(target_os = "linux"))]
fn raise_priority() {}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_runtime_that_stands_still_does_not_delay_the_lease_thread() {
        let thread = LeaseThread::start().expect("a thread");
        let busy = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (tell, told) = std::sync::mpsc::channel();
        busy.block_on(async {
            thread.handle().spawn(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                tell.send(Instant::now()).ok();
            });
            // Blocks the only thread of this runtime until the other one has answered.
            let answered = told.recv_timeout(Duration::from_secs(20));
            assert!(answered.is_ok(), "the lease thread waited for this one");
        });
    }
}
