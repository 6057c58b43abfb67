//! Log lines are written by a thread of their own: standard error may be a pipe that is not read,
//! or a file on a disk that hangs, and a log line must never delay the process's work.
//!
//! The queue is bounded in bytes. Lines that do not fit are dropped and counted; the count is
//! logged as soon as there is room again.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that may wait.
const BOUND: usize = 4 << 20;

/// The queue of lines for the thread. Clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when there are lines to write, and when all are written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    /// Lines dropped since the last one that was queued.
    lost: u64,
    /// The thread has taken lines that it has not written yet.
    writing: bool,
    ended: bool,
}

impl LogWriter {
    /// Starts the thread, which writes to `out` until the process ends.
    pub(crate) fn start(out: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let shared = Arc::<Shared>::default();
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || thread.run(out))?;
        Ok(LogWriter(shared))
    }

    /// Waits until all lines are written, at most for `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut queue = self.0.queue.lock();
        while !queue.ended && (queue.writing || !queue.waiting.is_empty()) {
            if self.0.changed.wait_until(&mut queue, until).timed_out() {
                return;
            }
        }
    }
}

impl Shared {
    fn push(&self, line: &[u8]) {
        let mut queue = self.queue.lock();
        if queue.ended {
            return;
        }
        let room = BOUND.saturating_sub(queue.waiting.len());
        if line.len() > room {
            queue.lost += 1;
            return;
        }
        if queue.lost > 0 {
            let lost = std::mem::take(&mut queue.lost);
            let note = format!("({lost} log lines were lost: they were not read in time)\n");
            queue.waiting.extend_from_slice(note.as_bytes());
        }
        queue.waiting.extend_from_slice(line);
        drop(queue);
        self.changed.notify_all();
    }

    fn run(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            {
                let mut queue = self.queue.lock();
                queue.writing = false;
                self.changed.notify_all();
                while queue.waiting.is_empty() {
                    self.changed.wait(&mut queue);
                }
                lines.clear();
                std::mem::swap(&mut lines, &mut queue.waiting);
                queue.writing = true;
            }
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                // The reader is gone, and there is no other place for the error.
                let mut queue = self.queue.lock();
                (queue.ended, queue.waiting) = (true, Vec::new());
                self.changed.notify_all();
                return;
            }
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    /// Far beyond the capacity of a pipe.
    const LINES: usize = 100_000;
    const FIRST: usize = 10_000;

    #[test]
    fn a_pipe_that_is_not_read_holds_up_no_line_and_the_loss_is_told() {
        let (reader, writer) = pipe().unwrap();
        let mut log = LogWriter::start(writer).unwrap();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let before = Instant::now();
        // More than the capacity of the pipe: the thread waits with the rest.
        log.write_all(&line.repeat(FIRST)).unwrap();
        while !log.0.queue.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        for _ in FIRST..LINES {
            log.write_all(&line).unwrap();
        }
        log.flush(Duration::ZERO);
        assert!(before.elapsed() < Duration::from_secs(30), "a line waited");
        let lost = log.0.queue.lock().lost;
        let waiting = log.0.queue.lock().waiting.len();
        assert!(lost > 0 && waiting <= BOUND, "{lost} lost, {waiting} wait");
        // Now the pipe is read: no other line is missing, and the next line reports the loss.
        let mut lines = BufReader::new(reader).lines();
        for _ in 0..LINES - usize::try_from(lost).unwrap() {
            assert_eq!(lines.next().unwrap().unwrap().len(), 99);
        }
        log.write_all(b"again\n").unwrap();
        let told = lines.next().unwrap().unwrap();
        assert!(told.starts_with(&format!("({lost} log lines")), "{told}");
        assert_eq!(lines.next().unwrap().unwrap(), "again");
    }

    #[test]
    fn what_was_logged_is_written_when_flushed_and_a_closed_pipe_ends_the_thread() {
        let (reader, writer) = pipe().unwrap();
        let mut log = LogWriter::start(writer).unwrap();
        log.write_all(b"last words\n").unwrap();
        log.flush(Duration::from_secs(30));
        let mut line = String::new();
        let mut reader = BufReader::new(reader);
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "last words\n");
        drop(reader);
        log.write_all(b"unheard\n").unwrap();
        log.flush(Duration::from_secs(30));
        assert!(log.0.queue.lock().ended);
    }
}
