//! The outgoing queue of a lane: bounded in bytes, filled without waiting, emptied in batches.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use sestina_api::link::LaneClosed;
use sestina_runtime::linger::{Linger, Waiting};
use tokio_util::sync::CancellationToken;

/// So many bytes of trailing items are worth a write of their own.
const COMPANY: usize = 16 << 10;

/// How a lane ended, seen from the side that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Closed on purpose: what is queued is still written.
    Finished,
    /// It held more than its bound: what is queued is dropped, the lane is cut.
    Overflowed,
    /// The connection is gone: what is queued is dropped.
    Broken,
}

/// What waits in all queues of one kind in this process.
#[derive(Debug, Default)]
pub struct Level {
    items: AtomicI64,
    bytes: AtomicI64,
    overflows: AtomicU64,
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
            overflows: AtomicU64::new(0),
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

    /// How often a queue overflowed.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    fn change(&self, items: i64, bytes: i64) {
        self.items.fetch_add(items, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// Items with their size in bytes, waiting for the writer.
///
/// It accepts while it holds less than its bound, so what it can hold is the bound and one item:
/// a large item (a report about many sessions) fits whenever the queue is not already full.
pub struct ByteQueue<T> {
    state: Mutex<State<T>>,
    bound: usize,
    ended: CancellationToken,
    level: &'static Level,
}

struct State<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    end: Option<End>,
    writer: Option<Waker>,
    /// The writer will be woken at the next beat.
    lingering: bool,
}

/// What became of an item.
enum Taken {
    Yes,
    /// The queue has ended.
    No,
    /// It is full.
    Overflow,
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
            lingering: false,
        };
        Arc::new(ByteQueue {
            state: Mutex::new(state),
            bound,
            ended,
            level,
        })
    }

    /// Appends without waiting. A queue that is full ends: the lane is broken, and what it held is
    /// sent again over the next one.
    pub fn push(&self, bytes: usize, item: T) -> Result<(), LaneClosed> {
        let mut state = self.state.lock();
        let taken = self.append(&mut state, bytes, item);
        let waker = state.writer.take();
        drop(state);
        match taken {
            Taken::Yes => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(())
            }
            Taken::No => Err(LaneClosed),
            Taken::Overflow => {
                self.level.overflows.fetch_add(1, Relaxed);
                self.end(End::Overflowed);
                if let Some(waker) = waker {
                    waker.wake();
                }
                Err(LaneClosed)
            }
        }
    }

    /// The same for an item that nobody waits for: it leaves with the next other one, or at the
    /// next beat.
    pub fn push_trailing(
        self: &Arc<Self>,
        bytes: usize,
        item: T,
        linger: &Arc<Linger>,
    ) -> Result<(), LaneClosed>
    where
        T: Send + 'static,
    {
        let mut state = self.state.lock();
        // Without a writer that waits, somebody is about to take it.
        if state.writer.is_none() || state.bytes + bytes >= COMPANY.min(self.bound) {
            drop(state);
            return self.push(bytes, item);
        }
        if !matches!(self.append(&mut state, bytes, item), Taken::Yes) {
            return Err(LaneClosed);
        }
        if !std::mem::replace(&mut state.lingering, true) {
            drop(state);
            linger.add(Arc::clone(self) as Arc<dyn Waiting>);
        }
        Ok(())
    }

    fn append(&self, state: &mut State<T>, bytes: usize, item: T) -> Taken {
        if state.end.is_some() {
            return Taken::No;
        }
        if state.bytes >= self.bound {
            return Taken::Overflow;
        }
        state.bytes += bytes;
        state.items.push_back((bytes, item));
        self.level.change(1, signed(bytes));
        Taken::Yes
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
        state.bytes -= taken;
        self.level.change(-signed(batch.len()), -signed(taken));
        Poll::Ready(Ok(batch))
    }
}

impl<T: Send> Waiting for ByteQueue<T> {
    fn wake(&self) {
        let mut state = self.state.lock();
        state.lingering = false;
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
    fn a_full_queue_ends_the_lane_and_frees_what_it_held() {
        let q = queue(100);
        let mut out = Outgoing::new(Arc::clone(&q), 64, |batch| batch);
        q.push(99, 1).unwrap();
        q.push(5000, 2).unwrap();
        assert!(q.push(1, 3).is_err());
        assert_eq!((q.ended(), q.bytes()), (Some(End::Overflowed), 0));
        assert!(q.token().is_cancelled());
        assert_eq!(
            out.next().now_or_never().unwrap(),
            Some(Err(End::Overflowed))
        );
        assert_eq!(out.next().now_or_never().unwrap(), None);
    }

    #[test]
    fn what_waits_is_known_until_it_is_gone() {
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
        assert_eq!((LEVEL.items(), LEVEL.bytes(), LEVEL.overflows()), (0, 0, 1));
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
