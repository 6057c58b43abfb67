//! How much of its lease a process has left at each renewal, reported while there is time to act.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sestina_runtime::clock::BootInstant;
use sestina_runtime::pressure::Pressure;
use tokio::time::Instant;

/// The shortest time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The measurements of one renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSample {
    /// How much later than planned it began.
    pub late: Duration,
    /// How long it took, until the answer or the time-out.
    pub took: Duration,
    /// How long the process could have served without this renewal; none before the first renewal,
    /// and where leases do not end.
    pub left: Option<Duration>,
}

type Tell = Box<dyn Fn(LeaseSample) + Send + Sync>;

/// Passes the samples on to the metrics and the pressure, and warns when little time is left.
pub struct LeaseHealth {
    /// How long a process may serve after a renewal.
    serves: Duration,
    pressure: Arc<Pressure>,
    tell: Tell,
    warned: Mutex<Option<Instant>>,
}

impl LeaseHealth {
    /// `serves`: the term of the lease without its margin. `tell` gets each sample.
    pub fn new(
        serves: Duration,
        pressure: Arc<Pressure>,
        tell: impl Fn(LeaseSample) + Send + Sync + 'static,
    ) -> LeaseHealth {
        LeaseHealth {
            serves,
            pressure,
            tell: Box::new(tell),
            warned: Mutex::default(),
        }
    }

    /// Takes the sample of a renewal that was answered or timed out.
    pub fn note(&self, sample: LeaseSample) {
        (self.tell)(sample);
        let Some(left) = sample.left else { return };
        self.pressure
            .note_lease(left, self.serves, BootInstant::now());
        if left >= self.serves / 2 || !self.may_warn() {
            return;
        }
        tracing::warn!(
            left_ms = left.as_millis(),
            late_ms = sample.late.as_millis(),
            took_ms = sample.took.as_millis(),
            "the lease is renewed late: less than half of its time was left; the machine, the \
             network or the lease's authorities are slow"
        );
    }

    fn may_warn(&self) -> bool {
        let mut warned = self.warned.lock();
        if warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return false;
        }
        *warned = Some(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn little_time_left_raises_the_pressure_and_warns_now_and_then() {
        let pressure = Pressure::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = told.clone();
        let health = LeaseHealth::new(Duration::from_secs(3), pressure.clone(), move |sample| {
            seen.lock().push(sample);
        });
        let sample = |left_ms: Option<u64>| LeaseSample {
            late: Duration::ZERO,
            took: Duration::from_millis(1),
            left: left_ms.map(Duration::from_millis),
        };
        health.note(sample(None));
        health.note(sample(Some(1_500)));
        assert!(!pressure.is_high());
        assert!(health.warned.lock().is_none(), "warned without a reason");
        health.note(sample(Some(1_499)));
        assert!(pressure.is_high());
        assert!(health.warned.lock().is_some(), "not warned");
        assert!(!health.may_warn(), "a second warning at once");
        tokio::time::advance(WARN_EVERY).await;
        assert!(health.may_warn(), "warns once only");
        assert_eq!(told.lock().len(), 3);
    }
}
