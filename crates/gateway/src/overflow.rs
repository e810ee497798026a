//! Connections beyond the sessions, for one HTTP answer each: an operator must reach a full node, and a
//! probe that gets no answer would have it killed with all its sessions.
//!
//! A flood of connections that send nothing must not take these places either. So one that has not sent
//! its request yet makes room for a newer one: a probe sends its request together with its connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio_util::sync::CancellationToken;

/// Connections at a time. Probes and scrapers are a few, each gone within milliseconds.
const OPEN_MAX: usize = 16;

/// The overflow connections of one lane.
#[derive(Default)]
pub(crate) struct Overflow {
    open_count: Cell<usize>,
    /// Without a request so far, oldest first.
    waiting: RefCell<VecDeque<(u64, CancellationToken)>>,
    next_id: Cell<u64>,
}

/// One overflow connection, until it is dropped.
pub(crate) struct OverflowPermit {
    overflow: Rc<Overflow>,
    id: u64,
    evicted: CancellationToken,
}

impl Overflow {
    /// Room for one more connection. Evicts the oldest that has sent no request if there is none
    /// left; `NoFault` when all are being answered.
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
    /// The request came: it is answered, whatever comes after it.
    pub(crate) fn on_request(&self) {
        self.overflow.remove(self.id);
    }

    /// The answer was sent, and the client has not closed its side yet: it makes room before those
    /// that wait for an answer.
    pub(crate) fn on_response_sent(&self) {
        self.overflow.waiting.borrow_mut().push_front((self.id, self.evicted.clone()));
    }

    /// Ends when the connection must make room.
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
