//! How much waits in a worker, for the gauges: counted anew every few seconds, because most of it
//! is spread over sessions and slots, and nothing on a stanza's path should pay for it.

use sestina_telemetry::Queue;

use super::turn::Worker;
use crate::metrics::Metrics;

/// How often it is counted.
const EVERY_MS: u64 = 2_000;

/// The values that a worker has reported, so that the process's gauges are the sum of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Stanzas that clients have not acknowledged, and their bytes.
    session: (usize, usize),
    /// Rows on their way to the archives and offline stores.
    archive: (usize, usize),
    /// Objects whose change the state store does not have.
    replica: usize,
    /// Slots that are written anew because the state store has lost something.
    rewriting: usize,
}

impl Gauges {
    /// Tells the gauges what has changed.
    fn tell(&mut self, now: Gauges, metrics: &Metrics) {
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
        metrics.waiting(Queue::StateStore, diff(self.replica, now.replica), 0);
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
        let mut now = Gauges::default();
        for slot in self.slots.iter() {
            now.replica += slot.replica.unwritten();
            now.rewriting += usize::from(slot.replica.is_rewriting());
            for session in slot.sessions.values() {
                now.session.0 += session.channel.outgoing.queue.len();
                now.session.1 += session.channel.outgoing.queue_bytes.get();
            }
        }
        let (archive, offline) = (
            self.core.storage.archive.level(),
            self.core.storage.offline.level(),
        );
        now.archive = (archive.0 + offline.0, archive.1 + offline.1);
        self.gauges.tell(now, &self.core.metrics);
    }

    /// The worker ends: what it had is not in this process any more.
    pub(crate) fn end(&mut self) {
        let slots: Vec<u16> = self.slots.iter().map(|slot| slot.slot).collect();
        for slot in slots {
            self.drop_slot(slot);
        }
        self.gauges.tell(Gauges::default(), &self.core.metrics);
    }
}
