//! Keeps the certificate of this node usable: reads changed files, and renews the certificate of a node that
//! joined with a token.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use pushonce_ca::{CertificateInfo, CertificateRequest};
use pushonce_core::NodeId;
use pushonce_peer::{MutualTls, PeerTransport, Reload};
use pushonce_proto::pb::peer::v1::RenewCertificateRequest;
use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::peer_credentials;

/// Interval of the checks. Network file systems and the links that Kubernetes swaps report no changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Timeout of a request to renew the certificate.
const RENEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Time before the expiry from which each day has a warning, if the certificate lives so long.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// Time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(86_400);

/// The loop and its inputs.
pub(super) struct CertificateUpkeep {
    pub(super) tls: MutualTls,
    /// For a node that renews its certificate itself.
    pub(super) renewal: Option<Renewal>,
}

/// Renews the certificate in the data directory.
pub(super) struct Renewal {
    pub(super) data: PathBuf,
    pub(super) transport: PeerTransport,
    /// The nodes that this node has a link to, and this node.
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
}

impl CertificateUpkeep {
    /// Checks at an interval, and whenever `reload` changes. Never returns.
    pub(super) async fn run(self, mut reload: watch::Receiver<()>) {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut warned_at = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = reload.changed() => {}
            }
            let now = SystemTime::now();
            self.reload(now);
            let certificate = self.tls.certificate();
            match &self.renewal {
                Some(renewal) if is_renewal_due(&certificate, now) => {
                    self.renew(renewal, now).await;
                }
                None if is_warning_due(&certificate, now, warned_at) => {
                    warned_at = Some(now);
                    let expires = humantime::format_rfc3339_seconds(certificate.not_after);
                    tracing::warn!(%expires, "the certificate of --peer-cert expires soon: renew it");
                }
                _ => {}
            }
        }
    }

    /// Bad files change nothing: the ones that were read before stay in use.
    fn reload(&self, now: SystemTime) {
        static LIMITER: LogLimiter = LogLimiter::new();
        match self.tls.reload(now) {
            Ok(Reload::Unchanged) => {}
            Ok(Reload::Replaced(certificate)) => {
                let expires = humantime::format_rfc3339_seconds(certificate.not_after);
                tracing::info!(target: "audit", %expires, fingerprint = %certificate.fingerprint,
                    "the certificate for connections between nodes is replaced");
            }
            Err(error) => {
                if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                    tracing::error!(%error, suppressed,
                        "cannot use the new certificate for connections between nodes, keeping the old one");
                }
            }
        }
    }

    async fn renew(&self, renewal: &Renewal, now: SystemTime) {
        static LIMITER: LogLimiter = LogLimiter::new();
        match renewal.renew(&self.tls, now).await {
            Ok(()) => self.reload(now),
            Err(error) => {
                if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                    let expires =
                        humantime::format_rfc3339_seconds(self.tls.certificate().not_after);
                    tracing::warn!(error = %format!("{error:#}"), %expires, suppressed,
                        "cannot renew the certificate of this node, retrying");
                }
            }
        }
    }
}

impl Renewal {
    /// Asks one member after another for a certificate of a new key.
    async fn renew(&self, tls: &MutualTls, now: SystemTime) -> anyhow::Result<()> {
        let request = CertificateRequest::generate()?;
        let mut last_error = anyhow::anyhow!("no other node is reachable");
        let peers = self.reachable.borrow().clone();
        for peer in peers.into_iter().filter(|&peer| peer != tls.node().node) {
            match self.request_certificate(peer, tls, &request, now).await {
                Ok(()) => return Ok(()),
                Err(error) => last_error = error.context(format!("{peer} issues no certificate")),
            }
        }
        Err(last_error)
    }

    async fn request_certificate(
        &self,
        peer: NodeId,
        tls: &MutualTls,
        request: &CertificateRequest,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        let message =
            RenewCertificateRequest { certificate_request: request.request.clone().into() };
        let mut client = MembershipServiceClient::new(self.transport.data_channel(peer)?);
        let call = client.renew_certificate(message);
        let (_, response) = self.transport.check_response(peer, RENEW_TIMEOUT, call).await?;
        let issued =
            response.into_inner().certificate.context("the response has no certificate")?;
        peer_credentials::store(&self.data, tls.node(), &request.key, &issued, now)?;
        Ok(())
    }
}

/// Whether two thirds of the validity have passed: then a third is left in which to find a node that renews it.
fn is_renewal_due(certificate: &CertificateInfo, now: SystemTime) -> bool {
    let validity = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    certificate.not_before + validity * 2 / 3 <= now
}

fn is_warning_due(
    certificate: &CertificateInfo,
    now: SystemTime,
    warned_at: Option<SystemTime>,
) -> bool {
    let is_soon = is_renewal_due(certificate, now) && certificate.not_after <= now + WARN_BEFORE;
    is_soon && warned_at.is_none_or(|at| at + WARN_INTERVAL <= now)
}

#[cfg(test)]
mod tests {
    use pushonce_ca::{CertificateAuthority, CertificateInfo};
    use pushonce_core::{ClusterId, SpiffeId};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn certificate(days: u32, now: SystemTime) -> CertificateInfo {
        let (authority, _) = CertificateAuthority::generate(ClusterId(7), now).expect("made");
        let node = SpiffeId { cluster: ClusterId(7), node: NodeId(2) };
        let issued = authority.issue(node, &[], days * DAY, now).expect("issued");
        CertificateInfo::parse_pem(&issued.certificate).expect("valid").remove(0).1
    }

    #[test]
    fn certificate_is_renewed_after_two_thirds_of_its_validity() {
        let now = SystemTime::now();
        let certificate = certificate(90, now);
        assert!(!is_renewal_due(&certificate, now + 59 * DAY));
        assert!(is_renewal_due(&certificate, now + 60 * DAY));
        assert!(is_renewal_due(&certificate, now + 100 * DAY));
    }

    #[test]
    fn operator_is_warned_once_a_day_before_a_certificate_expires() {
        let now = SystemTime::now();
        let long = certificate(90, now);
        assert!(!is_warning_due(&long, now + 70 * DAY, None));
        let soon = now + 77 * DAY;
        assert!(is_warning_due(&long, soon, None));
        assert!(!is_warning_due(&long, soon + DAY / 2, Some(soon)));
        assert!(is_warning_due(&long, soon + DAY, Some(soon)));
        assert!(!is_warning_due(&certificate(3, now), now + DAY, None), "it is renewed each day");
    }
}
