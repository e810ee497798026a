//! The history of a run: one record for every client operation and every fault.
//!
//! An operation begins with one record (invoke) and ends with another (ok, fail, unknown). An operation that
//! never ends counts as unknown. All records of a run are ordered by one monotonic clock. They are kept in
//! memory and written to a file, which can be checked again.

// The field names are the terms of the checker's page.
#[allow(missing_docs)]
mod record;

pub mod file;
mod recorder;

pub use record::{
    FaultEffect, HistoryEvent, HistoryRecord, LoggedMessage, OpId, PayloadHash, RunPhase,
    SharedStr, SubscribeStart, hash, key_name,
};
pub use recorder::{ProcessRecorder, Recorder};
