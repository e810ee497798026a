//! How often a log was written: by it an old copy of a log is told from the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What the log of a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// Drawn when the log was made.
    pub log: u64,
    /// How many commits it has had. Each commit counts itself, so a copy has fewer than the log has
    /// later.
    pub writes: u64,
}

/// The number of commits that are durable. Clones share it.
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
