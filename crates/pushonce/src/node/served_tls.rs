//! The TLS of the ports for clients: one certificate, and session tickets that all nodes of the cluster accept.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pushonce_control::ControlHandle;
use pushonce_core::{ClusterView, TicketKey, Timestamp};
use pushonce_gateway::HttpsConfig;
use pushonce_quic::CertificateSource;
use pushonce_quic::certificate::load_or_generate;
use pushonce_tls::{CertificateFiles, CertificateStore, ServerConfig, TicketCipher, server_config};
use tokio::sync::watch::Receiver;

/// The certificate and the cipher of session tickets.
pub(crate) struct ServedTls {
    certificates: CertificateStore,
    tickets: Arc<TicketCipher>,
}

impl ServedTls {
    /// Loads the certificate.
    ///
    /// # Errors
    /// When the certificate cannot be used; the error says why.
    pub(crate) fn load(files: CertificateFiles) -> anyhow::Result<ServedTls> {
        let certificates = CertificateStore::load("tls-cert", files, SystemTime::now())
            .context("cannot use --tls-cert and --tls-key")?;
        Ok(ServedTls { certificates, tickets: Arc::new(TicketCipher::new()?) })
    }

    /// The listener of HTTP and WebSocket.
    pub(super) fn https(&self, address: SocketAddr) -> anyhow::Result<HttpsConfig> {
        let tls = server_config(&self.certificates, &[], Some(self.tickets.clone()))?;
        Ok(HttpsConfig { address, tls })
    }

    /// The settings of the gRPC port. Its clients connect once: they get no tickets.
    pub(super) fn grpc(&self) -> anyhow::Result<Arc<ServerConfig>> {
        Ok(Arc::new(server_config(&self.certificates, &[b"h2"], None)?))
    }

    /// Reads the certificate again when it changes, uses the ticket keys of the cluster, and rotates them while this
    /// node leads the control group. Never returns.
    pub(super) async fn run(
        self,
        control: ControlHandle,
        views: Receiver<Arc<ClusterView>>,
        reload: Receiver<()>,
    ) {
        let reloading = self.certificates.run(reload);
        let rotating = control.rotate_ticket_keys(now, || TicketKey(rand::random()));
        tokio::join!(reloading, rotating, follow_ticket_keys(&self.tickets, views));
    }
}

/// The certificate of the QUIC port: without files that of a development node, which it stores in `directory`.
pub(super) fn quic_certificate(
    tls: Option<&ServedTls>,
    directory: &Path,
) -> anyhow::Result<CertificateSource> {
    Ok(match tls {
        Some(ServedTls { certificates, tickets }) => {
            CertificateSource::Files(certificates.clone(), tickets.clone())
        }
        None => CertificateSource::Development(load_or_generate(directory, SystemTime::now())?),
    })
}

/// Uses the ticket keys of each new view.
async fn follow_ticket_keys(tickets: &TicketCipher, mut views: Receiver<Arc<ClusterView>>) {
    let mut known = None;
    loop {
        let keys = views.borrow_and_update().ticket_keys.clone();
        if let Some(keys) = keys.filter(|keys| known.as_ref() != Some(keys)) {
            if let Err(error) = tickets.set_keys(&keys) {
                tracing::error!(%error, "cannot use the ticket keys of the cluster");
            }
            known = Some(keys);
        }
        if views.changed().await.is_err() {
            // The sender is gone: the node is about to shut down.
            std::future::pending::<()>().await;
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
