//! The outgoing queue of a lane: bounded in bytes, filled without waiting, emptied in batches. A full
//! queue refuses, and tells when it has room again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use sestina_api::link::{BULK, Unsent};
use sestina_runtime::coalesce::{CoalescingTimer, Waiting};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// So many bytes of trailing items are worth a write of their own.
const COMPANY: usize = 16 << 10;

/// How a lane ended, seen from the side that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Closed on purpose: what is queued is still written.
    Finished,
    /// The connection is gone: what is queued is dropped.
    Broken,
}

/// What waits in all queues of one kind in this process.
#[derive(Debug, Default)]
pub struct Level {
    items: AtomicI64,
    bytes: AtomicI64,
    refusals: AtomicU64,
}

/// Of the lanes between edges and routers.
pub static LANES: Level = Level::new();
/// Of the lanes between routers.
pub static PEER_LANES: Level = Level::new();

impl Level {
    const fn new() -> Level {
        Level {
            items: AtomicI64::new(0),
            bytes: AtomicI64::new(0),
            refusals: AtomicU64::new(0),
        }
    }

    /// Items that wait.
    pub fn items(&self) -> i64 {
        self.items.load(Relaxed)
    }

    /// Their bytes.
    pub fn bytes(&self) -> i64 {
        self.bytes.load(Relaxed)
    }

    /// How often a full queue refused an item.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }

    fn change(&self, items: i64, bytes: i64) {
        self.items.fetch_add(items, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// Items with their size in bytes, waiting for the writer.
///
/// It accepts while it holds less than its bound, so what it can hold is the bound and one item:
/// a large item fits whenever the queue is not already full. What may not be refused comes on top.
pub struct ByteQueue<T> {
    state: Mutex<State<T>>,
    bound: usize,
    ended: CancellationToken,
    level: &'static Level,
    /// Woken when a full queue has room again, and when it ends.
    room: Notify,
    /// Called when less waits than what goes in bulk may add to.
    on_room: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct State<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    end: Option<End>,
    writer: Option<Waker>,
    /// The writer will be woken at the next flush.
    coalescing: bool,
}

impl<T> ByteQueue<T> {
    /// An empty queue; `ended` is cancelled when it ends, and a reader that waits for it also ends
    /// with the token's parent.
    pub fn new(bound: usize, ended: CancellationToken, level: &'static Level) -> Arc<ByteQueue<T>> {
        let state = State {
            items: VecDeque::new(),
            bytes: 0,
            end: None,
            writer: None,
            coalescing: false,
        };
        Arc::new(ByteQueue {
            state: Mutex::new(state),
            bound,
            ended,
            level,
            room: Notify::new(),
            on_room: OnceLock::new(),
        })
    }

    /// Has `call` called each time when less waits again than what goes in bulk may add to.
    pub fn on_room(&self, call: impl Fn() + Send + Sync + 'static) {
        self.on_room.set(Box::new(call)).ok();
    }

    /// Returns when the queue is not full, or has ended.
    pub async fn room(&self) {
        loop {
            let woken = self.room.notified();
            {
                let state = self.state.lock();
                if state.end.is_some() || state.bytes < self.bound {
                    return;
                }
            }
            woken.await;
        }
    }

    /// Appends without waiting. A full queue refuses.
    pub fn push(&self, bytes: usize, item: T) -> Result<(), Unsent<T>> {
        self.append(bytes, item, true)
    }

    /// Appends without waiting, whatever waits already.
    pub fn push_control(&self, bytes: usize, item: T) -> Result<(), Unsent<T>> {
        self.append(bytes, item, false)
    }

    /// The same for an item for which no process waits: it leaves with the next other one, or at the
    /// next beat.
    pub fn push_trailing(
        self: &Arc<Self>,
        bytes: usize,
        item: T,
        coalesce: &Arc<CoalescingTimer>,
    ) -> Result<(), Unsent<T>>
    where
        T: Send + 'static,
    {
        let mut state = self.state.lock();
        // Without a writer that waits, another one is about to take it.
        if state.writer.is_none() || state.bytes + bytes >= COMPANY.min(self.bound) {
            drop(state);
            return self.push_control(bytes, item);
        }
        if state.end.is_some() {
            return Err(Unsent::Closed);
        }
        self.add(&mut state, bytes, item);
        if !std::mem::replace(&mut state.coalescing, true) {
            drop(state);
            coalesce.add(Arc::clone(self) as Arc<dyn Waiting>);
        }
        Ok(())
    }

    fn append(&self, bytes: usize, item: T, refusable: bool) -> Result<(), Unsent<T>> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return Err(Unsent::Closed);
        }
        if refusable && state.bytes >= self.bound {
            drop(state);
            self.level.refusals.fetch_add(1, Relaxed);
            return Err(Unsent::full(item));
        }
        self.add(&mut state, bytes, item);
        let waker = state.writer.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn add(&self, state: &mut State<T>, bytes: usize, item: T) {
        state.bytes += bytes;
        state.items.push_back((bytes, item));
        self.level.change(1, signed(bytes));
    }

    /// Ends the lane; the first end stays.
    pub fn end(&self, end: End) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(end);
        let dropped = if end == End::Finished {
            VecDeque::new()
        } else {
            self.level
                .change(-signed(state.items.len()), -signed(state.bytes));
            state.bytes = 0;
            std::mem::take(&mut state.items)
        };
        let waker = state.writer.take();
        drop(state);
        drop(dropped);
        self.ended.cancel();
        self.room.notify_waiters();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// How the lane ended, if it has.
    pub fn ended(&self) -> Option<End> {
        self.state.lock().end
    }

    /// Cancelled when the lane ends, by either side or by shutdown.
    pub fn token(&self) -> &CancellationToken {
        &self.ended
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Takes what waits, until `max` bytes are reached (at least one item); `Err` at the end.
    fn poll_take(&self, cx: &mut Context<'_>, max: usize) -> Poll<Result<Vec<T>, End>> {
        let mut state = self.state.lock();
        if state.items.is_empty() {
            if let Some(end) = state.end {
                return Poll::Ready(Err(end));
            }
            match &state.writer {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => state.writer = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let mut taken = 0;
        let mut batch = Vec::new();
        while let Some((bytes, _)) = state.items.front() {
            if !batch.is_empty() && taken + bytes > max {
                break;
            }
            if let Some((bytes, item)) = state.items.pop_front() {
                taken += bytes;
                batch.push(item);
            }
        }
        let before = state.bytes;
        state.bytes -= taken;
        let now = state.bytes;
        drop(state);
        self.level.change(-signed(batch.len()), -signed(taken));
        if before >= self.bound && now < self.bound {
            self.room.notify_waiters();
        }
        let bulk = BULK.min(self.bound);
        if before >= bulk
            && now < bulk
            && let Some(call) = self.on_room.get()
        {
            call();
        }
        Poll::Ready(Ok(batch))
    }
}

impl<T: Send> Waiting for ByteQueue<T> {
    fn wake(&self) {
        let mut state = self.state.lock();
        state.coalescing = false;
        let waker = if state.items.is_empty() {
            None
        } else {
            state.writer.take()
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for ByteQueue<T> {
    /// What was left of a lane that ended in order.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.level
            .change(-signed(state.items.len()), -signed(state.bytes));
    }
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The writer's end of a queue, as the stream that a gRPC call sends. There is no task and no
/// timer between: the connection asks for the next message when it can send one, and gets all
/// that has gathered since.
pub struct Outgoing<T, M> {
    queue: Arc<ByteQueue<T>>,
    max: usize,
    pack: fn(Vec<T>) -> M,
    done: bool,
}

impl<T, M> Outgoing<T, M> {
    /// Batches of up to `max` bytes, each packed into one message.
    pub fn new(queue: Arc<ByteQueue<T>>, max: usize, pack: fn(Vec<T>) -> M) -> Outgoing<T, M> {
        Outgoing {
            queue,
            max,
            pack,
            done: false,
        }
    }
}

impl<T, M> Unpin for Outgoing<T, M> {}

impl<T, M> Stream for Outgoing<T, M> {
    /// The end is an item too, once, so that the server's side can say why.
    type Item = Result<M, End>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<M, End>>> {
        if self.done {
            return Poll::Ready(None);
        }
        match self.queue.poll_take(cx, self.max) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(batch)) => Poll::Ready(Some(Ok((self.pack)(batch)))),
            Poll::Ready(Err(end)) => {
                self.done = true;
                Poll::Ready(Some(Err(end)))
            }
        }
    }
}

impl<T, M> Drop for Outgoing<T, M> {
    fn drop(&mut self) {
        // The connection let go of it: nothing more will be written.
        self.queue.end(End::Broken);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn queue(bound: usize) -> Arc<ByteQueue<u32>> {
        static UNSEEN: Level = Level::new();
        ByteQueue::new(bound, CancellationToken::new(), &UNSEEN)
    }

    #[test]
    fn all_that_waits_leaves_in_one_batch_up_to_its_size() {
        let q = queue(1000);
        let mut out = Outgoing::new(Arc::clone(&q), 64, |batch| batch);
        assert!(out.next().now_or_never().is_none());
        for i in 0..10 {
            q.push(20, i).unwrap();
        }
        assert_eq!(out.next().now_or_never().unwrap(), Some(Ok(vec![0, 1, 2])));
        assert_eq!(q.bytes(), 140);
        q.push(500, 10).unwrap();
        q.end(End::Finished);
        assert!(q.push(1, 11).is_err());
        let mut rest = Vec::new();
        while let Some(Ok(batch)) = out.next().now_or_never().unwrap() {
            rest.extend(batch);
        }
        assert_eq!(rest, (3..=10).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_queue_refuses_and_goes_on_when_it_has_room() {
        let q = queue(100);
        let mut out = Outgoing::new(Arc::clone(&q), 64, |batch| batch);
        q.push(99, 1).unwrap();
        q.push(5000, 2).unwrap();
        assert_eq!(q.push(1, 3), Err(Unsent::full(3)));
        q.push_control(1, 4).unwrap();
        assert_eq!((q.ended(), q.bytes()), (None, 5100));
        assert!(q.room().now_or_never().is_none());
        let mut taken = Vec::new();
        while let Some(Some(Ok(batch))) = out.next().now_or_never() {
            taken.extend(batch);
        }
        assert_eq!(taken, [1, 2, 4]);
        assert!(q.room().now_or_never().is_some());
        q.push(1, 3).unwrap();
        assert_eq!(out.next().now_or_never(), Some(Some(Ok(vec![3]))));
    }

    #[tokio::test]
    async fn one_that_waits_for_room_is_woken_by_room_and_by_the_end() {
        let q = queue(100);
        let mut out = Outgoing::new(Arc::clone(&q), 64, |batch| batch);
        q.push(100, 1).unwrap();
        let waits = tokio::spawn({
            let q = Arc::clone(&q);
            async move { q.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        assert_eq!(out.next().await, Some(Ok(vec![1])));
        waits.await.unwrap();
        q.push(100, 2).unwrap();
        let waits = tokio::spawn({
            let q = Arc::clone(&q);
            async move { q.room().await }
        });
        tokio::task::yield_now().await;
        drop(out);
        waits.await.unwrap();
    }

    #[test]
    fn room_for_bulk_frames_is_reported_each_time() {
        let told = Arc::new(AtomicU64::new(0));
        let q = queue(100);
        q.on_room({
            let told = Arc::clone(&told);
            move || {
                told.fetch_add(1, Relaxed);
            }
        });
        let mut out = Outgoing::new(Arc::clone(&q), 64, |batch| batch);
        for round in 1..=3 {
            q.push(60, 1).unwrap();
            assert!(out.next().now_or_never().is_some());
            q.push(60, 1).unwrap();
            q.push(60, 2).unwrap();
            assert!(out.next().now_or_never().is_some());
            assert_eq!(told.load(Relaxed), round);
            assert!(out.next().now_or_never().is_some());
        }
    }

    #[test]
    fn bytes_that_wait_are_counted_until_they_are_taken() {
        static LEVEL: Level = Level::new();
        let q = ByteQueue::new(100, CancellationToken::new(), &LEVEL);
        let mut out = Outgoing::new(Arc::clone(&q), 64, |batch: Vec<u32>| batch);
        q.push(60, 1).unwrap();
        q.push(30, 2).unwrap();
        assert_eq!((LEVEL.items(), LEVEL.bytes()), (2, 90));
        assert_eq!(out.next().now_or_never().unwrap(), Some(Ok(vec![1])));
        assert_eq!((LEVEL.items(), LEVEL.bytes()), (1, 30));
        q.push(70, 3).unwrap();
        assert!(q.push(1, 4).is_err());
        assert_eq!(
            (LEVEL.items(), LEVEL.bytes(), LEVEL.refusals()),
            (2, 100, 1)
        );
        q.end(End::Broken);
        assert_eq!((LEVEL.items(), LEVEL.bytes()), (0, 0));
        let q = ByteQueue::new(100, CancellationToken::new(), &LEVEL);
        q.push(5, 1).unwrap();
        q.end(End::Finished);
        drop(q);
        assert_eq!((LEVEL.items(), LEVEL.bytes()), (0, 0));
    }

    #[test]
    fn a_dropped_writer_breaks_the_lane() {
        let q = queue(100);
        drop(Outgoing::new(Arc::clone(&q), 64, |batch| batch));
        assert_eq!(q.ended(), Some(End::Broken));
        assert!(q.push(1, 1).is_err());
    }
}
