//! The clock that leases are counted on: it goes on while the machine is suspended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A moment on `CLOCK_BOOTTIME`. Unlike `std::time::Instant` it goes on while the machine is
/// suspended, so a process that is resumed sees that its lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// Now.
    pub fn now() -> BootInstant {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        BootInstant(Duration::new(seconds, nanos))
    }

    /// Time since this moment; zero if it is in the future.
    pub fn elapsed(self) -> Duration {
        BootInstant::now().duration_since(self)
    }

    /// Time from `earlier` to this moment; zero if `earlier` is the later one.
    pub fn duration_since(self, earlier: BootInstant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `time` later; none if the sum overflows.
    pub fn checked_add(self, time: Duration) -> Option<BootInstant> {
        self.0.checked_add(time).map(BootInstant)
    }
}

impl BootInstant {
    /// Nanoseconds on this clock, to be kept in an atomic.
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The reverse of [`BootInstant::as_nanos`].
    pub fn from_nanos(nanos: u64) -> BootInstant {
        BootInstant(Duration::from_nanos(nanos))
    }
}

/// Milliseconds since 1970: for time stamps that people read, never for decisions.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A clock that is at most so far behind counts as one that stands still.
const STEP_MS: i64 = 10_000;

/// The time stamp of an item that follows one of the time `before`, when the clock shows `now`. It
/// is never earlier than `before`, unless the clock was set back by more than [`STEP_MS`]: then the
/// clock was wrong before, and its present time counts.
pub fn steady_ms(before: i64, now: i64) -> i64 {
    if before.saturating_sub(now) <= STEP_MS {
        now.max(before)
    } else {
        now
    }
}

/// A source of the present time: the machine's clock, or a test's.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> BootInstant;
}

/// The machine's `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> BootInstant {
        BootInstant::now()
    }
}

/// A clock for tests: it stands still until the test moves it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> BootInstant {
        BootInstant::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_clock_moves_forward() {
        let before = BootInstant::now();
        let after = BootClock.now();
        assert!(after >= before);
        assert_eq!(before.duration_since(after), Duration::ZERO);
        assert_eq!(BootInstant::from_nanos(before.as_nanos()), before);
    }

    #[test]
    fn a_small_step_back_stands_still_and_a_large_one_is_a_correction() {
        assert_eq!(steady_ms(1_000_000, 1_000_001), 1_000_001);
        assert_eq!(steady_ms(1_000_000, 999_000), 1_000_000);
        let year = 365 * 86_400_000;
        assert_eq!(steady_ms(1_000_000 + year, 1_000_000), 1_000_000);
        assert_eq!(steady_ms(i64::MAX, i64::MIN), i64::MIN);
    }

    #[test]
    fn a_manual_clock_moves_when_told() {
        let clock = ManualClock::default();
        let before = clock.now();
        assert_eq!(clock.now(), before);
        clock.advance(Duration::from_millis(1500));
        assert_eq!(
            clock.now().duration_since(before),
            Duration::from_millis(1500)
        );
        assert_eq!(
            before.checked_add(Duration::from_millis(1500)),
            Some(clock.now())
        );
    }
}
