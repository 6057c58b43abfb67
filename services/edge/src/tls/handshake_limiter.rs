//! Handshakes take turns, so that a storm of clients that come back at once does not fill the run
//! queue: those who are there are served in between.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// How many handshakes may be worked on at one time. Those that wait for their client's next message
/// do not count, so slow clients hold up no others.
#[derive(Clone, Debug)]
pub struct HandshakeLimiter(Arc<Semaphore>);

impl HandshakeLimiter {
    /// For a machine with so many cores: a quarter of them, at least one if there are more, is
    /// left to all others.
    pub fn for_cores(cores: usize) -> HandshakeLimiter {
        HandshakeLimiter::new(cores - (cores / 4).max(1).min(cores.saturating_sub(1)))
    }

    /// At most so many at one time, at least one.
    pub fn new(at_once: usize) -> HandshakeLimiter {
        HandshakeLimiter(Arc::new(Semaphore::new(at_once.max(1))))
    }

    /// Runs a handshake, step by step when it is its turn.
    pub async fn run<F: Future>(&self, handshake: F) -> F::Output {
        let mut turn = PollSemaphore::new(Arc::clone(&self.0));
        let mut handshake = pin!(handshake);
        poll_fn(|cx| {
            let permit = ready!(turn.poll_acquire(cx));
            let step = handshake.as_mut().poll(cx);
            drop(permit);
            step
        })
        .await
    }
}

impl Default for HandshakeLimiter {
    fn default() -> HandshakeLimiter {
        HandshakeLimiter::for_cores(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_part_of_the_machine_is_left_to_others() {
        let permits = |cores| HandshakeLimiter::for_cores(cores).0.available_permits();
        assert_eq!([1, 2, 3, 4, 8, 32].map(permits), [1, 1, 2, 3, 6, 24]);
    }

    #[tokio::test]
    async fn a_handshake_that_waits_for_its_client_delays_no_other() {
        let handshake_limiter = HandshakeLimiter::new(1);
        let silent = handshake_limiter.clone();
        let silent = tokio::spawn(async move { silent.run(std::future::pending::<()>()).await });
        tokio::task::yield_now().await;
        let other = handshake_limiter.run(async {
            tokio::task::yield_now().await;
            7
        });
        let other = tokio::time::timeout(Duration::from_secs(10), other).await;
        assert_eq!(other, Ok(7));
        silent.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn only_so_many_are_worked_on_at_one_time() {
        let (handshake_limiter, now, most) = (
            HandshakeLimiter::new(2),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let counters = Arc::new((now, most));
        let steps = |handshake_limiter: HandshakeLimiter,
                     counters: Arc<(AtomicUsize, AtomicUsize)>| async move {
            let mut left = 20;
            let handshake = poll_fn(|cx| {
                most_of(&counters);
                left -= 1;
                cx.waker().wake_by_ref();
                if left == 0 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            handshake_limiter.run(handshake).await;
        };
        let all: Vec<_> = (0..16)
            .map(|_| tokio::spawn(steps(handshake_limiter.clone(), Arc::clone(&counters))))
            .collect();
        for one in all {
            one.await.unwrap();
        }
        assert!((1..=2).contains(&counters.1.load(SeqCst)), "{counters:?}");
        assert_eq!(handshake_limiter.0.available_permits(), 2);
    }

    /// Counts who is in here, and how many there were at most.
    fn most_of((now, most): &(AtomicUsize, AtomicUsize)) {
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::yield_now();
        now.fetch_sub(1, SeqCst);
    }
}
