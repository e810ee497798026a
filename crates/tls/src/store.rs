//! [`CertificateStore`]: the certificate of a server with its key, and its replacement when the files change.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use humantime::format_rfc3339_seconds;
use pushonce_telemetry::{Counter, Gauge};
use ring::digest::Digest;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::file::{self, Content};
use crate::pem::{Identity, parse_identity};
use crate::{CertificateError, metrics};

/// How often the content of the files is compared. Certificates are replaced days before they expire.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// A certificate that expires within this time is reported in the log, once a day.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * DAY_SECS);
const DAY_SECS: u64 = 24 * 3600;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file with the certificate of the server and the intermediate ones, in the order of the chain.
    pub chain: PathBuf,
    /// PEM file with the key of the first certificate.
    pub key: PathBuf,
}

/// A certificate chain with its key, read again when the files change. Clones share it.
#[derive(Clone, Debug)]
pub struct CertificateStore(Arc<StoreInner>);

struct StoreInner {
    /// The setting that names the files, for logs and metrics.
    name: &'static str,
    files: CertificateFiles,
    current: ArcSwap<Identity>,
    /// Held while the files are read, so that an older attempt cannot replace a newer one.
    state: Mutex<FileState>,
    expiry: Gauge,
    reloads: Counter,
    failures: Counter,
}

/// What is known of the files.
struct FileState {
    /// The digest of the content from which the certificate in use was parsed.
    digest: Digest,
    /// The text of the last failure, which is logged once.
    failure: Option<String>,
    /// Days since the Unix epoch of the last warning.
    warned_day: u64,
}

impl CertificateFiles {
    fn read(&self) -> Result<[Content; 2], CertificateError> {
        Ok([file::read(&self.chain)?, file::read(&self.key)?])
    }
}

impl CertificateStore {
    /// Loads the files. `name` is the setting that names them, for logs and metrics.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, the key does not belong to the certificate, or the certificate is
    /// not valid at `now`.
    pub fn load(
        name: &'static str,
        files: CertificateFiles,
        now: SystemTime,
    ) -> Result<CertificateStore, CertificateError> {
        let contents @ [chain, key] = &files.read()?;
        let identity = parse_identity(chain, key, now)?;
        let digest = file::digest(contents);
        let inner = StoreInner {
            name,
            files,
            current: ArcSwap::from_pointee(identity),
            state: Mutex::new(FileState { digest, failure: None, warned_day: 0 }),
            expiry: metrics::EXPIRY.register_gauge(&[name]),
            reloads: metrics::RELOADS.register_counter(&[name]),
            failures: metrics::RELOAD_FAILURES.register_counter(&[name]),
        };
        inner.report_expiry(&mut inner.state.lock().unwrap_or_else(PoisonError::into_inner), now);
        Ok(CertificateStore(Arc::new(inner)))
    }

    /// The chain in use, the certificate of this server first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.current.load().certified_key.cert.clone()
    }

    /// When the certificate in use expires.
    pub fn expires(&self) -> SystemTime {
        self.0.current.load().expires
    }

    /// Reads the files. If their content changed and is valid, new handshakes use it; open connections keep
    /// theirs. A failure is logged once and counted, and the previous certificate stays in use.
    pub fn reload(&self, now: SystemTime) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.0.read_changed(&state, now) {
            Ok(None) => state.failure = None,
            Ok(Some((identity, digest))) => self.0.replace(&mut state, identity, digest),
            Err(error) => self.0.on_failure(&mut state, &error),
        }
        self.0.report_expiry(&mut state, now);
    }

    /// Reads the files every 30 seconds and whenever `reload` changes. Never returns.
    pub async fn run(self, mut reload: watch::Receiver<()>) -> Infallible {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                Ok(()) = reload.changed() => {}
            }
            let store = self.clone();
            // A panic is one of a parser: the certificate stays, and the next attempt follows.
            let _ = tokio::task::spawn_blocking(move || store.reload(SystemTime::now())).await;
        }
    }

    /// Presents the certificate as a server.
    pub fn server_resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.0.clone()
    }
}

impl StoreInner {
    /// The new certificate with its digest, or `None` when the files have the content of the one in use.
    fn read_changed(
        &self,
        state: &FileState,
        now: SystemTime,
    ) -> Result<Option<(Identity, Digest)>, CertificateError> {
        let contents @ [chain, key] = &self.files.read()?;
        let digest = file::digest(contents);
        if digest.as_ref() == state.digest.as_ref() {
            return Ok(None);
        }
        Ok(Some((parse_identity(chain, key, now)?, digest)))
    }

    fn replace(&self, state: &mut FileState, identity: Identity, digest: Digest) {
        self.current.store(Arc::new(identity));
        state.digest = digest;
        state.failure = None;
        self.reloads.increment(1);
        tracing::info!(files = self.name, "loaded a changed certificate");
    }

    fn on_failure(&self, state: &mut FileState, error: &CertificateError) {
        self.failures.increment(1);
        let text = error.to_string();
        if state.failure.as_ref() != Some(&text) {
            tracing::error!(%error, files = self.name,
                "cannot load the certificate, keeping the previous one");
            state.failure = Some(text);
        }
    }

    fn report_expiry(&self, state: &mut FileState, now: SystemTime) {
        let expires = self.current.load().expires;
        self.expiry.set(unix_secs(expires) as f64);
        let today = unix_secs(now) / DAY_SECS;
        if expires <= now + EXPIRY_WARNING && state.warned_day != today {
            state.warned_day = today;
            tracing::warn!(files = self.name, expires = %format_rfc3339_seconds(expires),
                "the certificate expires soon; replace its files");
        }
    }
}

impl ResolvesServerCert for StoreInner {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified_key.clone())
    }
}

impl fmt::Debug for StoreInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore").field("name", &self.name).finish_non_exhaustive()
    }
}

fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
