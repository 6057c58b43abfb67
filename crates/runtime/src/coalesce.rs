//! The coalescing timer: a *trailing* item, for which no process waits, is sent together with the
//! next urgent item, or at the next flush.
//!
//! There are as many acknowledgements and counters between processes as stanzas, and a write or a
//! wake-up for each would cost more than the item itself. A queue that holds only trailing items
//! asks to be woken at the next flush; an urgent item that comes earlier takes them along. All
//! queues of a process share one timer, so the process wakes up once for all of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::BootInstant;

/// Milliseconds between two flushes: the longest delay of a trailing item.
pub const BEAT_MS: u64 = 10;

/// The first flush after a time, both in milliseconds of the clock that goes on while suspended.
pub fn next_flush(now_ms: u64) -> u64 {
    (now_ms / BEAT_MS + 1) * BEAT_MS
}

/// The time from now until that time of the same clock.
pub fn until(ms: u64) -> Duration {
    Duration::from_nanos((ms * 1_000_000).saturating_sub(BootInstant::now().as_nanos()))
}

/// A queue that may hold trailing items.
pub trait Waiting: Send + Sync {
    /// Called when the flush is due: wakes the task that empties the queue.
    fn wake(&self);
}

/// The timer that queues share. It runs only while a queue waits, in a task that ends with the
/// timer.
#[derive(Default)]
pub struct CoalescingTimer {
    waiting: Mutex<Vec<Arc<dyn Waiting>>>,
}

impl CoalescingTimer {
    /// A timer for which no queue waits.
    pub fn new() -> Arc<CoalescingTimer> {
        Arc::default()
    }

    /// Wakes a queue at the next flush; at once outside of a runtime, where no task can wait.
    pub fn add(self: &Arc<CoalescingTimer>, queue: Arc<dyn Waiting>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return queue.wake();
        };
        let mut waiting = self.waiting.lock();
        waiting.push(queue);
        if waiting.len() == 1 {
            drop(waiting);
            let flush = Flush(Arc::downgrade(self));
            let due = next_flush(BootInstant::now().as_nanos() / 1_000_000);
            runtime.spawn(async move {
                tokio::time::sleep(until(due)).await;
                drop(flush);
            });
        }
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for queue in waiting {
            queue.wake();
        }
    }
}

/// Wakes all queues when it is dropped: a runtime that ends drops its timers.
struct Flush(Weak<CoalescingTimer>);

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(coalesce) = self.0.upgrade() {
            coalesce.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Waiting for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_wait_are_woken_together_and_later_ones_again() {
        let coalesce = CoalescingTimer::new();
        let counters: Vec<Arc<Counter>> = (0..3).map(|_| Arc::default()).collect();
        let woken = || -> Vec<usize> {
            counters
                .iter()
                .map(|c| c.0.load(Ordering::SeqCst))
                .collect()
        };
        coalesce.add(counters[0].clone());
        coalesce.add(counters[1].clone());
        assert_eq!(woken(), [0, 0, 0]);
        tokio::time::sleep(Duration::from_millis(2 * BEAT_MS)).await;
        assert_eq!(woken(), [1, 1, 0]);
        coalesce.add(counters[2].clone());
        tokio::time::sleep(Duration::from_millis(2 * BEAT_MS)).await;
        assert_eq!(woken(), [1, 1, 1]);
    }

    #[test]
    fn no_item_waits_for_a_timer_that_cannot_run() {
        let coalesce = CoalescingTimer::new();
        let counter: Arc<Counter> = Arc::default();
        coalesce.add(counter.clone());
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async { coalesce.add(counter.clone()) });
        drop(runtime);
        assert_eq!(counter.0.load(Ordering::SeqCst), 2);
    }
}
