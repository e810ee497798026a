//! What happened in a run: every operation of a client and every fault, one record each.
//!
//! An operation begins with a record (invoke) and ends with another (ok, fail, unknown), or never
//! ends, which counts as unknown. The records of a run are merged by one monotonic clock. They are
//! kept in memory and written to a file, which can be judged again.

// The fields of the records are the words of the checker's page; each is named for what it is.
#[allow(missing_docs)]
mod record;

pub mod file;
mod recorder;

pub use record::{
    FaultEffect, HistoryEvent, HistoryRecord, LoggedMessage, OpId, PayloadHash, RunPhase,
    SharedStr, SubscribeStart, hash, key_name,
};
pub use recorder::{ProcessRecorder, Recorder};
