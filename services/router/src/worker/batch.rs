//! Rows on their way to storage, many in one commit.

use std::sync::Arc;

use super::operations::OperationId;

/// Rows waiting for a group commit: one batch in flight, one filling.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    rows: Vec<T>,
    operations: Vec<OperationId>,
    bytes: usize,
    /// Traces of sampled stanzas among the rows.
    traces: Vec<Arc<str>>,
    /// Those of the batch taken last; the job that sends it takes them.
    pub(crate) flying_traces: Vec<Arc<str>>,
    /// Rows and bytes of the batch taken last.
    flying: (usize, usize),
    in_flight: bool,
    /// Batches that left, and that ended.
    taken: u64,
    done: u64,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch {
            rows: Vec::new(),
            operations: Vec::new(),
            bytes: 0,
            traces: Vec::new(),
            flying_traces: Vec::new(),
            flying: (0, 0),
            in_flight: false,
            taken: 0,
            done: 0,
        }
    }
}

impl<T> Batch<T> {
    pub(crate) fn push(&mut self, row: T, operation: OperationId, bytes: usize) {
        self.rows.push(row);
        self.operations.push(operation);
        self.bytes += bytes;
    }

    pub(crate) fn take(&mut self) -> Option<(Vec<T>, Vec<OperationId>)> {
        if self.in_flight || self.rows.is_empty() {
            return None;
        }
        self.in_flight = true;
        self.taken += 1;
        self.flying = (self.rows.len(), std::mem::take(&mut self.bytes));
        self.flying_traces = std::mem::take(&mut self.traces);
        Some((
            std::mem::take(&mut self.rows),
            std::mem::take(&mut self.operations),
        ))
    }

    /// The batch in flight ended.
    pub(crate) fn ended(&mut self) {
        self.in_flight = false;
        self.done += 1;
    }

    /// The number of the batch behind which everything pushed so far is committed.
    pub(crate) fn barrier(&self) -> u64 {
        self.taken + u64::from(!self.rows.is_empty())
    }

    /// Whether that batch has ended.
    pub(crate) fn passed(&self, barrier: u64) -> bool {
        self.done >= barrier
    }

    /// Bytes that wait for storage.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that the row pushed last is of a sampled stanza.
    pub(crate) fn trace(&mut self, trace: &Arc<str>) {
        // A batch is one call: it can be shown in a few traces, not in any number of them.
        const TRACES: usize = 16;
        if self.traces.len() < TRACES {
            self.traces.push(trace.clone());
        }
    }

    /// The rows that have not been sent to the store yet.
    #[cfg(feature = "simulation")]
    pub(crate) fn rows(&self) -> &[T] {
        &self.rows
    }

    /// Rows and bytes that storage has not confirmed.
    pub(crate) fn level(&self) -> (usize, usize) {
        let flying = if self.in_flight { self.flying } else { (0, 0) };
        (self.rows.len() + flying.0, self.bytes + flying.1)
    }
}
