//! [`CertificateStore`]: the certificate of a server or a node, with its key.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use pushonce_telemetry::Gauge;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::file::{self, Content};
use crate::pem::{Identity, parse_identity};
use crate::reload::{Parse, Reloading};
use crate::{CertificateError, metrics};

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
pub struct CertificateStore(Arc<Reloading<CertificateParser>>);

struct CertificateParser {
    name: &'static str,
    files: CertificateFiles,
    expiry: Gauge,
    /// Days since the Unix epoch of the last warning.
    warned_day: AtomicU64,
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
        let expiry = metrics::EXPIRY.register_gauge(&[name]);
        let parser = CertificateParser { name, files, expiry, warned_day: AtomicU64::new(0) };
        Ok(CertificateStore(Arc::new(Reloading::load(name, parser, now)?)))
    }

    /// The chain in use, the certificate of this server first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.current().certified_key.cert.clone()
    }

    /// When the certificate in use expires.
    pub fn expires(&self) -> SystemTime {
        self.0.current().expires
    }

    /// Reads the files. If their content changed and is valid, new handshakes use it; open connections keep
    /// theirs. A failure is logged once and counted, and the previous certificate stays in use.
    pub fn reload(&self, now: SystemTime) {
        self.0.reload(now);
    }

    /// Reads the files every 30 seconds and whenever `reload` changes. Never returns.
    pub async fn run(self, reload: watch::Receiver<()>) -> Infallible {
        self.0.run(reload).await
    }

    /// Presents the certificate as a server.
    pub fn server_resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.0.clone()
    }

    /// Presents the certificate as a client.
    pub fn client_resolver(&self) -> Arc<dyn ResolvesClientCert> {
        self.0.clone()
    }
}

impl ResolvesServerCert for Reloading<CertificateParser> {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified_key.clone())
    }
}

impl ResolvesClientCert for Reloading<CertificateParser> {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified_key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Parse for CertificateParser {
    type Contents = [Content; 2];
    type Value = Identity;

    fn read(&self) -> Result<[Content; 2], CertificateError> {
        Ok([file::read(&self.files.chain)?, file::read(&self.files.key)?])
    }

    fn parse(
        &self,
        [chain, key]: &[Content; 2],
        now: SystemTime,
    ) -> Result<Identity, CertificateError> {
        parse_identity(chain, key, now)
    }

    fn on_checked(&self, identity: &Identity, now: SystemTime) {
        self.expiry.set(unix_secs(identity.expires) as f64);
        let today = unix_secs(now) / DAY_SECS;
        if identity.expires <= now + EXPIRY_WARNING
            && self.warned_day.swap(today, Ordering::Relaxed) != today
        {
            tracing::warn!(files = self.name, expires = %format_rfc3339_seconds(identity.expires),
                "the certificate expires soon; replace its files");
        }
    }
}

fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
