//! What waits for a socket: framed bytes in order, and where each numbered stanza ends.
//!
//! No socket and no TLS here. A *batch* is what has been handed on (encrypted, or given to the
//! kernel); it counts as written once all of it has left, because records cannot be split.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tracing::Span;

use super::buffers;
use super::websocket::frame;
use crate::metrics::{Count, EdgeMetrics, Level, Timing};

/// The bytes waiting on one connection.
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that have been handed on.
    taken: usize,
    /// Position in the stream of bytes of `bytes[0]`.
    base: u64,
    /// Bytes handed on and not yet known to have left.
    batch: usize,
    /// Highest number whose element has left completely.
    written: u64,
    /// Where each numbered element ends, ascending.
    marks: VecDeque<Mark>,
    metrics: Option<Arc<dyn EdgeMetrics>>,
    /// Elements and bytes that the gauges know of.
    told: (usize, usize),
}

/// The end of a numbered element.
struct Mark {
    /// Position in the stream of bytes.
    end: u64,
    number: u64,
    trace_context: TraceContext,
}

/// What ends when the last byte of an element has left: its latency and its trace.
#[derive(Debug, Default)]
pub struct TraceContext {
    read: Option<Instant>,
    _span: Option<Box<Span>>,
}

impl TraceContext {
    /// Of a stanza that its sender's edge read then; the span is kept if it is enabled.
    pub(crate) fn new(read: Option<Instant>, span: &Span) -> TraceContext {
        let traced = !span.is_disabled();
        TraceContext {
            read,
            _span: traced.then(|| Box::new(span.clone())),
        }
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            taken: 0,
            base: 0,
            batch: 0,
            written: 0,
            marks: VecDeque::new(),
            metrics: None,
            told: (0, 0),
        }
    }

    /// Bytes that have not been handed to the kernel.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.taken + self.batch
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Highest number whose element has left completely.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Appends one element as it is. Nothing is kept when the outbox would exceed `limit`:
    /// false is returned then.
    pub(super) fn append(&mut self, limit: usize, fill: impl FnOnce(&mut Vec<u8>)) -> bool {
        let start = self.start();
        fill(&mut self.bytes);
        self.accept(start, limit)
    }

    /// Appends one element as one WebSocket text message.
    pub(super) fn append_text(&mut self, limit: usize, fill: impl FnOnce(&mut Vec<u8>)) -> bool {
        let start = self.start();
        frame::text(&mut self.bytes, fill);
        self.accept(start, limit)
    }

    /// Counts from now on.
    pub(super) fn measure(&mut self, metrics: Arc<dyn EdgeMetrics>) {
        self.metrics = Some(metrics);
    }

    /// Tells the gauges what has changed of what waits.
    pub(super) fn tell(&mut self) {
        let Some(metrics) = &self.metrics else {
            return;
        };
        let now = (self.marks.len(), self.len());
        let before = std::mem::replace(&mut self.told, now);
        if before != now {
            metrics.level(Level::Waiting, now.0 as i64 - before.0 as i64);
            metrics.level(Level::WaitingBytes, now.1 as i64 - before.1 as i64);
        }
    }

    /// Remembers that the element appended last carries `number`.
    pub(super) fn mark(&mut self, number: u64, trace_context: TraceContext) {
        let end = self.base + self.bytes.len() as u64;
        match self.marks.back_mut() {
            // An element that added no bytes leaves together with the one before it.
            Some(last) if last.end == end => last.number = number,
            _ => self.marks.push_back(Mark {
                end,
                number,
                trace_context,
            }),
        }
        self.settle_marks();
    }

    /// The bytes that were not handed on yet.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// The first `n` waiting bytes were handed on, and have not left.
    pub(super) fn take(&mut self, n: usize) {
        self.taken += n;
        self.batch += n;
        if let Some(metrics) = &self.metrics {
            metrics.count(Count::BytesOut, n as u64);
        }
    }

    /// All that was handed on has left.
    pub(super) fn sent(&mut self) {
        self.batch = 0;
        if self.taken == self.bytes.len() {
            self.base += self.taken as u64;
            self.taken = 0;
            buffers::give(&mut self.bytes);
        } else if self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.base += self.taken as u64;
            self.taken = 0;
        }
        self.settle_marks();
    }

    /// Forgets what waits: the connection is gone.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.marks = VecDeque::new();
        self.taken = 0;
        self.batch = 0;
        self.tell();
    }

    fn start(&mut self) -> usize {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers::take();
        }
        self.bytes.len()
    }

    fn accept(&mut self, start: usize, limit: usize) -> bool {
        let fits = self.len() <= limit;
        if !fits {
            self.bytes.truncate(start);
        }
        fits
    }

    fn settle_marks(&mut self) {
        let left = self.base + (self.taken - self.batch.min(self.taken)) as u64;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.end <= left) {
            self.written = self.written.max(mark.number);
            if let (Some(metrics), Some(read)) = (&self.metrics, mark.trace_context.read) {
                metrics.timing(Timing::Latency, read.elapsed());
            }
        }
        if !self.marks.is_empty() {
            return;
        }
        // One burst must not leave its table behind on an idle connection.
        if self.marks.capacity() > 64 {
            self.marks = VecDeque::new();
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outbox: &mut Outbox, number: u64, text: &[u8]) {
        assert!(outbox.append(1000, |b| b.extend_from_slice(text)));
        outbox.mark(number, TraceContext::default());
    }

    #[test]
    fn a_number_is_written_only_when_its_last_byte_left() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 1, b"aaaa");
        push(&mut outbox, 2, b"bbbb");
        outbox.take(6);
        assert_eq!(outbox.written(), 0);
        outbox.sent();
        assert_eq!(outbox.written(), 1);
        assert_eq!(outbox.waiting(), b"bb");
        push(&mut outbox, 3, b"cc");
        outbox.take(2);
        outbox.sent();
        assert_eq!(outbox.written(), 2);
        outbox.take(2);
        assert_eq!(outbox.len(), 2);
        outbox.sent();
        assert_eq!((outbox.written(), outbox.len()), (3, 0));
    }

    #[test]
    fn an_element_beyond_the_limit_leaves_no_trace() {
        let mut outbox = Outbox::new();
        assert!(outbox.append(10, |b| b.extend_from_slice(b"12345678")));
        assert!(!outbox.append(10, |b| b.extend_from_slice(b"xyz")));
        assert_eq!(outbox.waiting(), b"12345678");
        outbox.take(8);
        // Handed on is not gone: it still counts.
        assert!(!outbox.append(10, |b| b.extend_from_slice(b"xyz")));
        outbox.sent();
        assert!(outbox.append(10, |b| b.extend_from_slice(b"xyz")));
        assert_eq!(outbox.waiting(), b"xyz");
    }

    #[test]
    fn a_number_without_bytes_is_written_with_the_one_before() {
        let mut outbox = Outbox::new();
        push(&mut outbox, 7, b"x");
        outbox.mark(8, TraceContext::default());
        assert_eq!(outbox.written(), 0);
        outbox.take(1);
        outbox.sent();
        assert_eq!(outbox.written(), 8);
        outbox.mark(9, TraceContext::default());
        assert_eq!(outbox.written(), 9);
    }
}
