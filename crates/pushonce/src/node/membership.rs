//! The answering side of a join: brings the question to the control leader, and says who listens here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use pushonce_consensus::{AddressBook, LogMark};
use pushonce_control::{AskError, Control, Incarnation, Joined, Joining, Profile, Refusal, Run};
use pushonce_core::{Addresses, Build, ClusterId, ClusterVersion, HostPort, NodeId, VersionRange};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_server::{Membership, MembershipServer};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status};

use super::conflict::ForeignCallers;
use super::host::Hosted;
use super::identity::Identity;
use super::moves;
use super::verdict::cluster_id;

/// What the service is made of.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) identity: Identity,
    pub(super) control: Control,
    /// The nodes that this one has a link to, and this node.
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
    pub(super) hosted: Hosted,
    pub(super) book: AddressBook,
    /// Takes the addresses that callers say they listen at; they are asked before they are used.
    pub(super) callers: mpsc::Sender<HostPort>,
    pub(super) foreign: Arc<ForeignCallers>,
    /// Whether this is a development node, which creates a cluster at every start.
    pub(super) development: bool,
}

impl Door {
    /// To be mounted on the peer port.
    pub(super) fn service(self) -> MembershipServer<Door> {
        MembershipServer::new(self)
    }

    /// Refuses a second process of a node: two that vote under one id would elect two leaders.
    fn running(&self, joining: &Joining) -> Option<pb::JoinRefusal> {
        let node = joining.node.filter(|node| self.reachable.borrow().contains(node))?;
        Some(refusal(
            Kind::Running,
            format!(
                "{node} is running: stop that process first; if it has just died, wait some seconds"
            ),
        ))
    }

    /// What is refused without asking the control group.
    fn refused_here(&self, joining: &Joining, starting: bool) -> Option<pb::JoinRefusal> {
        if let Some(theirs) = joining.cluster.filter(|&theirs| theirs != self.identity.cluster) {
            let why = Refusal::Foreign { theirs, ours: self.identity.cluster };
            return Some(refusal(Kind::OtherCluster, why.to_string()));
        }
        if self.development {
            let why = "it runs with --dev and accepts no members: create a cluster with \
                       `pushonce init`";
            return Some(refusal(Kind::Settings, why.to_owned()));
        }
        if starting { self.running(joining) } else { None }
    }

    fn answer(&self, outcome: Result<Joined, pb::JoinRefusal>) -> pb::JoinResponse {
        let cluster_id = bytes_of(self.identity.cluster);
        match outcome {
            Ok(Joined { node, times, .. }) => pb::JoinResponse {
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
impl Membership for Door {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let request = request.into_inner();
        let starting = request.starting;
        let joining = joining(request)?;
        if let Some(refusal) = self.refused_here(&joining, starting) {
            return Ok(Response::new(self.answer(Err(refusal))));
        }
        let outcome = match self.control.join(joining).await {
            Ok(joined) => Ok(joined),
            Err(AskError::Refused(Refusal::NotFounded)) => {
                return Err(Status::unavailable(Refusal::NotFounded.to_string()));
            }
            Err(AskError::Refused(why)) => Err(refusal(kind(&why), why.to_string())),
            Err(why) => return Err(Status::unavailable(why.to_string())),
        };
        Ok(Response::new(self.answer(outcome)))
    }

    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        let pb::IdentifyRequest { cluster_id: theirs, node_id, peer_address, expected_node } =
            request.into_inner();
        let theirs =
            cluster_id(&theirs).ok_or_else(|| Status::invalid_argument("no cluster id"))?;
        let Identity { cluster, node, .. } = self.identity;
        let mut peers = Vec::new();
        if theirs == cluster {
            let address =
                |(node, address): (NodeId, String)| pb::PeerAddress { node_id: node.0, address };
            peers = self.book.hints().into_iter().map(address).collect();
            if let Ok(caller) = peer_address.parse() {
                // Full means that others are being asked already; the caller repeats itself.
                let _ = self.callers.try_send(caller);
            }
        } else if expected_node != 0 {
            self.foreign.on_call(theirs, NodeId(node_id), Instant::now());
        }
        let cluster_id = bytes_of(cluster);
        Ok(Response::new(pb::IdentifyResponse { cluster_id, node_id: node.0, peers }))
    }

    async fn moves(
        &self,
        _: Request<pb::MovesRequest>,
    ) -> Result<Response<pb::MovesResponse>, Status> {
        Ok(Response::new(moves::answer(moves::local(self.hosted.progress()))))
    }
}

use pb::join_refusal::Kind;

fn refusal(kind: Kind, text: String) -> pb::JoinRefusal {
    pb::JoinRefusal { kind: kind.into(), text }
}

fn kind(why: &Refusal) -> Kind {
    match why {
        why if why.is_final() => Kind::NotMember,
        Refusal::Foreign { .. } => Kind::OtherCluster,
        // Another build may be started here: no reason to end.
        Refusal::Unsupported(_) | Refusal::Unversioned { .. } => Kind::Version,
        _ => Kind::Settings,
    }
}

fn joining(request: pb::JoinRequest) -> Result<Joining, Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("the join request has {what}"));
    let incarnation = id(&request.incarnation).ok_or_else(|| invalid("no incarnation"))?;
    let cluster = match request.cluster_id.is_empty() {
        true => None,
        false => Some(id(&request.cluster_id).ok_or_else(|| invalid("a broken cluster id"))?),
    };
    let addresses = request.addresses.ok_or_else(|| invalid("no addresses"))?;
    let pb::Addresses { peer, grpc, http, quic } = addresses;
    Ok(Joining {
        incarnation: Incarnation(incarnation),
        run: Run { count: request.run, token: request.run_token },
        cluster: cluster.map(ClusterId),
        node: (request.node_id != 0).then_some(NodeId(request.node_id)),
        profile: Profile {
            name: request.name,
            addresses: Addresses { peer, grpc, http, quic },
            region: request.region,
            zone: request.zone,
            roles: request.roles.parse().map_err(|why| invalid(&format!("bad roles: {why}")))?,
            weight: request.weight,
            build: Build {
                release: request.release,
                supported: VersionRange {
                    min: version(request.version_min),
                    max: version(request.version_max),
                },
            },
        },
        times: request.times.map(Into::into),
        log: request.log.map(|pb::LogMark { log, writes }| LogMark { log, writes }),
    })
}

/// A number that is no version is one that nobody supports.
fn version(number: u32) -> ClusterVersion {
    u16::try_from(number).map(ClusterVersion).unwrap_or_default()
}

fn id(bytes: &[u8]) -> Option<u128> {
    bytes.try_into().ok().map(u128::from_be_bytes)
}

pub(super) fn bytes_of(cluster: ClusterId) -> bytes::Bytes {
    cluster.0.to_be_bytes().to_vec().into()
}
