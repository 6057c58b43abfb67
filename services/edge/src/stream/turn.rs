//! Logins take turns while the process is overloaded, and wait while its sessions hold too much.
//! Sessions that exist are served first.

use std::time::Duration;

use sestina_runtime::pressure::Turn;
use tokio::time::{Instant, timeout_at};

use crate::metrics::Count;
use crate::shared::Shared;

/// How long a login waits before the client is asked to try later. Less than the time for a login.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for room and for a turn; false if either did not come in time.
pub(super) async fn take(shared: &Shared) -> bool {
    let end = Instant::now() + PATIENCE;
    let turn = match wait_for_room(shared, end).await {
        Turn::Never => Turn::Never,
        before => {
            let patience = end.saturating_duration_since(Instant::now());
            let turn = shared.config.around.pressure.turn(patience).await;
            if (before, turn) == (Turn::AtOnce, Turn::Waited) {
                shared.metrics.count(Count::LoginDelayed, 1);
            }
            turn
        }
    };
    if turn == Turn::Never {
        shared.metrics.count(Count::LoginShed, 1);
    }
    turn != Turn::Never
}

/// Waits until sessions may hold more.
async fn wait_for_room(shared: &Shared, end: Instant) -> Turn {
    let mut turn = Turn::AtOnce;
    loop {
        // Registered before the check, so that no notification between the check and the wait is
        // missed.
        let room = shared.held_room.notified();
        if !shared.attachments.held.is_full() {
            return turn;
        }
        if turn == Turn::AtOnce {
            shared.metrics.count(Count::LoginDelayed, 1);
            turn = Turn::Waited;
        }
        if timeout_at(end, room).await.is_err() {
            return Turn::Never;
        }
    }
}
