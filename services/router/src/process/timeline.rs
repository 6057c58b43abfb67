//! A new timeline of the slot table: the database has lost commits. This process tells storage what it
//! owns before it believes the table again, and serves on meanwhile.

use std::sync::Arc;
use std::time::Duration;

use sestina_cluster::slot_map::SlotTable;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Shared, jobs};
use crate::worker::input::{Command, Input};

/// How long one assertion may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The newest table, once this process has asserted what it owns on the table's timeline; `known` is
/// the last on which it has. None if the process ends.
pub(super) async fn joined(
    shared: &Shared,
    known: &mut u64,
    token: &CancellationToken,
) -> Option<Arc<SlotTable>> {
    let mut backoff = jobs::retry();
    let mut told = 0;
    loop {
        let table = shared.ports.table.load();
        let timeline = table.position().timeline;
        // A process that knew no table owns nothing.
        if timeline == *known || *known == 0 {
            *known = timeline;
            return Some(table);
        }
        if timeline != told {
            told = timeline;
            tracing::error!(
                timeline,
                version = table.position().version,
                "the database lost commits: the slot table has a new timeline, on which this router \
                 asserts its slots"
            );
        }
        tokio::select! {
            () = token.cancelled() => return None,
            asserted = assert(shared, timeline) => match asserted {
                Some(true) => {
                    shared.metrics.slot_table_timelines.inc();
                    *known = timeline;
                    continue;
                }
                // There is a newer one already.
                Some(false) => continue,
                None => {}
            }
        }
        tokio::select! {
            () = token.cancelled() => return None,
            () = backoff.wait() => {}
        }
    }
}

/// Asserts what the workers own; none if that could not be done now, false if there is a newer
/// timeline.
async fn assert(shared: &Shared, timeline: u64) -> Option<bool> {
    let mut held = Vec::new();
    for worker in 0..shared.mailboxes.len() {
        let (answer, answered) = oneshot::channel();
        let asked = Input::Command(Command::Held { answer });
        shared.mailboxes.tell(worker, asked);
        held.extend(answered.await.ok()?);
    }
    match shared.ports.assert(timeline, &held, LIMIT).await {
        Ok(Some(refused)) => {
            for (slot, epoch) in held {
                if refused.contains(&slot) {
                    let table = shared.ports.table.load();
                    // Should another own it under the same epoch, nothing of it counts any more.
                    let epoch = table.epoch(slot).max(epoch + 1);
                    let worker = shared.mailboxes.worker_of(slot);
                    shared.mailboxes.tell(worker, Input::Lose { slot, epoch });
                }
            }
            Some(true)
        }
        Ok(None) => Some(false),
        Err(error) => {
            tracing::warn!(%error, timeline, "the slots were not asserted; trying again");
            None
        }
    }
}
