//! Runs one worker: takes what waits for it, works a turn, sends jobs on their way.

use std::sync::Arc;
use std::time::Duration;

use sestina_runtime::clock::BootInstant;
use sestina_runtime::clock::wall_ms;
use sestina_runtime::coalesce::until;
use sestina_runtime::mailbox::{Receiver, Sender};
use sestina_telemetry::{Authority, LeaseEvent, Queue};

use super::{Shared, jobs};
use crate::worker::core::{Job, PeerRef};
use crate::worker::input::Input;
use crate::worker::turn::Worker;

pub(super) async fn run(shared: Arc<Shared>, mut worker: Worker, mut inbox: Receiver<Input>) {
    worker.core.clock = now_us;
    worker.core.owners.unconfirmed_releases = shared.unconfirmed_releases.clone();
    operation(&shared, &mut worker, &mut inbox).await;
    worker.end();
}

async fn operation(shared: &Arc<Shared>, worker: &mut Worker, inbox: &mut Receiver<Input>) {
    let token = shared.tasks.token();
    let mut inputs = Vec::new();
    let mut others = Vec::new();
    let mut wanted = Vec::new();
    let tick = Duration::from_millis(shared.config.times.tick_ms);
    loop {
        let wait = worker.patience().map_or(tick, Duration::from_millis);
        let wait = worker
            .progress_due()
            .map_or(wait, |due| wait.min(until(due)));
        tokio::select! {
            () = token.cancelled() => return,
            taken = tokio::time::timeout(wait, inbox.recv_all(&mut inputs)) => {
                if taken.is_ok_and(|open| !open) {
                    return;
                }
            }
        }
        // A process whose lease ran out (it was suspended, or cut off from both authorities) must
        // not act: it waits until it has the lease again, or learns that it lost it.
        if !shared.lease.serving() {
            shared.lease_event(worker, LeaseEvent::Stopped);
            tokio::select! {
                () = token.cancelled() => return,
                waited = shared.lease.wait_serving() => if waited.is_err() { return },
            }
            shared.lease_event(worker, LeaseEvent::Resumed);
        }
        worker.turn(
            inputs.drain(..),
            now_ms(),
            wall_ms(),
            &mut others,
            &mut wanted,
        );
        let me = PeerRef(shared.node.incarnation);
        for frame in others.drain(..) {
            shared.mailboxes.pass_on(me, frame);
        }
        for job in wanted.drain(..) {
            let traces = match &job {
                Job::Archive { .. } => {
                    std::mem::take(&mut worker.core.storage.archive.flying_traces)
                }
                _ => Vec::new(),
            };
            jobs::start(shared, worker.core.me.worker, job, &traces);
        }
    }
}

/// Microseconds of the same clock, modulo 2^32, for how old stanzas are.
pub(super) fn now_us() -> u32 {
    (BootInstant::now().as_nanos() / 1_000) as u32
}

/// Milliseconds of the clock that runs while suspended.
pub(super) fn now_ms() -> u64 {
    BootInstant::now().as_nanos() / 1_000_000
}

impl Shared {
    /// Counts what all workers see, once.
    fn lease_event(&self, worker: &Worker, event: LeaseEvent) {
        if worker.core.me.worker == 0 {
            for authority in [Authority::Redis, Authority::Storage] {
                self.metrics.lease_events[(authority, event)].inc();
            }
        }
    }

    /// Keeps the gauges of the mailboxes up to date.
    pub(super) async fn measure(self: Arc<Self>) {
        const EVERY: Duration = Duration::from_secs(1);
        let token = self.tasks.token();
        let (items, bytes) = (
            &self.metrics.queue_items[Queue::Worker],
            &self.metrics.queue_bytes[Queue::Worker],
        );
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
            let sum = |each: fn(&Sender<Input>) -> usize| {
                i64::try_from(self.mailboxes.sum(each)).unwrap_or(i64::MAX)
            };
            items.set(sum(Sender::len));
            bytes.set(sum(Sender::bytes));
        }
        items.set(0);
        bytes.set(0);
        self.metrics.slots_owned.set(0);
        self.metrics.config_mismatches.set(0);
    }
}
