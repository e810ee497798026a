//! One budget for what was received and is not complete yet, over all doors of a node.
//!
//! A message that is half sent holds memory for as long as its sender likes. Every door charges such bytes to
//! this budget. When it is exceeded, the caller that holds the most loses its largest message: the sender pays,
//! never another sender and never a viewer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use pushonce_core::CallerKey;
use pushonce_telemetry::{Counter, Gauge};

use crate::metrics;

/// Bytes that a connection may hold without being counted. Most requests are complete with their first read, and
/// then cost no lock.
pub const UNCOUNTED_BYTES: usize = 8 << 10;

/// Time in which a message must be complete after its first byte: a megabyte at 35 KB/s.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The budget. Cheap to clone.
#[derive(Clone)]
pub struct ReceiveBudget(Arc<Budget>);

struct Budget {
    bytes_max: usize,
    state: Mutex<State>,
    held: Gauge,
    evicted: Counter,
}

#[derive(Default)]
struct State {
    bytes: usize,
    next_id: u64,
    holdings: HashMap<u64, Charge>,
    by_caller: HashMap<CallerKey, usize>,
}

struct Charge {
    caller: CallerKey,
    bytes: usize,
    eviction: Arc<Eviction>,
}

#[derive(Default)]
struct Eviction {
    is_evicted: AtomicBool,
    waker: AtomicWaker,
}

/// The bytes of one incomplete message. They are returned to the budget when it is dropped.
pub struct Holding {
    budget: ReceiveBudget,
    caller: CallerKey,
    /// `None` while the message is small.
    charge: Option<(u64, Arc<Eviction>)>,
}

/// The node holds too many incomplete messages, and this caller holds the most of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the node holds too many messages that are only half received; send each message faster, and fewer at once"
)]
pub struct ReceiveBudgetExceeded;

impl ReceiveBudget {
    /// A budget of `bytes_max` for the whole node.
    pub fn new(bytes_max: usize) -> ReceiveBudget {
        ReceiveBudget(Arc::new(Budget {
            bytes_max,
            state: Mutex::default(),
            held: metrics::PARTIAL_BYTES.register_gauge(&[]),
            evicted: metrics::PARTIAL_EVICTED.register_counter(&[]),
        }))
    }

    /// Begins a message of `caller`.
    pub fn begin(&self, caller: CallerKey) -> Holding {
        Holding { budget: self.clone(), caller, charge: None }
    }

    /// The counted bytes of all incomplete messages.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic leaves no sum half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evict_above_maximum(&self, state: &mut State) {
        while state.bytes > self.0.bytes_max
            && let Some(id) = state.largest()
            && let Some(charge) = state.remove(id)
        {
            charge.eviction.is_evicted.store(true, Ordering::Release);
            charge.eviction.waker.wake();
            self.0.evicted.increment(1);
        }
        self.0.held.set(state.bytes as f64);
    }
}

impl State {
    /// The largest message of the caller that holds the most.
    fn largest(&self) -> Option<u64> {
        let (&caller, _) = self.by_caller.iter().max_by_key(|&(key, &bytes)| (bytes, *key))?;
        let of_caller = self.holdings.iter().filter(|(_, charge)| charge.caller == caller);
        of_caller.max_by_key(|&(&id, charge)| (charge.bytes, id)).map(|(&id, _)| id)
    }

    fn set(&mut self, id: u64, bytes: usize) {
        let Some(charge) = self.holdings.get_mut(&id) else { return };
        let before = std::mem::replace(&mut charge.bytes, bytes);
        let sum = self.by_caller.entry(charge.caller).or_default();
        *sum = *sum + bytes - before;
        self.bytes = self.bytes + bytes - before;
    }

    fn remove(&mut self, id: u64) -> Option<Charge> {
        self.set(id, 0);
        let charge = self.holdings.remove(&id)?;
        if self.by_caller.get(&charge.caller) == Some(&0) {
            self.by_caller.remove(&charge.caller);
        }
        Some(charge)
    }
}

impl Holding {
    /// Sets the bytes that the message holds now.
    ///
    /// # Errors
    /// [`ReceiveBudgetExceeded`] when the message was evicted, now or before: its memory must be released, and
    /// its sender gets the error.
    pub fn set(&mut self, bytes: usize) -> Result<(), ReceiveBudgetExceeded> {
        if self.is_evicted() {
            return Err(ReceiveBudgetExceeded);
        }
        if self.charge.is_none() && bytes <= UNCOUNTED_BYTES {
            return Ok(());
        }
        let mut state = self.budget.lock();
        let id = match &self.charge {
            Some((id, _)) => *id,
            None => {
                let id = state.next_id;
                state.next_id += 1;
                let eviction = Arc::<Eviction>::default();
                let charge = Charge { caller: self.caller, bytes: 0, eviction: eviction.clone() };
                state.holdings.insert(id, charge);
                self.charge = Some((id, eviction));
                id
            }
        };
        state.set(id, bytes);
        self.budget.evict_above_maximum(&mut state);
        drop(state);
        if self.is_evicted() { Err(ReceiveBudgetExceeded) } else { Ok(()) }
    }

    /// Whether the message was evicted. A later eviction wakes `waker`.
    pub fn poll_evicted(&self, waker: &Waker) -> bool {
        if let Some((_, eviction)) = &self.charge {
            eviction.waker.register(waker);
        }
        self.is_evicted()
    }

    fn is_evicted(&self) -> bool {
        let charge = self.charge.as_ref();
        charge.is_some_and(|(_, eviction)| eviction.is_evicted.load(Ordering::Acquire))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some((id, _)) = self.charge.take() {
            let mut state = self.budget.lock();
            state.remove(id);
            self.budget.0.held.set(state.bytes as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures::task::noop_waker_ref;

    use super::*;

    const KIB: usize = 1 << 10;

    fn caller(last: u8) -> CallerKey {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)).into()
    }

    #[test]
    fn caller_that_holds_the_most_loses_its_largest_message() {
        let budget = ReceiveBudget::new(100 * KIB);
        let mut honest = budget.begin(caller(1));
        assert_eq!(honest.set(40 * KIB), Ok(()));
        let mut flood: Vec<_> = (0..3).map(|_| budget.begin(caller(2))).collect();
        for (holding, bytes) in flood.iter_mut().zip([16, 20, 16]) {
            assert_eq!(holding.set(bytes * KIB), Ok(()));
        }
        assert_eq!(honest.set(60 * KIB), Err(ReceiveBudgetExceeded), "60 is more than 52");
        let mut honest = budget.begin(caller(1));
        assert_eq!(honest.set(48 * KIB), Ok(()));
        assert_eq!(flood[0].set(17 * KIB), Ok(()), "101 KiB in all");
        let evicted: Vec<_> =
            flood.iter().map(|holding| holding.poll_evicted(noop_waker_ref())).collect();
        assert_eq!(evicted, [false, true, false]);
        assert_eq!(flood[1].set(1), Err(ReceiveBudgetExceeded), "an evicted message stays evicted");
        assert!(!honest.poll_evicted(noop_waker_ref()));
        assert_eq!(budget.bytes(), 81 * KIB);
    }

    #[test]
    fn small_messages_are_not_counted_and_ended_ones_return_their_bytes() {
        let budget = ReceiveBudget::new(64 * KIB);
        let mut small: Vec<_> = (0..100).map(|nth| budget.begin(caller(nth))).collect();
        assert!(small.iter_mut().all(|holding| holding.set(UNCOUNTED_BYTES) == Ok(())));
        assert_eq!(budget.bytes(), 0);
        assert_eq!(small[7].set(UNCOUNTED_BYTES + 1), Ok(()));
        assert_eq!(budget.bytes(), UNCOUNTED_BYTES + 1);
        assert_eq!(small[7].set(10), Ok(()));
        assert_eq!(budget.bytes(), 10);
        drop(small);
        let state = budget.lock();
        assert_eq!((state.bytes, state.holdings.len(), state.by_caller.len()), (0, 0, 0));
    }

    #[test]
    fn message_larger_than_the_budget_pays_itself() {
        let budget = ReceiveBudget::new(16 * KIB);
        let mut holding = budget.begin(caller(1));
        assert_eq!(holding.set(17 * KIB), Err(ReceiveBudgetExceeded));
        assert_eq!(budget.bytes(), 0);
    }
}
