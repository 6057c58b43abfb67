//! Two queues with one delay each, instead of timers per session: who is to be asked for an
//! acknowledgement, and whose writes are to be reported. An idle session is in neither.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::state::{Phase, Session};
use crate::shared::Shared;

/// How often the queues are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a write may go unreported.
const REPORT_AFTER: Duration = Duration::from_millis(200);

type Queue = Mutex<VecDeque<(Instant, Weak<Session>)>>;

/// The queues.
pub(crate) struct Timers {
    ask_after: Duration,
    asks: Queue,
    reports: Queue,
}

impl Timers {
    /// `ask_after` is how long a delivery goes without an `<r/>`, at most.
    pub(crate) fn new(ask_after: Duration) -> Timers {
        Timers {
            ask_after,
            asks: Queue::default(),
            reports: Queue::default(),
        }
    }

    /// Asks that session later.
    pub(crate) fn ask(&self, session: &Arc<Session>) {
        push(&self.asks, self.ask_after, session);
    }

    /// Reports that session later.
    pub(crate) fn report(&self, session: &Arc<Session>) {
        push(&self.reports, REPORT_AFTER, session);
    }
}

fn push(queue: &Queue, after: Duration, session: &Arc<Session>) {
    queue
        .lock()
        .push_back((Instant::now() + after, Arc::downgrade(session)));
}

fn due(queue: &Queue, now: Instant) -> Vec<Arc<Session>> {
    let mut queue = queue.lock();
    let count = queue.iter().take_while(|(at, _)| *at <= now).count();
    queue
        .drain(..count)
        .filter_map(|(_, session)| session.upgrade())
        .collect()
}

/// The task that turns the queues, and everything else that waits for time to pass.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !shared.check_lease() {
            continue;
        }
        let now = Instant::now();
        for session in due(&shared.timers.asks, now) {
            let again = session.ask_late(&mut session.state.lock());
            if again {
                shared.timers.ask(&session);
            }
            let _ = session.wire.flush();
        }
        for session in due(&shared.timers.reports, now) {
            let mut state = session.state.lock();
            state.report_timer = false;
            if state.phase == Phase::Open {
                session.report_if_due(&shared, &mut state, true);
            }
        }
        shared.retry_waiting(now);
    }
}
