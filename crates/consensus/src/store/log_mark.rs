//! The identity and the number of commits of a log, which distinguish a log from an older copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// The identity and the number of commits of a node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// A random number drawn when the log was created.
    pub log: u64,
    /// The number of commits. Each commit increments it, so a copy has fewer than the log has later.
    pub writes: u64,
}

/// The number of durable commits. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteCounter(Arc<AtomicU64>);

impl WriteCounter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, writes: u64) {
        self.0.store(writes, Ordering::Release);
    }
}
