//! The writer of log lines: a bounded queue and one thread that empties it.
//!
//! A node must outlive the reader of its log. A line that does not fit into the queue, or that the
//! system does not take, is dropped and counted in `pushonce_log_lines_dropped_total`; a caller waits
//! only for lines of level `ERROR`, which often precede the end of the process, and at most
//! `ERROR_WAIT_MAX` for all of them while the output is stuck.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use pushonce_core::FailPoint;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::LOG_LINES_DROPPED;

/// Lines that wait for the thread: a second of a very busy log.
const QUEUED_LINES_MAX: usize = 4_096;

/// Bytes of these lines. A larger line is dropped.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// How long the writer of an error waits until it is written.
const ERROR_WAIT_MAX: Duration = Duration::from_millis(100);

/// How long [`LogWriter::flush`] waits: the process is about to end.
const FLUSH_WAIT_MAX: Duration = Duration::from_millis(500);

/// Takes log lines for a thread that writes them. Clones share it.
#[derive(Clone)]
pub struct LogWriter {
    queue: SyncSender<LogJob>,
    shared: Arc<LogWriterShared>,
}

/// What the callers and the thread share.
#[derive(Default)]
struct LogWriterShared {
    queued_bytes: AtomicUsize,
    /// Somebody waited for the thread in vain, and the thread has not written anything since.
    is_stuck: AtomicBool,
    dropped_lines: AtomicU64,
}

enum LogJob {
    Line(Vec<u8>),
    /// Answered when everything before it was written or dropped.
    Flush(SyncSender<()>),
}

/// Why a line was dropped: a label of the counter.
#[derive(Clone, Copy)]
enum DropReason {
    /// The queue is full: the output is stuck or too slow.
    Full,
    /// The system did not take it.
    Failed,
}

/// Takes the bytes of one line.
pub struct LogLine {
    writer: LogWriter,
    level: Level,
}

impl LogWriter {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let (queue, jobs) = sync_channel(QUEUED_LINES_MAX);
        let shared = Arc::new(LogWriterShared::default());
        let writer = LogWriter { queue, shared: shared.clone() };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || run_writer_thread(output, &jobs, &shared))?;
        Ok(writer)
    }

    /// Waits until everything that was logged before is written, but half a second at most.
    pub fn flush(&self) {
        self.wait_until_written(FLUSH_WAIT_MAX);
    }

    /// How many lines were dropped.
    pub fn dropped_lines(&self) -> u64 {
        self.shared.dropped_lines.load(Ordering::Relaxed)
    }

    fn enqueue(&self, line: Vec<u8>) {
        let bytes = line.len();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = queued.saturating_add(bytes) <= QUEUED_BYTES_MAX;
        if !fits || self.queue.try_send(LogJob::Line(line)).is_err() {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.count_dropped(DropReason::Full);
        }
    }

    /// While the output is stuck only the first caller waits.
    fn wait_until_error_is_written(&self) {
        if !self.shared.is_stuck.load(Ordering::Relaxed) && !self.wait_until_written(ERROR_WAIT_MAX)
        {
            self.shared.is_stuck.store(true, Ordering::Relaxed);
        }
    }

    /// Says whether the thread has come so far.
    fn wait_until_written(&self, limit: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        match self.queue.try_send(LogJob::Flush(done)) {
            Ok(()) => is_done.recv_timeout(limit).is_ok(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine { writer: self.clone(), level: Level::INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> LogLine {
        LogLine { writer: self.clone(), level: *meta.level() }
    }
}

impl Write for LogLine {
    /// The subscriber writes each line by one call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.enqueue(bytes.to_vec());
        if self.level == Level::ERROR {
            self.writer.wait_until_error_is_written();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends when the last [`LogWriter`] is dropped.
fn run_writer_thread(mut output: impl Write, jobs: &Receiver<LogJob>, shared: &LogWriterShared) {
    while let Ok(job) = jobs.recv() {
        match job {
            LogJob::Line(line) => {
                if output.write_all(&line).and_then(|()| output.flush()).is_err() {
                    if FailPoint::LogWriterEndsOnError.is_active() {
                        return;
                    }
                    shared.count_dropped(DropReason::Failed);
                }
                shared.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                shared.is_stuck.store(false, Ordering::Relaxed);
            }
            LogJob::Flush(done) => {
                // The one that asked may have given up.
                let _ = done.try_send(());
            }
        }
    }
}

impl LogWriterShared {
    fn count_dropped(&self, cause: DropReason) {
        self.dropped_lines.fetch_add(1, Ordering::Relaxed);
        let reason = match cause {
            DropReason::Full => "full",
            DropReason::Failed => "failed",
        };
        LOG_LINES_DROPPED.register_counter(&[reason]).increment(1);
    }
}

/// Standard error under a descriptor of its own: the thread may hang in a write, and then must not hold
/// the lock of [`io::stderr`], which a panic and [`notice`](super::notice) take.
///
/// # Errors
/// When the process has no descriptor left.
pub fn standard_error() -> io::Result<File> {
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
#[path = "log/log_test.rs"]
mod log_test;
