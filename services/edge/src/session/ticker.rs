//! The task that looks at what waits for time to pass, or for room on a lane.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::shared::Shared;

const TICK: Duration = Duration::from_millis(50);

/// Ticks until the edge ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.lane_room.notified() => {
                if shared.check_lease() {
                    shared.attachments.room(&shared);
                }
                continue;
            }
            _ = ticks.tick() => {}
        }
        shared.failed_logins.tell(Instant::now());
        if shared.check_lease() {
            shared.attachments.tick(&shared);
            if !shared.attachments.held.is_full() {
                shared.held_room.notify_waiters();
            }
        }
    }
}
