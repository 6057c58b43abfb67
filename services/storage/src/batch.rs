//! A leader's batch: who waits while a commit is under way shares the next one.

use std::future::Future;
use std::sync::Arc;

use sestina_api::store::StoreError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Items that may wait; more wait at the door.
const QUEUE: usize = 4096;

/// How much goes into one commit.
const WEIGHT: usize = 4 * 1024 * 1024;
const ITEMS: usize = 1024;

struct Entry<I, O> {
    item: Arc<I>,
    weight: usize,
    answer: oneshot::Sender<Result<O, StoreError>>,
}

/// A queue of items and the task that commits them, one batch at a time and in order.
#[derive(Debug)]
pub(crate) struct Batcher<I, O> {
    queue: mpsc::Sender<Entry<I, O>>,
    stop: watch::Sender<bool>,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl<I: Send + Sync + 'static, O: Send + 'static> Batcher<I, O> {
    /// `commit` gets the items of a batch and returns one answer for each, or why nothing was
    /// committed.
    pub(crate) fn spawn<C, F>(commit: C) -> Batcher<I, O>
    where
        C: Fn(Vec<Arc<I>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Vec<O>, StoreError>> + Send + 'static,
    {
        let (queue, entries) = mpsc::channel(QUEUE);
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(lead(entries, stopping, commit));
        Batcher {
            queue,
            stop,
            task: parking_lot::Mutex::new(Some(task)),
        }
    }

    /// Waits until the item's batch is committed. `weight` is about its bytes.
    pub(crate) async fn submit(&self, item: I, weight: usize) -> Result<O, StoreError> {
        let (answer, answered) = oneshot::channel();
        let entry = Entry {
            item: Arc::new(item),
            weight,
            answer,
        };
        let closed = || StoreError::Unavailable("storage is closed".to_owned());
        self.queue.send(entry).await.map_err(|_| closed())?;
        answered
            .await
            .map_err(|_| StoreError::Unavailable("the batch was abandoned".to_owned()))?
    }

    /// Commits what waits, then ends.
    pub(crate) async fn close(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "a batcher failed");
        }
    }
}

async fn lead<I, O, C, F>(
    mut entries: mpsc::Receiver<Entry<I, O>>,
    mut stopping: watch::Receiver<bool>,
    commit: C,
) where
    C: Fn(Vec<Arc<I>>) -> F,
    F: Future<Output = Result<Vec<O>, StoreError>>,
{
    loop {
        let first = tokio::select! {
            biased;
            first = entries.recv() => first,
            _ = stopping.changed() => {
                entries.close();
                entries.recv().await
            }
        };
        let Some(first) = first else { return };
        let mut weight = first.weight;
        let mut batch = vec![first];
        while weight < WEIGHT
            && batch.len() < ITEMS
            && let Ok(entry) = entries.try_recv()
        {
            weight += entry.weight;
            batch.push(entry);
        }
        // A caller that has given up waiting for an unavailable database is not worth a commit.
        batch.retain(|entry| !entry.answer.is_closed());
        settle(batch, &commit).await;
    }
}

/// Commits a batch and answers. An item that the database refuses must not take the others with
/// it, so such a batch is repeated one by one.
async fn settle<I, O, C, F>(batch: Vec<Entry<I, O>>, commit: &C)
where
    C: Fn(Vec<Arc<I>>) -> F,
    F: Future<Output = Result<Vec<O>, StoreError>>,
{
    if batch.is_empty() {
        return;
    }
    let outcome = commit(batch.iter().map(|entry| Arc::clone(&entry.item)).collect()).await;
    match outcome {
        Ok(answers) => {
            for (entry, answer) in batch.into_iter().zip(answers) {
                drop(entry.answer.send(Ok(answer)));
            }
        }
        Err(StoreError::Internal(_) | StoreError::Invalid(_)) if batch.len() > 1 => {
            for entry in batch {
                let alone = commit(vec![Arc::clone(&entry.item)]).await;
                let answer = alone.and_then(|answers| {
                    let missing = || StoreError::Internal("a commit gave no answer".to_owned());
                    answers.into_iter().next().ok_or_else(missing)
                });
                drop(entry.answer.send(answer));
            }
        }
        Err(error) => {
            for entry in batch {
                drop(entry.answer.send(Err(error.clone())));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn waiting_items_share_a_commit_and_a_bad_one_fails_alone() {
        let gate = Arc::new(Semaphore::new(0));
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let (seen, door) = (Arc::clone(&sizes), Arc::clone(&gate));
        let batcher = Arc::new(Batcher::spawn(move |items: Vec<Arc<u32>>| {
            let (seen, door) = (Arc::clone(&seen), Arc::clone(&door));
            async move {
                seen.lock().push(items.len());
                door.acquire().await.unwrap().forget();
                if items.iter().any(|item| **item == 13) {
                    return Err(StoreError::Internal("thirteen".to_owned()));
                }
                Ok(items.iter().map(|item| **item * 2).collect())
            }
        }));
        // The first occupies the leader; the others are queued before it is let go.
        let submit = |item: u32| {
            let batcher = Arc::clone(&batcher);
            tokio::spawn(async move { batcher.submit(item, 1).await })
        };
        let first = submit(1);
        while sizes.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = [2, 13, 3].into_iter().map(submit).collect();
        while batcher.queue.capacity() > QUEUE - 3 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
        assert_eq!(first.await.unwrap(), Ok(2));
        let mut answers = Vec::new();
        for task in rest {
            answers.push(task.await.unwrap());
        }
        assert_eq!(answers[0], Ok(4));
        assert!(matches!(answers[1], Err(StoreError::Internal(_))));
        assert_eq!(answers[2], Ok(6));
        // Alone, then three together, then those three one by one.
        assert_eq!(*sizes.lock(), [1, 3, 1, 1, 1]);
        batcher.close().await;
        assert!(matches!(
            batcher.submit(1, 1).await,
            Err(StoreError::Unavailable(_))
        ));
    }
}
