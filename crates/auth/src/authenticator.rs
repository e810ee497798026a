//! Verifies tokens against the configured issuers, which are reloaded while the node runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pushonce_core::Timestamp;
use tokio::sync::{Notify, watch};

use crate::issuers::{self, Fingerprint, Issuer, Issuers, IssuersError, KeyChanges};
use crate::token::UnverifiedToken;
use crate::{AuthenticationError, Caller, metrics};

/// Verifies tokens against the configured issuers. Cheap to clone; clones share the keys.
#[derive(Clone, Default)]
pub struct Authenticator(Option<Arc<Source>>);

/// The issuers file, and what was last read from it.
struct Source {
    path: PathBuf,
    issuers: ArcSwap<Issuers>,
    fingerprint: Mutex<Fingerprint>,
    reload: Notify,
    changes: KeyChanges,
    clock: Clock,
    variable: Variable,
}

type Clock = Box<dyn Fn() -> SystemTime + Send + Sync>;
type Variable = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reload {
    Unchanged,
    Changed {
        /// The issuers that are gone, and the keys of the others, as `ISSUER KEY-ID`.
        removed: Vec<String>,
    },
}

impl Authenticator {
    /// Maximum length of a token, in bytes: common proxies allow 8 KiB for a header.
    pub const TOKEN_BYTES_MAX: usize = 8 << 10;
    /// Interval at which the issuers file and its key files are read again. No watch on the files: it would
    /// miss changes on network file systems and behind the symbolic links of Kubernetes.
    const POLL_INTERVAL: Duration = Duration::from_secs(30);

    /// Without issuers: every caller is unrestricted.
    pub fn open() -> Authenticator {
        Authenticator(None)
    }

    /// Reads the issuers file at `path` and the keys that it names.
    ///
    /// # Errors
    /// [`IssuersError`] when anything is missing or malformed. Keys with an address are fetched later, by
    /// [`Authenticator::run`] or with the first token: until then the tokens of their issuers are refused.
    pub fn load(path: &Path) -> Result<Authenticator, IssuersError> {
        let variable = |name: &str| std::env::var(name).ok();
        Authenticator::load_with(path, Box::new(SystemTime::now), Box::new(variable))
    }

    /// Like [`Authenticator::load`], with a given clock and environment.
    pub(crate) fn load_with(
        path: &Path,
        clock: Clock,
        variable: Variable,
    ) -> Result<Authenticator, IssuersError> {
        let changes = KeyChanges::default();
        let (issuers, fingerprint) = issuers::load(path, &variable, &changes)?;
        Ok(Authenticator(Some(Arc::new(Source {
            path: path.to_owned(),
            issuers: ArcSwap::from_pointee(issuers),
            fingerprint: Mutex::new(fingerprint),
            reload: Notify::new(),
            changes,
            clock,
            variable,
        }))))
    }

    /// Whether no issuer is configured.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// The caller of a request without a token.
    pub fn without_token(&self) -> Caller {
        if self.is_open() { Caller::unrestricted() } else { Caller::anonymous() }
    }

    /// The caller of a request with `token`. A node without issuers ignores the token.
    ///
    /// May wait up to 5 seconds for the keys of an issuer, so no lock must be held. Cancel safe.
    ///
    /// # Errors
    /// [`AuthenticationError`] when the token is not valid now.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, AuthenticationError> {
        let Some(source) = &self.0 else { return Ok(Caller::unrestricted()) };
        let result = source.authenticate(token).await;
        if let Err(error) = &result {
            metrics::TOKENS_REJECTED.register_counter(&[error.reason()]).increment(1);
        }
        result
    }

    /// Whether the key that verified the token of a caller is still one of its issuer. Keys with an address count until
    /// the set was fetched again without them. Without a token, or without issuers, there is no such key.
    pub fn accepts_key_of(&self, caller: &Caller) -> bool {
        let (Some(source), Some(token)) = (&self.0, caller.token()) else { return true };
        let issuers = source.issuers.load();
        let accepts = |issuer: &Issuer| token.key.is_none_or(|key| issuer.accepts_key(key));
        issuers.find(&token.issuer).is_ok_and(accepts)
    }

    /// Fetches the keys of the caller's issuer again, if its token was verified by another node with a key that is not
    /// known here. At most every 30 seconds, and for up to 5 seconds.
    pub(crate) async fn refresh_unknown_key(&self, caller: &Caller) {
        let (Some(source), Some(token)) = (&self.0, caller.token()) else { return };
        let issuers = source.issuers.load_full();
        if let (Ok(issuer), Some(key)) = (issuers.find(&token.issuer), token.key) {
            issuer.refresh_if_unknown(key).await;
        }
    }

    /// Notifies of every change of the accepted keys.
    pub fn key_changes(&self) -> watch::Receiver<()> {
        match &self.0 {
            Some(source) => source.changes.subscribe(),
            None => watch::channel(()).1,
        }
    }

    /// Reads the files again soon, as [`Authenticator::run`] does every 30 seconds.
    pub fn reload(&self) {
        if let Some(source) = &self.0 {
            source.reload.notify_one();
        }
    }

    /// Keeps the keys up to date: reads the files and fetches the key sets again. Never returns.
    pub async fn run(self) {
        let Some(source) = self.0 else { return std::future::pending().await };
        loop {
            source.refresh_fetched_keys().await;
            let interval = tokio::time::sleep(Self::POLL_INTERVAL);
            tokio::select! {
                () = interval => {}
                () = source.reload.notified() => {}
            }
            let reloading = source.clone();
            // Reads files, which may be on a network file system. An error means that the runtime ends.
            let _ = tokio::task::spawn_blocking(move || reloading.reload_and_report()).await;
        }
    }
}

impl Source {
    async fn authenticate(&self, token: &str) -> Result<Caller, AuthenticationError> {
        let token = UnverifiedToken::parse(token)?;
        let issuers = self.issuers.load_full();
        issuers.find(&token.issuer)?.verify(token, timestamp((self.clock)())).await
    }

    async fn refresh_fetched_keys(&self) {
        let issuers = self.issuers.load_full();
        let refreshes = issuers.jwks_sources().map(|source| source.refresh_if_old());
        futures::future::join_all(refreshes).await;
    }

    fn reload_and_report(&self) {
        match self.reload() {
            Ok(Reload::Unchanged) => {}
            Ok(Reload::Changed { removed }) => {
                metrics::ISSUERS_RELOADS.register_counter(&["ok"]).increment(1);
                tracing::info!(
                    target: "audit", file = %self.path.display(), ?removed,
                    "issuers and keys changed, the sessions with tokens of removed keys end"
                );
            }
            Err(error) => {
                metrics::ISSUERS_RELOADS.register_counter(&["error"]).increment(1);
                tracing::error!(%error, "cannot reload the issuers, the old ones stay");
            }
        }
    }

    /// Reads the files. On an error the old keys stay.
    fn reload(&self) -> Result<Reload, IssuersError> {
        let (mut issuers, fingerprint) = issuers::load(&self.path, &self.variable, &self.changes)?;
        let mut current = self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == fingerprint {
            return Ok(Reload::Unchanged);
        }
        let old = self.issuers.load_full();
        issuers.reuse_fetched_keys(&old);
        let removed = old.removed_in(&issuers);
        self.issuers.store(Arc::new(issuers));
        *current = fingerprint;
        self.changes.notify();
        Ok(Reload::Changed { removed })
    }
}

/// A clock before 1970 counts as 1970: every token is then not valid yet or accepted until it expires.
fn timestamp(time: SystemTime) -> Timestamp {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.0.as_ref().map(|source| &source.path);
        f.debug_struct("Authenticator").field("file", &file).finish()
    }
}

#[cfg(test)]
mod authenticator_test;
