//! Two queues with a fixed delay each, instead of timers per session: sessions whose clients are to
//! be asked for an acknowledgement, and sessions whose writes are to be reported. An idle session
//! is in neither.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Attachments;
use super::hands::{Hands, Lock as _, Socket as _};
use super::state::{Phase, Session};

/// How long a write may go unreported.
const REPORT_AFTER: Duration = Duration::from_millis(200);

type Queue<H> = VecDeque<(Instant, Weak<Session<H>>)>;

/// The queues.
pub struct Timers<H: Hands> {
    ask_after: Duration,
    asks: H::Lock<Queue<H>>,
    reports: H::Lock<Queue<H>>,
}

impl<H: Hands> Timers<H> {
    /// `ask_after` is how long a delivery goes without an `<r/>`, at most.
    pub fn new(ask_after: Duration) -> Timers<H> {
        Timers {
            ask_after,
            asks: H::Lock::new(VecDeque::new()),
            reports: H::Lock::new(VecDeque::new()),
        }
    }

    /// Asks that session later.
    pub fn ask(&self, hands: &H, session: &Arc<Session<H>>) {
        let at = hands.now() + self.ask_after;
        self.asks.lock().push_back((at, Arc::downgrade(session)));
    }

    /// Reports that session later.
    pub fn report(&self, hands: &H, session: &Arc<Session<H>>) {
        let at = hands.now() + REPORT_AFTER;
        self.reports.lock().push_back((at, Arc::downgrade(session)));
    }
}

fn due<H: Hands>(queue: &H::Lock<Queue<H>>, now: Instant) -> Vec<Arc<Session<H>>> {
    let mut queue = queue.lock();
    let count = queue.iter().take_while(|(at, _)| *at <= now).count();
    queue
        .drain(..count)
        .filter_map(|(_, session)| session.upgrade())
        .collect()
}

impl<H: Hands> Attachments<H> {
    /// Everything that waits for time to pass; called every 50 ms.
    pub fn tick(&self, hands: &H) {
        let now = hands.now();
        for session in due::<H>(&self.timers.asks, now) {
            let again = session.ask_late(&mut session.state.lock());
            if again {
                self.timers.ask(hands, &session);
            }
            let _ = session.wire.flush();
        }
        for session in due::<H>(&self.timers.reports, now) {
            let mut state = session.state.lock();
            state.report_timer = false;
            if state.phase == Phase::Open {
                session.report_if_due(hands, &mut state, true);
            }
        }
        self.relieve(hands);
        self.room(hands);
        self.retry_waiting(hands, now);
    }

    /// Some lane may have room again: what waits for it goes on.
    pub fn room(&self, hands: &H) {
        self.send_parts(hands);
        self.send_behind(hands);
    }
}
