//! The responding side of a join: forwards requests to the control leader, and identifies this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use pushonce_control::{CommandError, CommandRejection, ControlHandle, JoinCommand, JoinReply};
use pushonce_core::{HostPort, NodeId};
use pushonce_peer::PeerTransport;
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_server::{self, MembershipServiceServer};
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Request, Response, Status};

use super::address_conflict::ForeignCallers;
use super::call_limits::CallLimits;
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
        let address = request.remote_addr().map(|address| address.ip());
        match self.call_limits.allow(address, Instant::now()) {
            true => Ok(()),
            false => Err(too_many(call)),
        }
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

    fn join_response(&self, outcome: Result<JoinReply, pb::JoinRefusal>) -> pb::JoinResponse {
        let cluster_id = cluster_id_bytes(self.identity.cluster);
        match outcome {
            Ok(JoinReply { node, times, .. }) => pb::JoinResponse {
                cluster_id,
                node_id: node.0,
                times: Some(times.into()),
                refusal: None,
            },
            Err(refusal) => {
                pb::JoinResponse { cluster_id, node_id: 0, times: None, refusal: Some(refusal) }
            }
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
        let request = request.into_inner();
        let starting = request.starting;
        let parsed = join_request::decode(request)?;
        if let Some(refusal) = self.local_refusal(&parsed, starting) {
            return Ok(Response::new(self.join_response(Err(refusal))));
        }
        let outcome = match self.control.join(parsed).await {
            Ok(joined) => Ok(joined),
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
        let pb::IdentifyRequest {
            cluster_id: caller_cluster_id,
            node_id,
            peer_address,
            expected_node,
        } = request.into_inner();
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
            self.foreign_callers.on_call(caller_cluster, NodeId(node_id), Instant::now());
        }
        let cluster_id = cluster_id_bytes(cluster);
        Ok(Response::new(pb::IdentifyResponse { cluster_id, node_id: node.0, peers }))
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

fn too_many(call: &'static str) -> Status {
    PEER_CALLS_REJECTED.register_counter(&[call]).increment(1);
    Status::resource_exhausted("too many calls: retry after a second, or call another node")
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
