//! The requests of workers to storage and the state store: tasks send them, and put the answers into the worker's
//! mailbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sestina_api::state_store::{Loaded, Loading, Stamp, StateStore, StateStoreError};
use sestina_api::store::StoreError;
use sestina_proto as proto;
use sestina_runtime::backoff::Backoff;
use sestina_runtime::{failpoint, guard};
use sestina_telemetry::trace::span_from_traceparent;
use sestina_telemetry::{Lost, StoreOp};
use tracing::{Instrument as _, Span};

use super::Shared;
use super::questions;
use super::releases::{self, Release};
use crate::worker::core::Job;
use crate::worker::input::{Input, JobDone};
use crate::worker::operations::OperationId;

/// Starts a job of a worker. Of the sampled stanzas that it serves together, `traces`, each gets a
/// span; the call to storage is shown in the trace of the first.
pub(super) fn start(shared: &Arc<Shared>, worker: u32, job: Job, traces: &[Arc<str>]) {
    if let Job::Release { slot, epoch, to } = job {
        let release = Release {
            worker,
            slot,
            epoch,
            to,
        };
        return releases::start(shared, release);
    }
    if let Job::Raise { slot, known } = job {
        let release = Release {
            worker,
            slot,
            epoch: known,
            to: shared.node.clone(),
        };
        return releases::start(shared, release);
    }
    let this = shared.clone();
    let mut spans = traces
        .iter()
        .map(|trace| span_from_traceparent("archive", trace));
    let first = spans.next().unwrap_or_else(Span::none);
    let others: Vec<Span> = spans.collect();
    let task = async move {
        let token = this.tasks.token();
        let done = tokio::select! {
            () = token.cancelled() => return,
            done = run(&this, job) => done,
        };
        drop(others);
        if let Some(done) = done {
            this.mailboxes.tell(worker, Input::Done(done));
        }
    };
    shared.tasks.spawn("job", task.instrument(first));
}

async fn run(shared: &Arc<Shared>, job: Job) -> Option<JobDone> {
    Some(match job {
        Job::Archive { rows, operations } => {
            let slots = rows.iter().map(|r| fence_slot(r.fence.as_ref())).collect();
            let fenced = archive(shared, rows, &operations).await;
            JobDone::Archive {
                slots,
                operations,
                fenced,
            }
        }
        Job::Offline { rows, operations } => {
            let slots = rows.iter().map(|r| fence_slot(r.fence.as_ref())).collect();
            let (fenced, full) = offline(shared, rows, &operations).await;
            JobDone::Offline {
                slots,
                operations,
                fenced,
                full,
            }
        }
        Job::OfflineRemove {
            slot,
            session,
            request,
        } => {
            let mut backoff = retry();
            let fenced = loop {
                match shared.ports.stores.offline_remove(request.clone()).await {
                    Ok(reply) => break !reply.fenced_slots.is_empty(),
                    Err(error) => {
                        tracing::debug!(%error, "removing offline messages; trying again");
                        backoff.wait().await;
                    }
                }
            };
            JobDone::OfflineRemoved {
                slot,
                session,
                request,
                fenced,
            }
        }
        Job::UserKnown { .. }
        | Job::OfflineList(_)
        | Job::ArchiveQuery { .. }
        | Job::Residents { .. }
        | Job::EntityData { .. } => return questions::ask(shared, job).await,
        Job::ReplicaCommit { .. } | Job::ReplicaList { .. } | Job::ReplicaLoad { .. } => {
            return state_store(shared, job).await;
        }
        Job::Keys { users } => {
            shared.keep_keys(users).await;
            JobDone::Keys
        }
        // These go together: see `start`.
        Job::Release { .. } | Job::Raise { .. } => return None,
    })
}

/// Does a job at the state store.
async fn state_store(shared: &Shared, job: Job) -> Option<JobDone> {
    Some(match job {
        Job::ReplicaCommit { slot, at, ops } => {
            let began = Instant::now();
            let result = shared.ports.state_store.apply(slot, at, ops).await;
            shared.metrics.store_seconds[StoreOp::StateStoreApply].observe(began.elapsed());
            JobDone::ReplicaCommitted { slot, at, result }
        }
        Job::ReplicaList { slot, at } => {
            let result = shared.ports.state_store.list(slot, at).await;
            JobDone::ReplicaListed { slot, at, result }
        }
        Job::ReplicaLoad { slot, epoch } => {
            let mut backoff = retry();
            let result = loop {
                let began = Instant::now();
                let loaded = load(&*shared.ports.state_store, slot, epoch).await;
                shared.metrics.store_seconds[StoreOp::ReplicaLoad].observe(began.elapsed());
                match loaded {
                    Err(StateStoreError::Unavailable(reason)) => {
                        shared.metrics.store_errors[StoreOp::ReplicaLoad].inc();
                        tracing::debug!(slot, reason, "the slot waits for the state store");
                        backoff.wait().await;
                    }
                    result => break result,
                }
            };
            JobDone::ReplicaLoaded {
                slot,
                epoch,
                result,
            }
        }
        _ => return None,
    })
}

/// Loads a slot. Once the epoch is installed no earlier owner changes anything, so it goes in parts.
async fn load(
    state_store: &dyn StateStore,
    slot: u16,
    epoch: u64,
) -> Result<Loaded, StateStoreError> {
    let listing = state_store.list(slot, Stamp::new(epoch, 0)).await?;
    let mut loading = Loading::new(listing);
    while let Some((names, after)) = loading.next() {
        let part = state_store.load_part(slot, names, after).await?;
        if !loading.take(part, !guard!("load-in-parts")) {
            let text = "it changed while the slot was loaded, as when another server takes over";
            return Err(StateStoreError::Unavailable(text.to_owned()));
        }
    }
    Ok(loading.finish())
}

fn fence_slot(fence: Option<&proto::Fence>) -> (u16, u64) {
    fence.map_or((u16::MAX, 0), |f| {
        (u16::try_from(f.slot).unwrap_or(u16::MAX), f.epoch)
    })
}

pub(super) fn retry() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
}

/// Rows, each with the pending operation that waits for it.
type Batch<R> = Vec<(R, OperationId)>;

/// Appends rows until it is done, because their stanzas wait for it; returns each batch with
/// storage's reply. A row that the database refuses for good is named in the log and counted as
/// lost; the others of its batch are written.
async fn append_all<R: Clone, T, F>(
    shared: &Shared,
    rows: Batch<R>,
    lost: Lost,
    append: impl Fn(Vec<R>) -> F,
) -> Vec<(Batch<R>, T)>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = retry();
    let mut done = Vec::new();
    let mut batches = vec![rows];
    while let Some(batch) = batches.pop() {
        match append(batch.iter().map(|(row, _)| row.clone()).collect()).await {
            Ok(reply) => done.push((batch, reply)),
            Err(StoreError::Unavailable(reason)) => {
                let rows = batch.len();
                tracing::debug!(reason, rows, row = ?lost, "appending; trying again");
                batches.push(batch);
                backoff.wait().await;
            }
            Err(error) if batch.len() == 1 => {
                tracing::error!(%error, row = ?lost, "storage refuses a row for good");
                shared.metrics.lost[lost].inc();
            }
            Err(_) => batches.extend(batch.into_iter().rev().map(|row| vec![row])),
        }
    }
    done
}

/// Whether the slot of a row has another epoch in the table.
fn is_fenced(fence: Option<proto::Fence>, fenced_slots: &[u32]) -> bool {
    fence.is_some_and(|fence| fenced_slots.contains(&fence.slot))
}

/// Appends to archives; returns the rows that were fenced.
async fn archive(
    shared: &Shared,
    rows: Vec<proto::ArchiveRow>,
    operations: &[OperationId],
) -> Batch<proto::ArchiveRow> {
    failpoint!("router.archive_flush");
    let rows = rows.into_iter().zip(operations.iter().copied()).collect();
    let stores = &shared.ports.stores;
    let append = |rows| stores.archive_append(proto::ArchiveAppendRequest { rows });
    let mut fenced = Vec::new();
    for (mut batch, reply) in append_all(shared, rows, Lost::ArchiveRow, append).await {
        batch.retain(|(row, _)| is_fenced(row.fence, &reply.fenced_slots));
        fenced.append(&mut batch);
    }
    failpoint!("router.archived");
    fenced
}

/// What became of offline rows: those that were fenced, and the pending operations of those whose
/// user has too many.
type Stored = (Batch<proto::OfflineRow>, Vec<(OperationId, proto::Stanza)>);

/// Appends offline messages; names the rows whose user has too many.
async fn offline(
    shared: &Shared,
    rows: Vec<proto::OfflineRow>,
    operations: &[OperationId],
) -> Stored {
    let rows = rows.into_iter().zip(operations.iter().copied()).collect();
    let stores = &shared.ports.stores;
    let max_rows = shared.config.offline_limit;
    let append = |rows| stores.offline_append(proto::OfflineAppendRequest { rows, max_rows });
    let (mut fenced, mut full) = (Vec::new(), Vec::new());
    for (mut batch, reply) in append_all(shared, rows, Lost::OfflineRow, append).await {
        let refused = reply
            .full
            .iter()
            .filter_map(|index| batch.get(*index as usize));
        full.extend(refused.filter_map(|(row, operation)| Some((*operation, row.stanza.clone()?))));
        batch.retain(|(row, _)| is_fenced(row.fence, &reply.fenced_slots));
        fenced.append(&mut batch);
    }
    (fenced, full)
}

/// Lets storage delete old rows about once an hour.
pub(super) async fn maintain(shared: Arc<Shared>) {
    let token = shared.tasks.token();
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(sestina_runtime::backoff::jitter(Duration::from_secs(3600), 0.5)) => {}
        }
        let request = proto::MaintainRequest {
            archive_keep_days: 0,
            outcome_keep_s: 7 * 86_400,
        };
        if let Err(error) = shared.ports.stores.maintain(request).await {
            tracing::warn!(%error, "maintenance of the stores failed; it is tried again later");
        }
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
