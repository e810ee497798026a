//! The responding side of a join: forwards requests to the control leader, and identifies this node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pushonce_ca::JoinToken;
use pushonce_control::{
    CommandError, CommandRejection, ControlHandle, JoinCommand, JoinCredential, JoinReply,
};
use pushonce_core::{ClusterView, HostPort, JoinTokenHash, NodeId, SpiffeId, Timestamp};
use pushonce_peer::{Credentials, PeerInfo, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_server::{self, MembershipServiceServer};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::address_conflict::ForeignCallers;
use super::call_limits::CallLimits;
use super::certificate_issuer::CertificateIssuer;
use super::identity::Identity;
use super::join_outcome::parse_cluster_id;
use super::join_request::{self, cluster_id_bytes};
use super::replica_supervisor::LocalReplicas;
use super::shard_progress;
use crate::metrics::PEER_CALLS_REJECTED;

/// The membership service of a node.
#[derive(Clone)]
pub(super) struct MembershipService {
    pub(super) identity: Identity,
    pub(super) control: ControlHandle,
    /// The nodes that this node has a link to, and this node.
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
    pub(super) hosted: LocalReplicas,
    pub(super) transport: PeerTransport,
    /// Receives the addresses at which callers say they listen; they are checked before they are used.
    pub(super) caller_addresses: mpsc::Sender<HostPort>,
    pub(super) foreign_callers: Arc<ForeignCallers>,
    /// Bounds the calls of nodes that have no link.
    pub(super) call_limits: Arc<CallLimits>,
    /// Permits of joins in progress.
    pub(super) join_permits: Arc<Semaphore>,
    /// Whether this is a development node, which creates a new cluster at every start.
    pub(super) development: bool,
    /// Certifies nodes that join with a token, if this node has the key of the authority.
    pub(super) issuer: Option<CertificateIssuer>,
}

/// Maximum joins in progress at this node. Each waits up to ten seconds for the control group.
pub(super) const JOINS_MAX: usize = 64;

/// Maximum size of a request. A join has names and labels of 64 bytes and addresses of 260.
const REQUEST_BYTES_MAX: usize = 16 << 10;

impl MembershipService {
    /// The gRPC service for the peer port.
    pub(super) fn service(self) -> MembershipServiceServer<MembershipService> {
        MembershipServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    /// Rejects a call of an address that calls too often. The caller asks again later, or another node.
    fn check_rate<T>(&self, request: &Request<T>, call: &'static str) -> Result<(), Status> {
        match self.call_limits.allow(caller_host(request), Instant::now()) {
            true => Ok(()),
            false => Err(too_many(call)),
        }
    }

    /// A request of a node that is the one that it claims to be, as far as its certificate says.
    fn certified_request(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<pb::IdentifyRequest, Status> {
        let claimed = NodeId(request.get_ref().node_id);
        let checked = self.transport.check_certificate(&request, claimed);
        checked.map_err(|error| self.transport.reject(&error))?;
        Ok(request.into_inner())
    }

    fn issuer(&self) -> Result<&CertificateIssuer, Status> {
        let missing = "this node issues no certificates: ask a node that has --peer-ca-key";
        self.issuer.as_ref().ok_or_else(|| Status::unavailable(missing))
    }

    /// Rejects a second process of a node: two processes that vote under one id could elect two leaders.
    fn already_running_refusal(&self, joining: &JoinCommand) -> Option<pb::JoinRefusal> {
        let node = joining.node.filter(|node| self.reachable.borrow().contains(node))?;
        Some(join_refusal(
            Kind::Running,
            format!(
                "{node} is running: stop that process first; if it has just died, retry after some seconds"
            ),
        ))
    }

    /// The rejections that need no decision of the control group.
    fn local_refusal(&self, joining: &JoinCommand, starting: bool) -> Option<pb::JoinRefusal> {
        if let Some(other_cluster) =
            joining.cluster.filter(|&theirs| theirs != self.identity.cluster)
        {
            let rejection = CommandRejection::OtherCluster {
                directory_cluster: other_cluster,
                cluster: self.identity.cluster,
            };
            return Some(join_refusal(Kind::OtherCluster, rejection.to_string()));
        }
        if self.development {
            let reason = "it runs with --dev and accepts no members: create a cluster with \
                       `pushonce init`";
            return Some(join_refusal(Kind::Settings, reason.to_owned()));
        }
        if starting { self.already_running_refusal(joining) } else { None }
    }

    fn join_response(
        &self,
        outcome: Result<(JoinReply, Option<pb::NodeCertificate>), pb::JoinRefusal>,
    ) -> pb::JoinResponse {
        let cluster_id = cluster_id_bytes(self.identity.cluster);
        match outcome {
            Ok((JoinReply { node, times, .. }, certificate)) => pb::JoinResponse {
                cluster_id,
                node_id: node.0,
                times: Some(times.into()),
                refusal: None,
                certificate,
            },
            Err(refusal) => {
                pb::JoinResponse { cluster_id, refusal: Some(refusal), ..Default::default() }
            }
        }
    }

    /// Checks how a node proves that it may join.
    async fn join_credential(
        &self,
        certified: Option<SpiffeId>,
        joining: &JoinCommand,
        secret: &[u8],
    ) -> Result<JoinCredential, pb::JoinRefusal> {
        let is_secured = matches!(self.transport.credentials(), Credentials::MutualTls(_));
        let now = unix_time(SystemTime::now());
        let credential = join_credential(is_secured, certified, joining, secret, now)
            .map_err(|error| join_refusal(Kind::Settings, error.to_string()))?;
        if let JoinCredential::Token { hash, now } = credential {
            self.check_token_is_known(hash, now)
                .await
                .map_err(|error| join_refusal(Kind::Settings, error.to_string()))?;
        }
        Ok(credential)
    }

    /// Rejects a token that the control group would reject, so that a stranger causes no entries of its log. A
    /// token that was just made may not have arrived here.
    async fn check_token_is_known(
        &self,
        hash: JoinTokenHash,
        now: Timestamp,
    ) -> Result<(), CommandRejection> {
        let mut views = self.control.view();
        let token = |view: &Option<Arc<ClusterView>>| {
            view.as_ref().and_then(|view| view.join_tokens.get(&hash.id()).copied())
        };
        let known = timeout(TOKEN_TIMEOUT, views.wait_for(|view| token(view).is_some())).await;
        let known = known.ok().and_then(Result::ok).and_then(|view| token(&view));
        match known {
            None => Err(CommandRejection::UnknownJoinToken),
            Some(status) if status.expires <= now => Err(CommandRejection::JoinTokenExpired),
            Some(_) => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl membership_service_server::MembershipService for MembershipService {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        self.check_rate(&request, "join")?;
        let _permit = self.join_permits.try_acquire().map_err(|_| too_many("join"))?;
        let certified = self.transport.certified_node(&request);
        let request = request.into_inner();
        let (starting, secret) = (request.starting, request.join_secret.clone());
        let certificate_request = request.certificate_request.clone();
        let mut parsed = join_request::decode(request)?;
        if let Some(refusal) = self.local_refusal(&parsed, starting) {
            return Ok(Response::new(self.join_response(Err(refusal))));
        }
        match self.join_credential(certified, &parsed, &secret).await {
            Ok(credential) => parsed.credential = credential,
            Err(refusal) => return Ok(Response::new(self.join_response(Err(refusal)))),
        }
        let (credential, is_new) = (parsed.credential, parsed.node.is_none());
        let address = parsed.profile.addresses.peer.clone();
        let outcome = match self.control.join(parsed).await {
            Ok(joined) => {
                if is_new {
                    tracing::info!(target: "audit", node = %joined.node, address,
                        credential = credential_name(credential), "admitted a node");
                }
                let certificate = match credential {
                    JoinCredential::Token { .. } => {
                        Some(self.issuer()?.issue(&certificate_request, joined.node, &address)?)
                    }
                    _ => None,
                };
                Ok((joined, certificate))
            }
            // The node asks again.
            Err(CommandError::Rejected(
                rejection @ (CommandRejection::NotBootstrapped
                | CommandRejection::TooManyJoining { .. }),
            )) => return Err(Status::unavailable(rejection.to_string())),
            Err(CommandError::Rejected(rejection)) => {
                Err(join_refusal(refusal_kind(&rejection), rejection.to_string()))
            }
            Err(error) => return Err(Status::unavailable(error.to_string())),
        };
        Ok(Response::new(self.join_response(outcome)))
    }

    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        self.check_rate(&request, "identify")?;
        let host = caller_host(&request);
        let pb::IdentifyRequest {
            cluster_id: caller_cluster_id,
            node_id,
            peer_address,
            expected_node,
        } = self.certified_request(request)?;
        let caller_cluster = parse_cluster_id(&caller_cluster_id)
            .ok_or_else(|| Status::invalid_argument("the request has no valid cluster id"))?;
        let Identity { cluster, node, .. } = self.identity;
        let mut peers = Vec::new();
        if caller_cluster == cluster {
            let to_peer_address =
                |(node, address): (NodeId, String)| pb::PeerAddress { node_id: node.0, address };
            peers = self.transport.addresses().hints().into_iter().map(to_peer_address).collect();
            if let Ok(caller) = peer_address.parse() {
                // A full queue means that other addresses are being checked; the caller announces itself again.
                let _ = self.caller_addresses.try_send(caller);
            }
        } else if expected_node != 0 {
            self.foreign_callers.on_call(caller_cluster, NodeId(node_id), host, Instant::now());
        }
        let cluster_id = cluster_id_bytes(cluster);
        Ok(Response::new(pb::IdentifyResponse { cluster_id, node_id: node.0, peers }))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let accepted = self.transport.accept(&request);
        let peer = accepted.map_err(|error| self.transport.reject(&error))?;
        let issuer = self.issuer()?;
        let address = self.transport.addresses().get(peer.node);
        let address =
            address.ok_or_else(|| Status::unavailable("the caller is no known member"))?;
        let request = request.into_inner().certificate_request;
        let certificate = Some(issuer.issue(&request, peer.node, &address)?);
        Ok(self.transport.respond(peer, pb::RenewCertificateResponse { certificate }))
    }

    async fn moves(
        &self,
        request: Request<pb::MovesRequest>,
    ) -> Result<Response<pb::MovesResponse>, Status> {
        let accepted = self.transport.accept(&request);
        let peer = accepted.map_err(|error| self.transport.reject(&error))?;
        let progress = shard_progress::local_progress(self.hosted.progress());
        Ok(self.transport.respond(peer, shard_progress::to_response(progress)))
    }
}

/// The address from which a call came.
fn caller_host<T>(request: &Request<T>) -> Option<IpAddr> {
    let info = request.extensions().get::<PeerInfo>().copied().unwrap_or_default();
    info.address.map(|address| address.ip())
}

fn too_many(call: &'static str) -> Status {
    PEER_CALLS_REJECTED.register_counter(&[call]).increment(1);
    Status::resource_exhausted("too many calls: retry after a second, or call another node")
}

/// Time for which a node waits for a token that another node has just made.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node that asks to join has not proved that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum JoinProofError {
    #[error(
        "a node joins with a certificate (--peer-cert, --peer-key, --peer-ca) or with a join token \
         (--join-token-file or PUSHONCE_JOIN_TOKEN)"
    )]
    Missing,
    #[error("the data directory belongs to {directory}, which must present its certificate")]
    MemberWithoutCertificate { directory: NodeId },
    #[error("the data directory belongs to {directory}, and the certificate to {certificate}")]
    OtherNode { directory: NodeId, certificate: NodeId },
}

/// How a node proves that it may join. Pure.
fn join_credential(
    is_secured: bool,
    certified: Option<SpiffeId>,
    joining: &JoinCommand,
    secret: &[u8],
    now: Timestamp,
) -> Result<JoinCredential, JoinProofError> {
    if !is_secured {
        return Ok(JoinCredential::None);
    }
    match (certified.map(|id| id.node), joining.node) {
        (Some(certificate), Some(directory)) if certificate != directory => {
            Err(JoinProofError::OtherNode { directory, certificate })
        }
        (Some(certificate), _) => Ok(JoinCredential::Certificate(certificate)),
        (None, Some(directory)) => Err(JoinProofError::MemberWithoutCertificate { directory }),
        (None, None) if secret.is_empty() => Err(JoinProofError::Missing),
        (None, None) => Ok(JoinCredential::Token { hash: JoinToken::hash(secret), now }),
    }
}

/// A time of the system's clock.
pub(super) fn unix_time(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The name of a credential in the audit log.
fn credential_name(credential: JoinCredential) -> &'static str {
    match credential {
        JoinCredential::None => "none",
        JoinCredential::Certificate(_) => "certificate",
        JoinCredential::Token { .. } => "token",
    }
}

use pb::join_refusal::Kind;

fn join_refusal(kind: Kind, text: String) -> pb::JoinRefusal {
    pb::JoinRefusal { kind: kind.into(), text }
}

fn refusal_kind(rejection: &CommandRejection) -> Kind {
    match rejection {
        rejection if rejection.is_final() => Kind::NotMember,
        CommandRejection::OtherCluster { .. } => Kind::OtherCluster,
        // Another build may be started here, so the node does not end.
        CommandRejection::Unsupported(_) | CommandRejection::NoVersionAnnounced { .. } => {
            Kind::Version
        }
        _ => Kind::Settings,
    }
}

#[cfg(test)]
mod tests {
    use pushonce_control::{Incarnation, ProcessRun, Profile};
    use pushonce_core::{Addresses, BuildInfo, ClusterId, Roles};

    use super::*;

    const NOW: Timestamp = Timestamp(5);

    fn joining(node: Option<u64>) -> JoinCommand {
        JoinCommand {
            incarnation: Incarnation(1),
            run: ProcessRun::default(),
            cluster: None,
            node: node.map(NodeId),
            profile: Profile {
                name: "a".to_owned(),
                addresses: Addresses::default(),
                region: String::new(),
                zone: String::new(),
                roles: Roles::default(),
                weight: 1,
                build: BuildInfo::default(),
            },
            times: None,
            log: None,
            credential: JoinCredential::None,
        }
    }

    fn certified(node: u64) -> Option<SpiffeId> {
        Some(SpiffeId { cluster: ClusterId(7), node: NodeId(node) })
    }

    #[test]
    fn join_needs_a_certificate_or_a_token_where_nodes_authenticate_each_other() {
        let check = |certified, node, secret: &[u8]| {
            join_credential(true, certified, &joining(node), secret, NOW)
        };
        assert_eq!(check(certified(3), None, b""), Ok(JoinCredential::Certificate(NodeId(3))));
        assert_eq!(check(certified(3), Some(3), b""), Ok(JoinCredential::Certificate(NodeId(3))));
        let (directory, certificate) = (NodeId(2), NodeId(3));
        let other = JoinProofError::OtherNode { directory, certificate };
        assert_eq!(check(certified(3), Some(2), b"secret"), Err(other));
        assert_eq!(check(None, None, b""), Err(JoinProofError::Missing));
        let hash = JoinToken::hash(b"secret");
        assert_eq!(check(None, None, b"secret"), Ok(JoinCredential::Token { hash, now: NOW }));
        let member = JoinProofError::MemberWithoutCertificate { directory };
        assert_eq!(check(None, Some(2), b"secret"), Err(member), "a token gives no other's id");
    }

    #[test]
    fn join_needs_nothing_without_tls() {
        for node in [None, Some(2)] {
            let credential = join_credential(false, None, &joining(node), b"", NOW);
            assert_eq!(credential, Ok(JoinCredential::None));
        }
    }
}
