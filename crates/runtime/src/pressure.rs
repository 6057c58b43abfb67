//! Whether a process is overloaded: its timers fire late, or little is left of its lease at a
//! renewal.
//!
//! A process under pressure delays *new* work, long before its lease is in danger: connections are
//! accepted one after the other, logins take turns, large answers wait a moment. Each of these
//! waits has a bound, so a process that stays overloaded still serves, only more slowly, and none
//! of its connections is closed.
//!
//! There is hysteresis: pressure rises at once and falls after [`CALM`] without a sign of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::BootInstant;

/// The interval of the timer whose lateness is measured.
const TICK: Duration = Duration::from_millis(100);
/// A tick that is later than this is a sign of pressure.
pub const LATE: Duration = Duration::from_millis(250);
/// While there is pressure, a tick that is later than this extends it.
const STILL_LATE: Duration = Duration::from_millis(100);
/// The pressure falls after this time without a sign of it.
pub const CALM: Duration = Duration::from_secs(2);

/// The interval between turns under pressure.
const INTERVAL: Duration = Duration::from_millis(20);

/// The pressure on one process.
#[derive(Debug)]
pub struct Pressure {
    high: watch::Sender<bool>,
    /// When the pressure falls, unless another sign of it comes before; nanoseconds of the boot
    /// clock.
    falls: AtomicU64,
    /// Held by the caller whose turn is next.
    turns: Semaphore,
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure {
            high: watch::Sender::new(false),
            falls: AtomicU64::new(0),
            turns: Semaphore::new(1),
        }
    }
}

/// The result of waiting for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is no pressure.
    AtOnce,
    /// The turn came.
    Waited,
    /// The turn did not come in time.
    Never,
}

impl Pressure {
    /// A process without pressure.
    pub fn new() -> Arc<Pressure> {
        Arc::default()
    }

    /// Whether new work must be delayed.
    pub fn is_high(&self) -> bool {
        *self.high.borrow()
    }

    /// A timer of the process fired late, by `late`.
    pub fn note_late(&self, late: Duration, now: BootInstant) {
        if late > LATE || (late > STILL_LATE && self.is_high()) {
            return self.rise(now);
        }
        let falls = BootInstant::from_nanos(self.falls.load(Ordering::Acquire));
        if self.is_high() && now >= falls {
            self.set(false);
        }
    }

    /// The lease was renewed when the process could have served for `left` without that renewal;
    /// just after a renewal it can serve for `term`.
    pub fn note_lease(&self, left: Duration, term: Duration, now: BootInstant) {
        if left < term / 2 {
            self.rise(now);
        }
    }

    fn rise(&self, now: BootInstant) {
        let falls = now.checked_add(CALM).map_or(u64::MAX, |at| at.as_nanos());
        self.falls.fetch_max(falls, Ordering::AcqRel);
        self.set(true);
    }

    fn set(&self, high: bool) {
        let changed = self.high.send_if_modified(|now| {
            let changed = *now != high;
            *now = high;
            changed
        });
        match (changed, high) {
            (true, true) => tracing::warn!(
                "this process is overloaded: new connections, logins and large answers wait"
            ),
            (true, false) => tracing::info!("this process is not overloaded any more"),
            (false, _) => {}
        }
    }

    /// Waits while there is pressure, for no longer than `limit`. Returns whether it had to wait.
    pub async fn pause(&self, limit: Duration) -> bool {
        if !self.is_high() {
            return false;
        }
        let mut high = self.high.subscribe();
        // The result does not matter: after `limit` the work is done in spite of the pressure.
        drop(timeout(limit, high.wait_for(|high| !high)).await);
        true
    }

    /// Waits for a turn: without pressure there is one at once, otherwise turns come at fixed
    /// intervals. A turn is not held, so a caller that stops does not block the next one.
    pub async fn turn(&self, limit: Duration) -> Turn {
        if !self.is_high() {
            return Turn::AtOnce;
        }
        let mut high = self.high.subscribe();
        let turn = async {
            let _turn = self.turns.acquire().await;
            sleep(INTERVAL).await;
        };
        let waited = timeout(limit, async {
            tokio::select! {
                _ = high.wait_for(|high| !high) => {}
                () = turn => {}
            }
        });
        match waited.await {
            Ok(()) => Turn::Waited,
            Err(_) => Turn::Never,
        }
    }

    /// Measures the runtime that this runs on, until `stop`. At each tick it calls `told` with the
    /// lateness of the tick and whether the pressure is high.
    pub async fn measure(&self, stop: CancellationToken, told: impl Fn(Duration, bool)) {
        loop {
            let due = Instant::now() + TICK;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(due) => {}
            }
            let late = due.elapsed();
            self.note_late(late, BootInstant::now());
            told(late, self.is_high());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootInstant {
        BootInstant::from_nanos(ms * 1_000_000)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn pressure_rises_at_once_and_falls_after_a_calm_time() {
        let pressure = Pressure::new();
        pressure.note_late(LATE, at(0));
        assert!(!pressure.is_high(), "a tick that is a little late");
        pressure.note_late(LATE + ms(1), at(1_000));
        assert!(pressure.is_high());
        // Less late than the tick that raised the pressure, but still late.
        pressure.note_late(STILL_LATE + ms(1), at(2_000));
        pressure.note_late(ms(0), at(3_999));
        assert!(pressure.is_high(), "fell before the calm time was over");
        pressure.note_late(ms(0), at(4_000));
        assert!(!pressure.is_high());
        // A lateness that extends the pressure does not raise it.
        pressure.note_late(STILL_LATE + ms(1), at(5_000));
        assert!(!pressure.is_high());
    }

    #[test]
    fn a_lease_of_which_less_than_half_is_left_raises_the_pressure() {
        let pressure = Pressure::new();
        pressure.note_lease(ms(1_500), ms(3_000), at(0));
        assert!(!pressure.is_high());
        pressure.note_lease(ms(1_499), ms(3_000), at(0));
        assert!(pressure.is_high());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_intervals_under_pressure() {
        let pressure = Pressure::new();
        assert_eq!(pressure.turn(CALM).await, Turn::AtOnce);
        pressure.note_late(LATE * 2, at(0));
        let began = Instant::now();
        let limit = INTERVAL * 5 / 2;
        let turns = tokio::join!(
            pressure.turn(limit),
            pressure.turn(limit),
            pressure.turn(limit)
        );
        assert_eq!(turns, (Turn::Waited, Turn::Waited, Turn::Never));
        assert_eq!(began.elapsed(), limit);
        // The pressure falls while the caller waits.
        let (turn, ()) = tokio::join!(pressure.turn(CALM), async {
            pressure.note_late(ms(0), at(10_000));
        });
        assert_eq!(turn, Turn::Waited);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_bounded() {
        let pressure = Pressure::new();
        assert!(!pressure.pause(CALM).await);
        pressure.note_late(LATE * 2, at(0));
        let began = Instant::now();
        assert!(pressure.pause(CALM).await);
        assert_eq!(began.elapsed(), CALM);
    }
}
