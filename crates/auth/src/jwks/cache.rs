//! When the keys of an issuer are fetched, and how long they are used. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::issuers::{find_key, removed_keys};
use crate::key::VerificationKey;

/// The fetched keys of one issuer.
#[derive(Default)]
pub(super) struct KeyCache {
    keys: BTreeMap<Option<String>, VerificationKey>,
    fetched_at: Option<Instant>,
    last_attempt: Option<Instant>,
    is_fetching: bool,
}

/// What the cache knows about a key id.
pub(super) enum Lookup {
    /// The key.
    Found(VerificationKey),
    /// The issuer has no such key, as far as is known.
    Unknown { may_refresh: bool },
    /// There are no keys, or they are too old to be used.
    Unavailable { may_refresh: bool },
}

impl Lookup {
    /// Whether a fetch may find the key.
    pub(super) fn may_refresh(&self) -> bool {
        match self {
            Lookup::Found(_) => false,
            Lookup::Unknown { may_refresh } | Lookup::Unavailable { may_refresh } => *may_refresh,
        }
    }
}

impl KeyCache {
    /// Minimum time between two fetches: tokens with invented key ids must not turn the node into a load
    /// generator against the issuer.
    pub(super) const ATTEMPT_INTERVAL: Duration = Duration::from_secs(30);
    /// Age at which keys are fetched again without being asked for, so that a withdrawn key is forgotten.
    pub(super) const REFRESH_AGE: Duration = Duration::from_secs(10 * 60);
    /// Age up to which keys are used while the issuer cannot be reached.
    pub(super) const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

    pub(super) fn lookup(&self, key_id: Option<&str>, now: Instant) -> Lookup {
        let may_refresh = self.is_fetching || self.may_attempt(now);
        if self.fetched_at.is_none_or(|at| now.duration_since(at) >= Self::AGE_MAX) {
            return Lookup::Unavailable { may_refresh };
        }
        match find_key(&self.keys, key_id) {
            Some(key) => Lookup::Found(key.clone()),
            None => Lookup::Unknown { may_refresh },
        }
    }

    /// Whether the keys should be fetched without being asked for.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.may_attempt(now)
            && self.fetched_at.is_none_or(|at| now.duration_since(at) >= Self::REFRESH_AGE)
    }

    /// Whether a fetch may begin now; then it has begun.
    pub(super) fn begin_attempt(&mut self, now: Instant) -> bool {
        let may_attempt = self.may_attempt(now);
        if may_attempt {
            self.last_attempt = Some(now);
            self.is_fetching = true;
        }
        may_attempt
    }

    /// Ends a fetch, with the keys if it succeeded. They replace all earlier ones. Returns the ids of those that are gone.
    pub(super) fn end_attempt(
        &mut self,
        keys: Option<BTreeMap<Option<String>, VerificationKey>>,
        now: Instant,
    ) -> Vec<String> {
        self.is_fetching = false;
        let Some(keys) = keys else { return Vec::new() };
        self.fetched_at = Some(now);
        let removed = removed_keys(&self.keys, &keys);
        self.keys = keys;
        removed
    }

    fn may_attempt(&self, now: Instant) -> bool {
        self.last_attempt.is_none_or(|at| now.duration_since(at) >= Self::ATTEMPT_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> VerificationKey {
        VerificationKey::secret(&[7; 32]).expect("long enough")
    }

    fn keys(id: &str) -> BTreeMap<Option<String>, VerificationKey> {
        [(Some(id.to_owned()), key())].into()
    }

    fn word(cache: &KeyCache, id: &str, now: Instant) -> &'static str {
        match cache.lookup(Some(id), now) {
            Lookup::Found(_) => "found",
            Lookup::Unknown { may_refresh: true } => "unknown, refresh",
            Lookup::Unknown { may_refresh: false } => "unknown",
            Lookup::Unavailable { may_refresh: true } => "unavailable, refresh",
            Lookup::Unavailable { may_refresh: false } => "unavailable",
        }
    }

    #[test]
    fn keys_are_fetched_at_most_every_thirty_seconds_and_used_for_a_day() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut cache = KeyCache::default();
        assert_eq!(word(&cache, "a", at(0)), "unavailable, refresh");
        assert!(cache.begin_attempt(at(0)));
        assert_eq!(
            word(&cache, "a", at(1)),
            "unavailable, refresh",
            "waits for the fetch that runs"
        );
        cache.end_attempt(None, at(1));
        assert_eq!(word(&cache, "a", at(2)), "unavailable");
        assert!(!cache.begin_attempt(at(29)));
        assert!(cache.begin_attempt(at(30)));
        cache.end_attempt(Some(keys("a")), at(31));
        assert_eq!(word(&cache, "a", at(31)), "found");
        assert_eq!(word(&cache, "b", at(31)), "unknown");
        assert_eq!(word(&cache, "b", at(60)), "unknown, refresh");
        assert!(cache.begin_attempt(at(60)));
        cache.end_attempt(None, at(61));
        let day = 31 + 24 * 3_600;
        assert_eq!(word(&cache, "a", at(day - 1)), "found", "failed fetches keep the keys");
        assert_eq!(word(&cache, "a", at(day)), "unavailable, refresh");
    }

    #[test]
    fn fetched_keys_replace_earlier_ones_and_are_renewed_in_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut cache = KeyCache::default();
        assert!(cache.is_old(at(0)));
        assert!(cache.begin_attempt(at(0)));
        cache.end_attempt(Some(keys("a")), at(0));
        assert!(!cache.is_old(at(599)));
        assert!(cache.is_old(at(600)));
        assert!(cache.begin_attempt(at(600)));
        assert_eq!(cache.end_attempt(Some(keys("b")), at(600)), Vec::<String>::new(), "renamed");
        assert_eq!(word(&cache, "a", at(601)), "unknown");
        assert_eq!(word(&cache, "b", at(601)), "found");
    }
}
