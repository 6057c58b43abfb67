//! Slots that are ready to be given away: one change of the table for all that wait, not one each.
//! Every change locks the table in storage and is sent to all processes; a router that drains has
//! thousands to give.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sestina_proto as proto;
use sestina_runtime::failpoint;

use super::Shared;
use crate::worker::input::{Input, JobDone};

/// How long one change may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Slots that are quiescing together are ready one after the other: how long the first waits for the
/// next ones. One change of the table takes longer.
const GATHER: Duration = Duration::from_millis(5);

/// One slot to give away.
pub(super) struct Release {
    pub(super) worker: u32,
    pub(super) slot: u16,
    pub(super) epoch: u64,
    pub(super) to: proto::Node,
}

/// Those that wait for the change that is under way.
#[derive(Default)]
pub(super) struct Releases {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Release>,
    running: bool,
}

impl Releases {
    /// True if the caller has to run [`run`].
    fn add(&self, release: Release) -> bool {
        let mut state = self.state.lock();
        state.waiting.push(release);
        !std::mem::replace(&mut state.running, true)
    }

    /// All that wait; none ends the run.
    fn next(&self) -> Vec<Release> {
        let mut state = self.state.lock();
        let waiting = std::mem::take(&mut state.waiting);
        state.running = !waiting.is_empty();
        waiting
    }
}

/// Gives a slot away, with all others that are ready meanwhile.
pub(super) fn start(shared: &Arc<Shared>, release: Release) {
    if !shared.releases.add(release) {
        return;
    }
    let this = shared.clone();
    shared.tasks.spawn("release", async move {
        let token = this.tasks.token();
        tokio::select! {
            () = token.cancelled() => {}
            () = async {
                tokio::time::sleep(GATHER).await;
                run(&this).await;
            } => {}
        }
    });
}

async fn run(shared: &Shared) {
    loop {
        let batch = shared.releases.next();
        if batch.is_empty() {
            return;
        }
        let moves = batch.iter().map(|r| (r.slot, r.to.clone()));
        let moves: Vec<(u16, proto::Node)> = moves.collect();
        let epochs = shared.epochs.clone();
        let known = move |slot: u16| {
            epochs
                .get(usize::from(slot))
                .map_or(0, |e| e.load(std::sync::atomic::Ordering::Acquire))
        };
        // To itself: a higher epoch of a slot that stays here.
        let raises = |release: &Release| release.to.incarnation == shared.node.incarnation;
        for release in batch.iter().filter(|release| !raises(release)) {
            shared
                .unconfirmed_releases
                .gives(release.slot, release.epoch);
        }
        let changed = shared.ports.hand_over(&moves, known, LIMIT).await;
        failpoint!("router.released");
        if let Err(error) = &changed {
            tracing::info!(%error, slots = moves.len(), "slots could not be given away");
        }
        let table = shared.ports.table.load();
        for release in batch {
            let raised = raises(&release);
            let Release {
                worker,
                slot,
                epoch,
                ..
            } = release;
            if raised {
                let raised = JobDone::Raised { slot };
                shared.mailboxes.tell(worker, Input::Done(raised));
                continue;
            }
            let refused = changed
                .as_ref()
                .map_or(true, |refused| refused.contains(&slot));
            let done = !refused && !table.owned_by(slot, &shared.node);
            if !done {
                shared.unconfirmed_releases.keeps(slot);
            }
            let released = JobDone::Released { slot, epoch, done };
            shared.mailboxes.tell(worker, Input::Done(released));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(slot: u16, to: u64) -> Release {
        let to = proto::Node {
            name: to.to_string(),
            incarnation: to,
            ..proto::Node::default()
        };
        Release {
            worker: 0,
            slot,
            epoch: 1,
            to,
        }
    }

    #[test]
    fn releases_that_wait_are_written_together_whichever_router_gets_them() {
        let releases = Releases::default();
        assert!(releases.add(release(1, 7)));
        assert!(!releases.add(release(2, 8)));
        assert!(!releases.add(release(3, 7)));
        let slots = |batch: Vec<Release>| batch.iter().map(|r| r.slot).collect::<Vec<_>>();
        assert_eq!(slots(releases.next()), [1, 2, 3]);
        assert!(!releases.add(release(4, 7)), "one change at a time");
        assert_eq!(slots(releases.next()), [4]);
        assert!(releases.next().is_empty());
        assert!(releases.add(release(5, 7)), "the run has ended");
    }
}
