//! The writer of log lines: a bounded queue, and one thread that empties it.
//!
//! A node must not depend on the reader of its log. A line that does not fit into the queue, or that
//! cannot be written, is dropped and counted in `pushonce_log_lines_dropped_total`. A caller waits only
//! for lines of level `ERROR`, which often precede the end of the process, and at most `ERROR_WAIT_MAX`
//! for all of them while the output is stuck.
//!
//! The non-blocking writer of `tracing-appender` bounds the number of lines and not their size, and no caller
//! waits for its error lines.

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

/// Maximum number of queued lines: one second of a very busy log.
const QUEUED_LINES_MAX: usize = 4_096;

/// Maximum size of the queued lines in bytes. A larger line is dropped.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// Maximum time that the caller waits until an error line is written.
const ERROR_WAIT_MAX: Duration = Duration::from_millis(100);

/// Maximum time that [`LogWriter::flush`] waits, since the process is about to end.
const FLUSH_WAIT_MAX: Duration = Duration::from_millis(500);

/// Queues log lines for a thread that writes them. Clones share the queue.
#[derive(Clone)]
pub struct LogWriter {
    queue: SyncSender<LogJob>,
    shared: Arc<LogWriterShared>,
}

/// The state shared by the callers and the thread.
#[derive(Default)]
struct LogWriterShared {
    queued_bytes: AtomicUsize,
    /// Whether a caller has timed out, and the thread has not written anything since.
    is_stuck: AtomicBool,
    dropped_lines: AtomicU64,
}

enum LogJob {
    Line(Vec<u8>),
    /// Answered when everything queued before it was written or dropped.
    Flush(SyncSender<()>),
}

/// Why a line was dropped; a label of the counter.
#[derive(Clone, Copy)]
enum DropReason {
    /// The queue is full: the output is stuck or too slow.
    Full,
    /// The line could not be written.
    Failed,
}

/// Collects the bytes of one line.
pub struct LogLine {
    writer: LogWriter,
    level: Level,
}

impl LogWriter {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let (queue, jobs) = sync_channel(QUEUED_LINES_MAX);
        let shared = Arc::new(LogWriterShared::default());
        let writer = LogWriter { queue, shared: shared.clone() };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || run_writer_thread(output, &jobs, &shared))?;
        Ok(writer)
    }

    /// Waits until everything that was logged before is written, at most for half a second.
    pub fn flush(&self) {
        self.wait_until_written(FLUSH_WAIT_MAX);
    }

    /// The number of dropped lines.
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

    /// Waits until an error line is written. While the output is stuck, only the first caller waits.
    fn wait_until_error_is_written(&self) {
        if !self.shared.is_stuck.load(Ordering::Relaxed) && !self.wait_until_written(ERROR_WAIT_MAX)
        {
            self.shared.is_stuck.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the queue up to now is written. Returns whether it was, within `limit`.
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
    /// The tracing subscriber writes each line with one call.
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

/// Writes the queued lines. Ends when the last [`LogWriter`] is dropped.
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
                // The caller of `flush` may have timed out.
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

/// Duplicates the descriptor of standard error. The thread may block in a write, and must not then hold the
/// lock of [`io::stderr`], which panics and [`notice`](super::notice) take.
///
/// # Errors
/// When the process has no descriptor left.
pub fn standard_error() -> io::Result<File> {
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
#[path = "log/log_test.rs"]
mod log_test;
