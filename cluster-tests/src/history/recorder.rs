//! Collects the records of a run while it goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{HistoryEvent, HistoryRecord, OpId, SharedStr};

/// Collects the records of all processes of a run, ordered by its clock. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Mutex<RecorderShared>>,
    start: Instant,
}

struct RecorderShared {
    records: Vec<HistoryRecord>,
    last_op: OpId,
}

/// A recorder for one process.
#[derive(Clone)]
pub struct ProcessRecorder {
    recorder: Recorder,
    process: SharedStr,
}

impl Recorder {
    /// A recorder whose clock starts now.
    pub fn new() -> Recorder {
        let shared = RecorderShared { records: Vec::new(), last_op: 0 };
        Recorder { shared: Arc::new(Mutex::new(shared)), start: Instant::now() }
    }

    /// A recorder for one process.
    pub fn for_process(&self, process: impl Into<SharedStr>) -> ProcessRecorder {
        ProcessRecorder { recorder: self.clone(), process: process.into() }
    }

    /// A copy of all records so far.
    pub fn records(&self) -> Vec<HistoryRecord> {
        self.lock().records.clone()
    }

    /// Calls `read` with all records so far, without a copy.
    pub fn with_records<T>(&self, read: impl FnOnce(&[HistoryRecord]) -> T) -> T {
        read(&self.lock().records)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RecorderShared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl ProcessRecorder {
    /// Records an event with the current time. The clock is read under the lock, so that the order of the
    /// records is the order of their times: the event of a later record was not over before the earlier
    /// record was written.
    pub fn record(&self, event: HistoryEvent) {
        let mut shared = self.recorder.lock();
        let at = self.recorder.start.elapsed().as_micros() as u64;
        shared.records.push(HistoryRecord { time_us: at, process: self.process.clone(), event });
    }

    /// A new identifier for a publish.
    pub fn next_op(&self) -> OpId {
        let mut shared = self.recorder.lock();
        shared.last_op += 1;
        shared.last_op
    }
}
