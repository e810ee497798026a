//! The keys of an issuer that publishes them at an address (JWKS).

mod cache;
mod fetch;

pub(crate) use fetch::{InvalidJwksUrl, JwksUrl};

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use pushonce_telemetry::LogLimiter;
use tokio::time::Instant;

use crate::issuers::KeyChanges;
use crate::key::{KeySetDocument, VerificationKey};
use crate::{Algorithm, AuthenticationError, KeyFingerprint, metrics};
use cache::{KeyCache, Lookup};

/// Fetches and keeps the keys of one issuer. The address comes from the issuers file, never from a token.
pub(crate) struct JwksSource {
    issuer: String,
    url: JwksUrl,
    algorithms: Vec<Algorithm>,
    cache: Mutex<KeyCache>,
    /// The keys of the last set that was fetched, for decisions about open sessions; `None` until there is one.
    accepted: ArcSwapOption<Vec<KeyFingerprint>>,
    changes: KeyChanges,
    /// Held during a fetch: callers that need the same keys wait for one fetch.
    single_flight: tokio::sync::Mutex<()>,
    errors: LogLimiter,
}

impl JwksSource {
    pub(crate) fn new(
        issuer: &str,
        url: &str,
        algorithms: Vec<Algorithm>,
        changes: KeyChanges,
    ) -> Result<JwksSource, InvalidJwksUrl> {
        Ok(JwksSource {
            issuer: issuer.to_owned(),
            url: JwksUrl::parse(url)?,
            algorithms,
            cache: Mutex::default(),
            accepted: ArcSwapOption::empty(),
            changes,
            single_flight: tokio::sync::Mutex::default(),
            errors: LogLimiter::new(),
        })
    }

    /// Whether `other` would fetch the same keys.
    pub(crate) fn has_same_origin(&self, other: &JwksSource) -> bool {
        (&self.issuer, &self.url, &self.algorithms)
            == (&other.issuer, &other.url, &other.algorithms)
    }

    /// The key with this id. An unknown one is fetched, at most every
    /// [`KeyCache::ATTEMPT_INTERVAL`].
    pub(crate) async fn find_key(
        self: &Arc<Self>,
        key_id: Option<&str>,
    ) -> Result<VerificationKey, AuthenticationError> {
        let mut lookup = self.lookup(key_id);
        if lookup.may_refresh() {
            self.refresh().await;
            lookup = self.lookup(key_id);
        }
        match lookup {
            Lookup::Found(key) => Ok(key),
            Lookup::Unknown { .. } => Err(AuthenticationError::UnknownKey),
            Lookup::Unavailable { .. } => Err(AuthenticationError::KeysUnavailable),
        }
    }

    /// Fetches the keys if they are old: for a timer.
    pub(crate) async fn refresh_if_old(self: &Arc<Self>) {
        if self.with_cache(|cache| cache.is_old(Instant::now())) {
            self.refresh().await;
        }
    }

    /// Whether a key is in the last set that was fetched. While the issuer cannot be reached, its keys stay: an outage must
    /// not end sessions.
    pub(crate) fn accepts_key(&self, key: KeyFingerprint) -> bool {
        self.accepted.load().as_ref().is_none_or(|accepted| accepted.contains(&key))
    }

    /// Fetches the keys, or waits for the fetch that runs. The fetch goes on when the caller is dropped:
    /// else a client that disconnects at once could use up the attempts of all others.
    pub(crate) async fn refresh(self: &Arc<Self>) {
        let source = self.clone();
        let fetch = tokio::spawn(async move { source.refresh_once().await });
        // An error means that the runtime shuts down.
        let _ = fetch.await;
    }

    async fn refresh_once(&self) {
        let _guard = self.single_flight.lock().await;
        // A caller that waited for the lock uses the result of the fetch that held it.
        if !self.with_cache(|cache| cache.begin_attempt(Instant::now())) {
            return;
        }
        let document = fetch::fetch(&self.url).await.and_then(|body| {
            KeySetDocument::read(&body, &self.algorithms).map_err(fetch::FetchError::Document)
        });
        let result = if document.is_ok() { "ok" } else { "error" };
        metrics::JWKS_REFRESHES.register_counter(&[result]).increment(1);
        let now = Instant::now();
        let keys = match document {
            Ok(document) => Some(document.keys),
            Err(error) => {
                if let Some(suppressed) = self.errors.allow(now.into_std()) {
                    tracing::warn!(
                        issuer = self.issuer, url = %self.url, %error, suppressed,
                        "cannot fetch the keys of an issuer, its old keys are used for up to a day"
                    );
                }
                None
            }
        };
        let accepted =
            keys.as_ref().map(|keys| keys.values().map(VerificationKey::fingerprint).collect());
        let removed = self.with_cache(|cache| cache.end_attempt(keys, now));
        if let Some(accepted) = accepted {
            let before = self.accepted.swap(Some(Arc::new(accepted)));
            // Not for the same keys again: every session would be compared.
            if before.is_none() || !removed.is_empty() {
                self.changes.notify();
            }
        }
        if !removed.is_empty() {
            tracing::info!(
                target: "audit", issuer = self.issuer, ?removed,
                "an issuer removed keys, the sessions with their tokens end"
            );
        }
    }

    fn lookup(&self, key_id: Option<&str>) -> Lookup {
        self.with_cache(|cache| cache.lookup(key_id, Instant::now()))
    }

    fn with_cache<T>(&self, f: impl FnOnce(&mut KeyCache) -> T) -> T {
        // Never poisoned for long: nothing in the cache panics.
        f(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksSource").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod jwks_test;
