//! Jittered exponential back-off, so that many clients of a server that failed do not reconnect at
//! the same moment.

use std::time::Duration;

/// Delays that grow from `first` to `max`, each drawn evenly from the upper half of its step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    step: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `max`.
    pub fn new(first: Duration, max: Duration) -> Backoff {
        let first = first.max(Duration::from_millis(1));
        Backoff {
            first,
            max: max.max(first),
            step: first,
        }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.next_delay_with(rand::random::<f64>())
    }

    /// The same with the random number given, from 0 to 1.
    pub fn next_delay_with(&mut self, unit: f64) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(2).min(self.max);
        step.div_f64(2.0) + step.div_f64(2.0).mul_f64(unit.clamp(0.0, 1.0))
    }

    /// The attempt succeeded: the next failure starts from the first step again.
    pub fn reset(&mut self) {
        self.step = self.first;
    }

    /// Sleeps for [`Backoff::next_delay`].
    pub async fn wait(&mut self) {
        let delay = self.next_delay();
        tokio::time::sleep(delay).await;
    }
}

/// `of`, changed by up to `share` of it either way: for timers that must not fire at the same
/// moment.
pub fn jitter(of: Duration, share: f64) -> Duration {
    let share = share.clamp(0.0, 1.0);
    of.mul_f64(1.0 - share + 2.0 * share * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_maximum_and_starts_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        assert_eq!(backoff.next_delay_with(1.0), ms(100));
        assert_eq!(backoff.next_delay_with(0.0), ms(100));
        assert_eq!(backoff.next_delay_with(1.0), ms(350));
        assert_eq!(backoff.next_delay_with(0.5), Duration::from_micros(262_500));
        backoff.reset();
        assert_eq!(backoff.next_delay_with(0.0), ms(50));
    }

    #[test]
    fn jitter_stays_within_its_share() {
        for _ in 0..1000 {
            let drawn = jitter(Duration::from_secs(10), 0.2);
            assert!((8.0..=12.0).contains(&drawn.as_secs_f64()), "{drawn:?}");
        }
    }

    #[test]
    fn an_inverted_range_is_mended() {
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(1));
        assert_eq!(backoff.next_delay_with(1.0), Duration::from_secs(5));
        assert_eq!(backoff.next_delay_with(1.0), Duration::from_secs(5));
    }
}
