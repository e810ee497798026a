//! The certificate of all endpoints, and its renewal.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{ServerConfig, TransportConfig};
use tokio::sync::watch;

use crate::certificate::{Certificate, CertificateFile, Fingerprint};
use crate::port::{BindError, PortConfig};

/// How often the expiry of the certificate is checked. Renewal is due days before.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Renews the certificate of a port before it expires.
pub struct CertificateRotator {
    certificate_file: CertificateFile,
    fingerprint: watch::Sender<Fingerprint>,
    server_config: watch::Sender<Arc<ServerConfig>>,
    alpn: &'static [u8],
    transport: Arc<TransportConfig>,
}

impl CertificateRotator {
    pub(crate) fn new(
        certificate: Certificate,
        config: &PortConfig,
    ) -> Result<CertificateRotator, BindError> {
        let PortConfig { alpn, ref transport, .. } = *config;
        let (certificate_file, transport) = (certificate.file(), Arc::new(transport.to_config()));
        let (fingerprint, _) = watch::channel(certificate.fingerprint());
        let (server_config, _) =
            watch::channel(server_config(certificate, alpn, transport.clone())?);
        Ok(CertificateRotator { certificate_file, fingerprint, server_config, alpn, transport })
    }

    pub(crate) fn fingerprint(&self) -> watch::Receiver<Fingerprint> {
        self.fingerprint.subscribe()
    }

    pub(crate) fn server_config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server_config.subscribe()
    }

    /// Checks the certificate once an hour, forever. New connections get the new certificate, open
    /// ones keep theirs. A failure is logged, and the next check tries again.
    pub async fn run(mut self) -> Infallible {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let next = match self.certificate_file.renew(SystemTime::now()) {
                Ok(Some(next)) => next,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the QUIC certificate, keeping the current one until it expires");
                    continue;
                }
            };
            let fingerprint = next.fingerprint();
            match server_config(next, self.alpn, self.transport.clone()) {
                Ok(config) => {
                    self.server_config.send_replace(config);
                    self.fingerprint.send_replace(fingerprint);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot use the new QUIC certificate, keeping the current one")
                }
            }
        }
    }
}

pub(crate) fn server_config(
    certificate: Certificate,
    alpn: &[u8],
    transport: Arc<TransportConfig>,
) -> Result<Arc<ServerConfig>, BindError> {
    let mut config = ServerConfig::with_crypto(Arc::new(crypto_config(certificate, alpn)?));
    config.transport_config(transport);
    Ok(Arc::new(config))
}

fn crypto_config(certificate: Certificate, alpn: &[u8]) -> Result<QuicServerConfig, BindError> {
    let bad = |error: rustls::Error| BindError::Certificate(error.into());
    // Explicit, so that the process-wide default of another crate has no effect.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad)?
        .with_no_client_auth()
        .with_single_cert(certificate.chain, certificate.key)
        .map_err(bad)?;
    tls.alpn_protocols = vec![alpn.to_vec()];
    QuicServerConfig::try_from(tls).map_err(|error| BindError::Certificate(error.into()))
}
