//! A common beat: what nobody waits for leaves with what somebody does, or at the next beat.
//!
//! Acknowledgements and counters between processes are as many as stanzas, and a write or a wake
//! for each costs more than all that is in it. A queue that holds nothing but such *trailing*
//! items asks to be woken at the next beat; whatever urgent comes first takes them along. The
//! whole process has one beat, so that it wakes once for all of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::BootInstant;

/// Milliseconds between two beats: the longest that a trailing item waits.
pub const BEAT_MS: u64 = 10;

/// The beat after a time, both in milliseconds of the clock that runs while suspended.
pub fn next_beat(now_ms: u64) -> u64 {
    (now_ms / BEAT_MS + 1) * BEAT_MS
}

/// How long until that time of the same clock.
pub fn until(ms: u64) -> Duration {
    Duration::from_nanos((ms * 1_000_000).saturating_sub(BootInstant::now().as_nanos()))
}

/// Something that has trailing items.
pub trait Waiting: Send + Sync {
    /// The beat has come: whoever empties the queue is to be woken.
    fn wake(&self);
}

/// The timer that queues share. It runs only while one of them waits, in a task that ends with
/// the beat.
#[derive(Default)]
pub struct Linger {
    waiting: Mutex<Vec<Arc<dyn Waiting>>>,
}

impl Linger {
    /// A timer that nobody waits for.
    pub fn new() -> Arc<Linger> {
        Arc::default()
    }

    /// Wakes a queue at the next beat; at once outside of a runtime, which could not wait.
    pub fn add(self: &Arc<Linger>, queue: Arc<dyn Waiting>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return queue.wake();
        };
        let mut waiting = self.waiting.lock();
        waiting.push(queue);
        if waiting.len() == 1 {
            drop(waiting);
            let beat = Beat(Arc::downgrade(self));
            let due = next_beat(BootInstant::now().as_nanos() / 1_000_000);
            runtime.spawn(async move {
                tokio::time::sleep(until(due)).await;
                drop(beat);
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

/// Wakes all when it ends, in whatever way: a runtime that ends takes its timers with it.
struct Beat(Weak<Linger>);

impl Drop for Beat {
    fn drop(&mut self) {
        if let Some(linger) = self.0.upgrade() {
            linger.wake();
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
        let linger = Linger::new();
        let counters: Vec<Arc<Counter>> = (0..3).map(|_| Arc::default()).collect();
        let woken = || -> Vec<usize> {
            counters
                .iter()
                .map(|c| c.0.load(Ordering::SeqCst))
                .collect()
        };
        linger.add(counters[0].clone());
        linger.add(counters[1].clone());
        assert_eq!(woken(), [0, 0, 0]);
        tokio::time::sleep(Duration::from_millis(2 * BEAT_MS)).await;
        assert_eq!(woken(), [1, 1, 0]);
        linger.add(counters[2].clone());
        tokio::time::sleep(Duration::from_millis(2 * BEAT_MS)).await;
        assert_eq!(woken(), [1, 1, 1]);
    }

    #[test]
    fn no_item_waits_for_a_timer_that_cannot_run() {
        let linger = Linger::new();
        let counter: Arc<Counter> = Arc::default();
        linger.add(counter.clone());
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async { linger.add(counter.clone()) });
        drop(runtime);
        assert_eq!(counter.0.load(Ordering::SeqCst), 2);
    }
}
