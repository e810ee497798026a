//! A value that is read from files, and its replacement when their content changes.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pushonce_telemetry::Counter;
use ring::digest::Digest;
use tokio::sync::watch;

use crate::file::{self, Content};
use crate::{CertificateError, metrics};

/// How often the content of the files is compared. Certificates are replaced days before they expire.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// How the content of files becomes a value.
pub(crate) trait Parse: Send + Sync + 'static {
    type Contents: AsRef<[Content]>;
    type Value: Send + Sync + 'static;

    fn read(&self) -> Result<Self::Contents, CertificateError>;

    fn parse(
        &self,
        contents: &Self::Contents,
        now: SystemTime,
    ) -> Result<Self::Value, CertificateError>;

    /// Called after each attempt to read the files, with the value in use.
    fn on_checked(&self, _value: &Self::Value, _now: SystemTime) {}
}

/// The value in use, and what is known of its files.
pub(crate) struct Reloading<P: Parse> {
    /// The setting that names the files, for logs and metrics.
    name: &'static str,
    parser: P,
    current: ArcSwap<P::Value>,
    /// Held while the files are read, so that an older attempt cannot replace a newer one.
    state: Mutex<FileState>,
    reloads: Counter,
    failures: Counter,
}

struct FileState {
    /// The digest of the content from which the value in use was parsed.
    digest: Digest,
    /// The text of the last failure, which is logged once.
    failure: Option<String>,
}

impl<P: Parse> Reloading<P> {
    pub(crate) fn load(
        name: &'static str,
        parser: P,
        now: SystemTime,
    ) -> Result<Reloading<P>, CertificateError> {
        let contents = parser.read()?;
        let value = parser.parse(&contents, now)?;
        parser.on_checked(&value, now);
        Ok(Reloading {
            name,
            parser,
            current: ArcSwap::from_pointee(value),
            state: Mutex::new(FileState { digest: file::digest(contents.as_ref()), failure: None }),
            reloads: metrics::RELOADS.register_counter(&[name]),
            failures: metrics::RELOAD_FAILURES.register_counter(&[name]),
        })
    }

    pub(crate) fn current(&self) -> Arc<P::Value> {
        self.current.load_full()
    }

    /// Reads the files, and replaces the value if their content changed and is valid.
    pub(crate) fn reload(&self, now: SystemTime) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read_changed(&state, now) {
            Ok(None) => state.failure = None,
            Ok(Some((value, digest))) => {
                self.current.store(Arc::new(value));
                *state = FileState { digest, failure: None };
                self.reloads.increment(1);
                tracing::info!(files = self.name, "loaded changed certificates");
            }
            Err(error) => {
                self.failures.increment(1);
                let text = error.to_string();
                if state.failure.as_ref() != Some(&text) {
                    tracing::error!(%error, files = self.name,
                        "cannot load certificates, keeping the previous ones");
                    state.failure = Some(text);
                }
            }
        }
        drop(state);
        self.parser.on_checked(&self.current.load(), now);
    }

    /// The new value with its digest, or `None` when the files have the content of the value in use.
    fn read_changed(
        &self,
        state: &FileState,
        now: SystemTime,
    ) -> Result<Option<(P::Value, Digest)>, CertificateError> {
        let contents = self.parser.read()?;
        let digest = file::digest(contents.as_ref());
        if digest.as_ref() == state.digest.as_ref() {
            return Ok(None);
        }
        Ok(Some((self.parser.parse(&contents, now)?, digest)))
    }

    /// Reads the files every 30 seconds and whenever `reload` changes. Never returns.
    pub(crate) async fn run(self: Arc<Self>, mut reload: watch::Receiver<()>) -> Infallible {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                Ok(()) = reload.changed() => {}
            }
            let reloading = self.clone();
            // A panic is one of a parser: the value stays, and the next attempt follows.
            let _ = tokio::task::spawn_blocking(move || reloading.reload(SystemTime::now())).await;
        }
    }
}

impl<P: Parse> fmt::Debug for Reloading<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("name", &self.name).finish_non_exhaustive()
    }
}
