//! The rate of each of many keys, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pushonce_core::{Gcra, RateLimit};

/// Maximum number of keys with a state of their own, some 3 MiB. Keys beyond it share one state, so that a
/// client with many addresses cannot make the limit ineffective.
const KEYS_MAX: usize = 65_536;

/// Minimum time between two searches for idle keys in a full table: a search takes a millisecond.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The rate of each key. Shared by all threads. The limit comes with each call; a key keeps one limit, or one that
/// seldom changes.
#[derive(Debug)]
pub struct KeyedRates<K> {
    keys_max: usize,
    started_at: Instant,
    states: Mutex<States<K>>,
}

#[derive(Debug)]
struct States<K> {
    by_key: HashMap<K, Gcra>,
    /// The state of all keys for which there is no room.
    others: Gcra,
    swept_at: Option<Instant>,
}

impl<K: Copy + Eq + Hash> Default for KeyedRates<K> {
    fn default() -> KeyedRates<K> {
        KeyedRates::with_capacity(KEYS_MAX)
    }
}

impl<K: Copy + Eq + Hash> KeyedRates<K> {
    fn with_capacity(keys_max: usize) -> KeyedRates<K> {
        let states = States { by_key: HashMap::new(), others: Gcra::default(), swept_at: None };
        KeyedRates { keys_max, started_at: Instant::now(), states: Mutex::new(states) }
    }

    /// Takes `units` of a key if `limit` allows them at `now`.
    ///
    /// # Errors
    /// How long to wait before the same units are allowed.
    pub fn try_take(
        &self,
        key: K,
        limit: RateLimit,
        units: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        self.update(key, now, |state, now| state.try_take(limit, units, now))
    }

    /// Takes `units` of a key that were already spent, and returns how long to wait before more may be spent.
    pub fn take(&self, key: K, limit: RateLimit, units: u32, now: Instant) -> Duration {
        self.update(key, now, |state, now| state.take(limit, units, now))
    }

    #[cfg(test)]
    fn key_count(&self) -> usize {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).by_key.len()
    }

    fn update<T>(&self, key: K, now: Instant, change: impl FnOnce(&mut Gcra, u64) -> T) -> T {
        let elapsed = now.saturating_duration_since(self.started_at).as_nanos();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        // A panic leaves no state half changed.
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.by_key.len() >= self.keys_max && !states.by_key.contains_key(&key) {
            states.sweep(now, elapsed);
        }
        let has_room = states.by_key.len() < self.keys_max || states.by_key.contains_key(&key);
        match has_room {
            true => change(states.by_key.entry(key).or_default(), elapsed),
            false => change(&mut states.others, elapsed),
        }
    }
}

impl<K: Copy + Eq + Hash> States<K> {
    /// Removes the keys whose state equals a new one.
    fn sweep(&mut self, now: Instant, elapsed: u64) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < SWEEP_INTERVAL;
        if !self.swept_at.is_some_and(is_recent) {
            self.swept_at = Some(now);
            self.by_key.retain(|_, state| !state.is_idle(elapsed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_rate() {
        let (rates, limit) = (KeyedRates::default(), RateLimit::new(1, 2));
        let now = Instant::now();
        for key in ["a", "b"] {
            let taken = [(); 3].map(|()| rates.try_take(key, limit, 1, now).is_ok());
            assert_eq!(taken, [true, true, false], "{key}");
        }
        assert_eq!(rates.try_take("a", limit, 1, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn keys_beyond_the_maximum_share_one_rate_until_others_are_idle() {
        let (rates, limit) = (KeyedRates::with_capacity(2), RateLimit::new(1, 1));
        let now = Instant::now();
        let taken = [1, 2, 3, 4].map(|key| rates.try_take(key, limit, 1, now).is_ok());
        assert_eq!(taken, [true, true, true, false]);
        assert_eq!(rates.key_count(), 2);
        let later = now + Duration::from_secs(5);
        let taken = [3, 4].map(|key| rates.try_take(key, limit, 1, later).is_ok());
        assert_eq!((taken, rates.key_count()), ([true, true], 2));
    }
}
