//! A queue bounded by count and by bytes: a push never waits, and one reader takes all items at
//! once.
//!
//! Trailing items (see [`crate::coalesce`]) do not wake the reader by themselves.
//!
//! There are two ways to push. *Data* ([`Sender::push`]) is refused by a full mailbox, and the
//! pusher keeps the refused item. *Control* ([`Sender::push_control`]) is never refused: it is for
//! items whose number is bounded by requests admitted earlier (the end of a job that the reader
//! asked for, a lane that opened), and the reader would wait for a lost one for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::coalesce::{CoalescingTimer, Waiting};

/// So many trailing items wake the reader.
const COMPANY: usize = 64;

/// The bounds of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Items.
    pub count: usize,
    /// Bytes, by the sizes that the pushers give. An empty mailbox takes one item of any size, so
    /// that an item larger than the bound is not refused for ever.
    pub bytes: usize,
}

/// The item was not taken; the error hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError<T> {
    /// The item would exceed a bound.
    #[error("the queue is full")]
    Full(T),
    /// The reader is gone, or the mailbox was closed.
    #[error("the queue is closed")]
    Closed(T),
}

/// Makes a mailbox.
pub fn mailbox<T>(limits: Limits) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        limits,
        queue: Mutex::new(Queue {
            items: VecDeque::new(),
            bytes: 0,
            ready: false,
            coalescing: false,
            closed: false,
            awaited: false,
        }),
        readable: Notify::new(),
        drained: Notify::new(),
        senders: AtomicUsize::new(1),
    });
    (
        Sender {
            shared: shared.clone(),
        },
        Receiver { shared },
    )
}

#[derive(Debug)]
struct Shared<T> {
    limits: Limits,
    queue: Mutex<Queue<T>>,
    readable: Notify,
    /// Notified when the reader has taken the items, if [`Queue::awaited`].
    drained: Notify,
    senders: AtomicUsize,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    bytes: usize,
    /// The reader was woken for the items in the queue.
    ready: bool,
    /// The reader will be woken at the next flush.
    coalescing: bool,
    closed: bool,
    /// A pusher that was refused waits for room.
    awaited: bool,
}

/// The pushing side; clones push into the same mailbox.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Appends an item that weighs `bytes`.
    pub fn push(&self, item: T, bytes: usize) -> Result<(), PushError<T>> {
        let mut queue = self.shared.queue.lock();
        queue.append(self.shared.limits, item, bytes)?;
        // The reader takes all items at once, so one wake-up is enough.
        if !std::mem::replace(&mut queue.ready, true) {
            drop(queue);
            self.shared.readable.notify_one();
        }
        Ok(())
    }

    /// Appends an item even if the mailbox is full; its weight counts against later data. If the
    /// reader has ended, the item is dropped.
    pub fn push_control(&self, item: T, bytes: usize) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            // Dropped outside the lock: it may hold a sender of this very mailbox.
            drop(queue);
            return drop(item);
        }
        queue.add(item, bytes);
        if !std::mem::replace(&mut queue.ready, true) {
            drop(queue);
            self.shared.readable.notify_one();
        }
    }

    /// Appends a trailing item: it is read with the next item that is not trailing, or when the
    /// coalescing timer fires.
    pub fn push_trailing(
        &self,
        item: T,
        bytes: usize,
        coalesce: &Arc<CoalescingTimer>,
    ) -> Result<(), PushError<T>>
    where
        T: Send + 'static,
    {
        let mut queue = self.shared.queue.lock();
        if queue.items.len() >= COMPANY {
            drop(queue);
            return self.push(item, bytes);
        }
        queue.append(self.shared.limits, item, bytes)?;
        if !queue.ready && !std::mem::replace(&mut queue.coalescing, true) {
            drop(queue);
            coalesce.add(self.shared.clone());
        }
        Ok(())
    }

    /// Returns when the reader has taken the waiting items, or the mailbox is closed.
    pub async fn room(&self) {
        loop {
            let drained = self.shared.drained.notified();
            {
                let mut queue = self.shared.queue.lock();
                if queue.closed || queue.items.is_empty() {
                    return;
                }
                queue.awaited = true;
            }
            drained.await;
        }
    }

    /// The number of waiting items.
    pub fn len(&self) -> usize {
        self.shared.queue.lock().items.len()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the waiting items.
    pub fn bytes(&self) -> usize {
        self.shared.queue.lock().bytes
    }

    /// Whether data is refused now.
    pub fn is_full(&self) -> bool {
        let limits = self.shared.limits;
        let queue = self.shared.queue.lock();
        queue.items.len() >= limits.count || queue.bytes >= limits.bytes
    }

    /// Whether all pushes are refused from now on.
    pub fn is_closed(&self) -> bool {
        self.shared.queue.lock().closed
    }

    /// Refuses further pushes; the reader still gets the waiting items, then the end.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl<T> Queue<T> {
    fn append(&mut self, limits: Limits, item: T, bytes: usize) -> Result<(), PushError<T>> {
        if self.closed {
            return Err(PushError::Closed(item));
        }
        let full =
            self.items.len() >= limits.count || self.bytes.saturating_add(bytes) > limits.bytes;
        if full && !self.items.is_empty() {
            return Err(PushError::Full(item));
        }
        self.add(item, bytes);
        Ok(())
    }

    fn add(&mut self, item: T, bytes: usize) {
        self.items.push_back(item);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Moves all items to the end of `into`. True if a pusher waits for room.
    fn drain(&mut self, into: &mut Vec<T>) -> bool {
        self.bytes = 0;
        self.ready = false;
        into.extend(self.items.drain(..));
        std::mem::take(&mut self.awaited)
    }
}

impl<T: Send> Waiting for Shared<T> {
    fn wake(&self) {
        let mut queue = self.queue.lock();
        queue.coalescing = false;
        if !queue.items.is_empty() && !std::mem::replace(&mut queue.ready, true) {
            drop(queue);
            self.readable.notify_one();
        }
    }
}

impl<T> Shared<T> {
    fn close(&self) {
        self.queue.lock().closed = true;
        self.readable.notify_one();
        self.drained.notify_waiters();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Sender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.close();
        }
    }
}

/// The reading side; dropping it closes the mailbox and drops the waiting items.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Waits until the mailbox has an item that is not trailing, or its trailing items are due, and
    /// moves all items to the end of `into`. False: the mailbox is closed and empty. Dropping the
    /// future loses no item.
    pub async fn recv_all(&mut self, into: &mut Vec<T>) -> bool {
        loop {
            {
                let mut queue = self.shared.queue.lock();
                if queue.ready || queue.closed {
                    let some = !queue.items.is_empty();
                    if queue.drain(into) {
                        self.shared.drained.notify_waiters();
                    }
                    if some {
                        return true;
                    }
                }
                if queue.closed {
                    return false;
                }
            }
            self.shared.readable.notified().await;
        }
    }

    /// Moves the waiting items to the end of `into` and returns their number.
    pub fn try_recv_all(&mut self, into: &mut Vec<T>) -> usize {
        let mut queue = self.shared.queue.lock();
        let count = queue.items.len();
        if queue.drain(into) {
            self.shared.drained.notify_waiters();
        }
        count
    }

    /// Refuses further pushes; the waiting items can still be read.
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            queue.bytes = 0;
            std::mem::take(&mut queue.items)
        };
        self.shared.drained.notify_waiters();
        // Dropped outside the lock: an item may hold a sender of this very mailbox.
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt as _;

    use super::*;

    fn small() -> (Sender<u32>, Receiver<u32>) {
        mailbox(Limits {
            count: 3,
            bytes: 100,
        })
    }

    #[test]
    fn is_bounded_by_count_and_by_bytes() {
        let (sender, mut receiver) = small();
        sender.push(1, 60).unwrap();
        assert_eq!(sender.push(2, 41), Err(PushError::Full(2)));
        sender.push(2, 40).unwrap();
        assert_eq!(sender.bytes(), 100);
        let mut got = Vec::new();
        assert_eq!(receiver.try_recv_all(&mut got), 2);
        assert_eq!((sender.bytes(), sender.len()), (0, 0));
        for n in 3..6 {
            sender.push(n, 0).unwrap();
        }
        assert_eq!(sender.push(6, 0), Err(PushError::Full(6)));
        receiver.try_recv_all(&mut got);
        assert_eq!(got, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn an_empty_mailbox_takes_one_item_of_any_size() {
        let (sender, mut receiver) = small();
        sender.push(1, 5000).unwrap();
        assert_eq!(sender.push(2, 0), Err(PushError::Full(2)));
        receiver.try_recv_all(&mut Vec::new());
        sender.push(2, 0).unwrap();
    }

    #[tokio::test]
    async fn a_full_mailbox_takes_control_items_in_order_and_wakes_the_reader() {
        let (sender, mut receiver) = small();
        sender.push(1, 100).unwrap();
        assert_eq!(sender.push(2, 1), Err(PushError::Full(2)));
        for n in 10..20 {
            sender.push_control(n, 50);
        }
        assert_eq!((sender.len(), sender.bytes()), (11, 600));
        assert_eq!(sender.push(2, 0), Err(PushError::Full(2)));
        let mut got = Vec::new();
        assert!(receiver.recv_all(&mut got).await);
        assert_eq!(got, [1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        sender.push_control(20, 0);
        assert_eq!(receiver.recv_all(&mut got).now_or_never(), Some(true));
        sender.close();
        sender.push_control(21, 0);
        assert!(!receiver.recv_all(&mut got).await);
        assert_eq!(got.last(), Some(&20));
    }

    #[tokio::test]
    async fn one_that_was_refused_waits_for_room_or_the_end() {
        let (sender, mut receiver) = small();
        sender.room().await;
        sender.push(1, 100).unwrap();
        let waits = || {
            let sender = sender.clone();
            tokio::spawn(async move { sender.room().await })
        };
        let (first, second) = (waits(), waits());
        tokio::task::yield_now().await;
        assert!(!first.is_finished() && !second.is_finished());
        receiver.try_recv_all(&mut Vec::new());
        first.await.unwrap();
        second.await.unwrap();
        sender.push(2, 100).unwrap();
        let third = waits();
        tokio::task::yield_now().await;
        drop(receiver);
        third.await.unwrap();
    }

    #[tokio::test]
    async fn wakes_the_reader_and_ends_after_the_last_sender() {
        let (sender, mut receiver) = small();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            while receiver.recv_all(&mut got).await {}
            got
        });
        let other = sender.clone();
        for n in 0..50 {
            let pusher = if n % 2 == 0 { &sender } else { &other };
            while pusher.push(n, 10).is_err() {
                tokio::task::yield_now().await;
            }
        }
        drop(sender);
        drop(other);
        assert_eq!(reader.await.unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn closing_refuses_pushes_but_not_reads() {
        let (sender, mut receiver) = small();
        sender.push(1, 1).unwrap();
        sender.close();
        assert_eq!(sender.push(2, 1), Err(PushError::Closed(2)));
        let mut got = Vec::new();
        assert!(receiver.recv_all(&mut got).await);
        assert!(!receiver.recv_all(&mut got).await);
        assert_eq!(got, [1]);
    }

    #[test]
    fn a_dropped_reader_closes_even_if_an_item_holds_a_sender() {
        let (sender, receiver) = mailbox::<Option<Sender<()>>>(Limits { count: 1, bytes: 1 });
        let (inner, _keep) = mailbox(Limits { count: 1, bytes: 1 });
        sender.push(Some(inner), 0).unwrap();
        drop(receiver);
        assert!(matches!(sender.push(None, 0), Err(PushError::Closed(None))));
    }

    #[tokio::test(start_paused = true)]
    async fn trailing_items_come_with_the_next_one_or_at_a_beat() {
        let (sender, mut receiver) = small();
        let coalesce = CoalescingTimer::new();
        let mut got = Vec::new();
        sender.push_trailing(1, 0, &coalesce).unwrap();
        assert!(receiver.recv_all(&mut got).now_or_never().is_none());
        sender.push(2, 0).unwrap();
        assert_eq!(receiver.recv_all(&mut got).now_or_never(), Some(true));
        assert_eq!(got, [1, 2]);
        sender.push_trailing(3, 0, &coalesce).unwrap();
        sender.push_trailing(4, 0, &coalesce).unwrap();
        assert!(receiver.recv_all(&mut got).await);
        assert_eq!(got, [1, 2, 3, 4]);
        sender.push_trailing(5, 0, &coalesce).unwrap();
        sender.close();
        assert!(
            receiver.recv_all(&mut got).await,
            "waiting items are read before the end"
        );
        assert!(!receiver.recv_all(&mut got).await);
    }
}
