//! The certificate of all endpoints, and its renewal.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pushonce_tls::{CertificateStore, TicketCipher};
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{ServerConfig, TransportConfig};
use tokio::sync::watch;

use crate::certificate::{Certificate, CertificateFile, Fingerprint};
use crate::port::{BindError, PortConfig};

/// How often the expiry of a development certificate is checked. Renewal is due days before.
const DEVELOPMENT_INTERVAL: Duration = Duration::from_secs(3600);

/// How often the fingerprint of certificate files is compared, after which the port publishes the new one.
const FILES_INTERVAL: Duration = Duration::from_secs(10);

/// Where the certificate of a port comes from.
#[derive(Debug)]
pub enum CertificateSource {
    /// A self-signed certificate, renewed before it expires.
    Development(Certificate),
    /// The files of an operator, which the store reads again when they change, and the cipher of session tickets.
    Files(CertificateStore, Arc<TicketCipher>),
}

/// Renews a development certificate before it expires, and follows the fingerprint of certificate files.
pub struct CertificateRotator {
    source: CurrentSource,
    fingerprint: watch::Sender<Fingerprint>,
    server_config: watch::Sender<Arc<ServerConfig>>,
    alpn: &'static [&'static [u8]],
    transport: Arc<TransportConfig>,
}

enum CurrentSource {
    Development(CertificateFile),
    Files(CertificateStore),
}

impl CertificateRotator {
    pub(crate) fn new(
        source: CertificateSource,
        config: &PortConfig,
    ) -> Result<CertificateRotator, BindError> {
        let PortConfig { alpn, ref transport, .. } = *config;
        let transport = Arc::new(transport.to_config());
        let (source, fingerprint, server_config) = match source {
            CertificateSource::Development(certificate) => {
                let (file, fingerprint) = (certificate.file(), certificate.fingerprint());
                let config = development_config(certificate, alpn, transport.clone())?;
                (CurrentSource::Development(file), fingerprint, config)
            }
            CertificateSource::Files(store, tickets) => {
                let config = files_config(&store, tickets, alpn, transport.clone())?;
                let fingerprint = fingerprint(&store);
                (CurrentSource::Files(store), fingerprint, config)
            }
        };
        let (fingerprint, _) = watch::channel(fingerprint);
        let (server_config, _) = watch::channel(server_config);
        Ok(CertificateRotator { source, fingerprint, server_config, alpn, transport })
    }

    pub(crate) fn fingerprint(&self) -> watch::Receiver<Fingerprint> {
        self.fingerprint.subscribe()
    }

    pub(crate) fn server_config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server_config.subscribe()
    }

    /// Checks the certificate forever. New connections get the new certificate, open ones keep theirs. A
    /// failure is logged, and the next check tries again.
    pub async fn run(mut self) -> Infallible {
        loop {
            match &mut self.source {
                CurrentSource::Development(file) => {
                    tokio::time::sleep(DEVELOPMENT_INTERVAL).await;
                    match file.renew(SystemTime::now()) {
                        Ok(Some(next)) => self.replace(next),
                        Ok(None) => {}
                        Err(error) => {
                            tracing::warn!(%error, "cannot renew the QUIC certificate, keeping the current one until it expires");
                        }
                    }
                }
                // The endpoints take the certificate from the store itself.
                CurrentSource::Files(store) => {
                    tokio::time::sleep(FILES_INTERVAL).await;
                    let current = fingerprint(store);
                    self.fingerprint.send_if_modified(|known| {
                        let is_new = *known != current;
                        *known = current;
                        is_new
                    });
                }
            }
        }
    }

    fn replace(&self, next: Certificate) {
        let previous = self.fingerprint.borrow().clone();
        let fingerprint = next.fingerprint().with_previous(&previous, SystemTime::now());
        match development_config(next, self.alpn, self.transport.clone()) {
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

fn fingerprint(store: &CertificateStore) -> Fingerprint {
    Fingerprint::new(&store.chain(), store.expires())
}

pub(crate) fn development_config(
    certificate: Certificate,
    alpn: &[&[u8]],
    transport: Arc<TransportConfig>,
) -> Result<Arc<ServerConfig>, BindError> {
    let bad = |error: rustls::Error| BindError::Certificate(error.into());
    let mut tls = rustls::ServerConfig::builder_with_provider(pushonce_tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad)?
        .with_no_client_auth()
        .with_single_cert(certificate.chain, certificate.key)
        .map_err(bad)?;
    tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    server_config(tls, transport)
}

fn files_config(
    store: &CertificateStore,
    tickets: Arc<TicketCipher>,
    alpn: &[&[u8]],
    transport: Arc<TransportConfig>,
) -> Result<Arc<ServerConfig>, BindError> {
    let tls = pushonce_tls::server_config(store, alpn, Some(tickets));
    server_config(tls.map_err(|error| BindError::Certificate(error.into()))?, transport)
}

fn server_config(
    tls: rustls::ServerConfig,
    transport: Arc<TransportConfig>,
) -> Result<Arc<ServerConfig>, BindError> {
    let tls =
        QuicServerConfig::try_from(tls).map_err(|error| BindError::Certificate(error.into()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport);
    Ok(Arc::new(config))
}
