//! How a node comes in: the question, and the door it is asked at.

use std::time::Duration;

use pushonce_control::{AskError, Control, Incarnation, Joining, Profile, Refusal};
use pushonce_core::{Addresses, ClusterId, NodeId};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_client::MembershipClient;
use pushonce_proto::pb::peer::v1::membership_server::{Membership, MembershipServer};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::identity::Identity;

/// Between two rounds through the addresses, when none of them could let us in.
const PAUSE: Duration = Duration::from_millis(300);

/// A node that does not answer within this is not asked any longer in this round.
const PATIENCE: Duration = Duration::from_secs(5);

/// The question at a restart: a cluster that can answer does so in milliseconds, and one that cannot
/// may be waiting for this very node's vote.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(1);

/// Asks the nodes at `addresses`, round after round, until one lets this node in.
///
/// # Errors
/// When the cluster refuses it for good, or `shutdown` comes first.
pub(super) async fn ask(
    addresses: &[String],
    joining: &Joining,
    shutdown: &CancellationToken,
) -> anyhow::Result<Identity> {
    let mut last = String::new();
    loop {
        for address in addresses {
            match ask_one(address, joining).await {
                Ok(identity) => return Ok(identity),
                Err(why) if refused_for_good(why.code()) => {
                    anyhow::bail!("{address} does not let this node join: {}", why.message())
                }
                Err(why) => {
                    let why = format!("cannot join through {address} yet: {}", why.message());
                    // Once for each reason, not three times a second.
                    if why != last {
                        tracing::warn!("{why}; trying again");
                        last = why;
                    }
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => anyhow::bail!("stopped before the cluster let it in"),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Asks once whether the cluster at `addresses` is the one that this node's directory belongs to.
/// Nobody there is no objection: the others may start later.
///
/// # Errors
/// When one of them knows that it is not.
pub(super) async fn confirm(addresses: &[String], joining: &Joining) -> anyhow::Result<()> {
    let until = Instant::now() + CONFIRM_PATIENCE;
    for address in addresses {
        let Ok(answer) = timeout_at(until, ask_one(address, joining)).await else { break };
        match answer {
            Ok(_) => return Ok(()),
            Err(why) if refused_for_good(why.code()) => {
                anyhow::bail!("{address} does not take this node back: {}", why.message())
            }
            Err(_) => {}
        }
    }
    Ok(())
}

async fn ask_one(address: &str, joining: &Joining) -> Result<Identity, Status> {
    let unreachable = |why: &dyn std::fmt::Display| Status::unavailable(why.to_string());
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|why| Status::invalid_argument(format!("{address} is no HOST:PORT: {why}")))?
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE);
    let channel = endpoint.connect().await.map_err(|why| unreachable(&why))?;
    let answer = MembershipClient::new(channel).join(request(joining)).await?.into_inner();
    let cluster = id(&answer.cluster_id).ok_or_else(|| unreachable(&"it sent no cluster id"))?;
    Ok(Identity { cluster: ClusterId(cluster), node: NodeId(answer.node_id), founding: false })
}

fn refused_for_good(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::AlreadyExists | Code::InvalidArgument)
}

fn request(joining: &Joining) -> pb::JoinRequest {
    let Profile { name, addresses, region, zone, roles, weight } = joining.profile.clone();
    let Addresses { peer, grpc, http, quic } = addresses;
    pb::JoinRequest {
        incarnation: joining.incarnation.0.to_be_bytes().to_vec().into(),
        cluster_id: joining.cluster.map(bytes_of).unwrap_or_default(),
        node_id: joining.node.map_or(0, |node| node.0),
        name,
        addresses: Some(pb::Addresses { peer, grpc, http, quic }),
        region,
        zone,
        roles: roles.to_string(),
        weight,
    }
}

/// The door: brings the question to the control leader.
pub(super) struct Door(pub(super) Control);

impl Door {
    /// To be mounted on the peer port.
    pub(super) fn service(control: Control) -> MembershipServer<Door> {
        MembershipServer::new(Door(control))
    }
}

#[tonic::async_trait]
impl Membership for Door {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        let joining = joining(request.into_inner())?;
        let joined = self.0.join(joining).await.map_err(status)?;
        Ok(Response::new(pb::JoinResponse {
            cluster_id: bytes_of(joined.cluster),
            node_id: joined.node.0,
        }))
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
        cluster: cluster.map(ClusterId),
        node: (request.node_id != 0).then_some(NodeId(request.node_id)),
        profile: Profile {
            name: request.name,
            addresses: Addresses { peer, grpc, http, quic },
            region: request.region,
            zone: request.zone,
            roles: request.roles.parse().map_err(|why| invalid(&format!("bad roles: {why}")))?,
            weight: request.weight,
        },
    })
}

fn status(why: AskError) -> Status {
    let text = why.to_string();
    match why {
        AskError::Refused(Refusal::NotFounded) => Status::unavailable(text),
        AskError::Refused(Refusal::NameTaken { .. }) => Status::already_exists(text),
        AskError::Refused(_) => Status::failed_precondition(text),
        _ => Status::unavailable(text),
    }
}

fn id(bytes: &[u8]) -> Option<u128> {
    bytes.try_into().ok().map(u128::from_be_bytes)
}

fn bytes_of(cluster: ClusterId) -> bytes::Bytes {
    cluster.0.to_be_bytes().to_vec().into()
}
