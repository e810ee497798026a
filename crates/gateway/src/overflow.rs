//! Extra connections on a full node, for one HTTP response each: an operator must be able to reach a full
//! node, and an orchestrator would kill a node that does not answer its probe, with all its sessions.
//!
//! A flood of connections that send nothing must not occupy these places either. A connection that has not
//! sent its request yet is therefore evicted for a newer one: a probe sends its request right after it
//! connects.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio_util::sync::CancellationToken;

/// Maximum number of open overflow connections. Probes and scrapers are few, and each ends within
/// milliseconds.
const OPEN_MAX: usize = 16;

/// The overflow connections of one lane.
#[derive(Default)]
pub(crate) struct Overflow {
    open_count: Cell<usize>,
    /// Connections that may be evicted, in this order: a response was sent, or no request was received yet.
    waiting: RefCell<VecDeque<(u64, CancellationToken)>>,
    next_id: Cell<u64>,
}

/// The permit of one overflow connection, released when it is dropped.
pub(crate) struct OverflowPermit {
    overflow: Rc<Overflow>,
    id: u64,
    evicted: CancellationToken,
}

impl Overflow {
    /// Returns a permit for one more connection. If all are in use, it evicts the oldest connection without a
    /// request; `None` when all connections have a request in progress.
    pub(crate) fn admit(self: &Rc<Overflow>) -> Option<OverflowPermit> {
        let mut waiting = self.waiting.borrow_mut();
        if self.open_count.get() >= OPEN_MAX {
            let (_, oldest) = waiting.pop_front()?;
            oldest.cancel();
        }
        self.open_count.set(self.open_count.get() + 1);
        let id = self.next_id.replace(self.next_id.get() + 1);
        let evicted = CancellationToken::new();
        waiting.push_back((id, evicted.clone()));
        Some(OverflowPermit { overflow: self.clone(), id, evicted })
    }

    fn remove(&self, id: u64) {
        self.waiting.borrow_mut().retain(|(waiting, _)| *waiting != id);
    }
}

impl OverflowPermit {
    /// Handles the arrival of the request: from now on the connection is not evicted.
    pub(crate) fn on_request(&self) {
        self.overflow.remove(self.id);
    }

    /// Handles the end of the response. Until the client closes its side, the connection is the first to be
    /// evicted.
    pub(crate) fn on_response_sent(&self) {
        self.overflow.waiting.borrow_mut().push_front((self.id, self.evicted.clone()));
    }

    /// Completes when the connection is evicted.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for OverflowPermit {
    fn drop(&mut self) {
        self.overflow.remove(self.id);
        self.overflow.open_count.set(self.overflow.open_count.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_silent_connection_is_evicted_for_a_newer_one() {
        let overflow = Rc::new(Overflow::default());
        let first = overflow.admit().unwrap();
        let more: Vec<_> = (1..OPEN_MAX).map(|_| overflow.admit().unwrap()).collect();
        assert!(!first.evicted.is_cancelled());
        let newest = overflow.admit().unwrap();
        assert!(first.evicted.is_cancelled());
        assert!(more.iter().chain([&newest]).all(|permit| !permit.evicted.is_cancelled()));
    }

    #[test]
    fn connection_with_a_request_in_progress_is_not_evicted() {
        let overflow = Rc::new(Overflow::default());
        let permits: Vec<_> = (0..OPEN_MAX).map(|_| overflow.admit().unwrap()).collect();
        permits.iter().for_each(OverflowPermit::on_request);
        assert!(overflow.admit().is_none());
        assert!(permits.iter().all(|permit| !permit.evicted.is_cancelled()));
        permits[3].on_response_sent();
        assert!(overflow.admit().is_some());
        assert!(permits[3].evicted.is_cancelled());
    }
}
