//! Where records go while a run goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Event, Name, Op, Record};

/// Takes the records of all processes of a run, in the order of its clock. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
    start: Instant,
}

struct Shared {
    records: Vec<Record>,
    ops: Op,
}

/// A recorder for one process.
#[derive(Clone)]
pub struct Scribe {
    recorder: Recorder,
    process: Name,
}

impl Recorder {
    /// The run begins now.
    pub fn new() -> Recorder {
        let shared = Shared { records: Vec::new(), ops: 0 };
        Recorder { shared: Arc::new(Mutex::new(shared)), start: Instant::now() }
    }

    /// Who writes for a process.
    pub fn scribe(&self, process: impl Into<Name>) -> Scribe {
        Scribe { recorder: self.clone(), process: process.into() }
    }

    /// Everything so far.
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// Something about everything so far, without a copy.
    pub fn look<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.lock().records)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl Scribe {
    /// Something happened now. The clock is read under the lock, so that the order of the records is
    /// the order of their times: of two records, what the later tells of was not over before the
    /// earlier was written.
    pub fn write(&self, event: Event) {
        let mut shared = self.recorder.lock();
        let at = self.recorder.start.elapsed().as_micros() as u64;
        shared.records.push(Record { at, process: self.process.clone(), event });
    }

    /// A name for a publish.
    pub fn op(&self) -> Op {
        let mut shared = self.recorder.lock();
        shared.ops += 1;
        shared.ops
    }
}
