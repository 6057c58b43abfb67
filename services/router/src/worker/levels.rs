//! How much waits in a worker, for the gauges: counted anew every few seconds, because most of it
//! is spread over sessions and slots, and nothing on a stanza's path should pay for it.

use sestina_telemetry::Queue;

use super::turn::Worker;
use crate::metrics::Metrics;

/// How often it is counted.
const EVERY_MS: u64 = 2_000;

/// What a worker has told of itself, so that the process's gauges are the sum of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Stanzas that clients have not acknowledged, and their bytes.
    session: (usize, usize),
    /// Rows on their way to the archives and offline stores.
    archive: (usize, usize),
    /// Objects whose change the shadow does not have.
    shadow: usize,
    /// Slots that are written anew because the shadow has lost something.
    rewriting: usize,
}

impl Levels {
    /// Tells the gauges what has changed.
    fn tell(&mut self, now: Levels, metrics: &Metrics) {
        metrics.waiting(
            Queue::Session,
            diff(self.session.0, now.session.0),
            diff(self.session.1, now.session.1),
        );
        metrics.waiting(
            Queue::Archive,
            diff(self.archive.0, now.archive.0),
            diff(self.archive.1, now.archive.1),
        );
        metrics.waiting(Queue::Shadow, diff(self.shadow, now.shadow), 0);
        metrics.rewriting(diff(self.rewriting, now.rewriting));
        *self = now;
    }
}

fn diff(before: usize, now: usize) -> i64 {
    let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    signed(now) - signed(before)
}

impl Worker {
    /// Brings the gauges up to date if it is time.
    pub(crate) fn measure(&mut self) {
        if self.core.now_ms < self.measured_ms + EVERY_MS {
            return;
        }
        self.measured_ms = self.core.now_ms;
        let mut now = Levels::default();
        for slot in self.slots.iter() {
            now.shadow += slot.shadow.unwritten();
            now.rewriting += usize::from(slot.shadow.is_rewriting());
            for session in slot.sessions.values() {
                now.session.0 += session.queue.len();
                now.session.1 += session.queue_bytes.get();
            }
        }
        let (archive, offline) = (self.core.archive.level(), self.core.offline.level());
        now.archive = (archive.0 + offline.0, archive.1 + offline.1);
        self.levels.tell(now, &self.core.metrics);
    }

    /// The worker ends: what it had is not in this process any more.
    pub(crate) fn end(&mut self) {
        let slots: Vec<u16> = self.slots.iter().map(|slot| slot.slot).collect();
        for slot in slots {
            self.drop_slot(slot);
        }
        self.levels.tell(Levels::default(), &self.core.metrics);
    }
}
