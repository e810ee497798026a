//! Certifies the keys of nodes that joined with a token.

use std::time::{Duration, SystemTime};

use pushonce_ca::CaError;
use pushonce_core::{HostPort, NodeId, SpiffeId};
use pushonce_peer::MutualTls;
use pushonce_proto::pb::peer::v1 as pb;
use tonic::Status;

use super::peer_credentials::SigningAuthority;

/// Validity of the certificates: as `pushonce ca issue` makes them.
const VALIDITY: Duration = Duration::from_secs(90 * 86_400);

/// Issues certificates with the authority of this node.
#[derive(Clone, Debug)]
pub(super) struct CertificateIssuer {
    pub(super) tls: MutualTls,
    pub(super) authority: SigningAuthority,
}

impl CertificateIssuer {
    /// Certifies the key of a request for a node of this cluster, which is dialled at `address`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a malformed request; `UNAVAILABLE` when the authority cannot be read.
    pub(super) fn issue(
        &self,
        request: &[u8],
        node: NodeId,
        address: &str,
    ) -> Result<pb::NodeCertificate, Status> {
        let authority = self.authority.load().map_err(|error| {
            tracing::error!(error = %format!("{error:#}"), "cannot certify a node");
            Status::unavailable("this node cannot read its --peer-ca-key")
        })?;
        let node = SpiffeId { cluster: self.tls.node().cluster, node };
        let hosts: Vec<String> = host_of(address).into_iter().collect();
        let signed = authority.sign(request, node, &hosts, VALIDITY, SystemTime::now());
        let certificate = signed.map_err(|error| match error {
            CaError::InvalidRequest(_) => Status::invalid_argument(error.to_string()),
            error => {
                tracing::error!(%error, %node, "cannot certify a node");
                Status::unavailable(error.to_string())
            }
        })?;
        tracing::info!(target: "audit", %node, "certified the key of a node");
        let authorities = self.tls.authorities().iter().map(|der| der.to_vec().into()).collect();
        Ok(pb::NodeCertificate { certificate: certificate.to_vec().into(), authorities })
    }
}

/// The host of an address, without the brackets of IPv6.
fn host_of(address: &str) -> Option<String> {
    let address: HostPort = address.parse().ok()?;
    let host = address.host();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Some(bare.unwrap_or(host).to_owned())
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn host_is_a_name_of_a_certificate() {
        assert_eq!(host_of("[::1]:7091").as_deref(), Some("::1"));
        assert_eq!(host_of("n3.example:7091").as_deref(), Some("n3.example"));
        assert_eq!(host_of("n3.example"), None);
    }
}
