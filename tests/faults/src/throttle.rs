//! A process that gets a part of a core: it is stopped and continued many times a second. A limit
//! of the kernel would do the same, but not every machine permits tests to set one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The period in which a throttled process runs once.
const PERIOD: Duration = Duration::from_millis(100);

/// Throttles a process until it is dropped; then the process runs freely.
pub struct Throttle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// The process runs one `part`-th of the time.
    pub fn to_one(part: u32, pid: Pid) -> Throttle {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let runs = PERIOD / part.max(1);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                // Fails only if the process has ended, which tests notice in other ways.
                kill_process(pid, Signal::STOP).ok();
                std::thread::sleep(PERIOD - runs);
                kill_process(pid, Signal::CONT).ok();
                std::thread::sleep(runs);
            }
        });
        Throttle {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The thread does nothing that could panic.
            thread.join().ok();
        }
    }
}
