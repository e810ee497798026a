//! How a node comes in: the question, and the door it is asked at.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pushonce_consensus::LogMark;
use pushonce_control::{AskError, Control, Incarnation, Joining, Profile, Refusal, Run};
use pushonce_core::{
    Addresses, Build, ClusterId, ClusterTimes, ClusterVersion, NodeId, VersionRange,
};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_client::MembershipClient;
use pushonce_proto::pb::peer::v1::membership_server::{Membership, MembershipServer};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::host::Hosted;
use super::identity::Identity;
use super::moves;

/// Between two rounds through the addresses, when none of them could let us in.
const PAUSE: Duration = Duration::from_millis(300);

/// A node that does not answer within this is not asked any longer in this round.
const PATIENCE: Duration = Duration::from_secs(5);

/// The question at a restart: a cluster that can answer does so in milliseconds, and one that cannot
/// may be waiting for this very node's vote.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(1);

/// A link to the process before this one, when that lost its power, is given up within this.
const LINK_PATIENCE: Duration = Duration::from_secs(15);

/// How many are asked at once whether they know this node: one that lives is enough.
const ASKED_MAX: usize = 8;

/// The cluster does not take the directory, now and for ever: the node ends with a code of its own,
/// so that nobody starts it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Expelled(pub(crate) String);

/// A question, as far as it was answered.
enum Told {
    /// The cluster knows this process as its member.
    Taken,
    /// A process of this node runs, it seems.
    RunsAlready(String),
    /// Nobody could say.
    Nothing,
}

/// Asks the nodes at `addresses`, round after round, until one lets this node in.
///
/// # Errors
/// When the cluster refuses it for good, or `shutdown` comes first.
pub(super) async fn ask(
    addresses: &[String],
    joining: &Joining,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Identity, ClusterTimes)> {
    let mut last = String::new();
    loop {
        for address in addresses {
            match ask_one(address, joining, true).await {
                Ok(joined) => return Ok(joined),
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

/// Asks, before anything of the directory is used, whether the cluster at `addresses` still has this
/// node. Nobody there is no objection: the others may start later.
///
/// # Errors
/// When one of them knows that it has not, or sees another process run as this node.
pub(super) async fn confirm(addresses: &[String], joining: &Joining) -> anyhow::Result<()> {
    let until = Instant::now() + LINK_PATIENCE;
    loop {
        match remind(addresses, joining, true).await? {
            Told::RunsAlready(why) if Instant::now() >= until => anyhow::bail!(why),
            Told::RunsAlready(_) => tokio::time::sleep(PAUSE).await,
            Told::Taken | Told::Nothing => return Ok(()),
        }
    }
}

/// Asks at the doors of `addresses` whether the cluster still has this node, for one that hears
/// nothing of it any more.
///
/// # Errors
/// When one of them knows that it has not.
pub(super) async fn still_in(addresses: &[String], joining: &Joining) -> anyhow::Result<()> {
    remind(addresses, joining, false).await.map(drop)
}

async fn remind(addresses: &[String], joining: &Joining, starting: bool) -> anyhow::Result<Told> {
    let until = Instant::now() + CONFIRM_PATIENCE;
    let asked = addresses.iter().take(ASKED_MAX);
    let mut answers: FuturesUnordered<_> =
        asked.map(async |address| (address, ask_one(address, joining, starting).await)).collect();
    while let Ok(Some((address, answer))) = timeout_at(until, answers.next()).await {
        match answer {
            Ok(_) => return Ok(Told::Taken),
            Err(why) => {
                let said = format!("{address} does not take this node back: {}", why.message());
                match why.code() {
                    Code::FailedPrecondition => return Err(Expelled(said).into()),
                    code if refused_for_good(code) => anyhow::bail!(said),
                    Code::Aborted => return Ok(Told::RunsAlready(said)),
                    _ => {}
                }
            }
        }
    }
    Ok(Told::Nothing)
}

async fn ask_one(
    address: &str,
    joining: &Joining,
    starting: bool,
) -> Result<(Identity, ClusterTimes), Status> {
    let unreachable = |why: &dyn std::fmt::Display| Status::unavailable(why.to_string());
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|why| Status::invalid_argument(format!("{address} is no HOST:PORT: {why}")))?
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE);
    let channel = endpoint.connect().await.map_err(|why| unreachable(&why))?;
    let answer =
        MembershipClient::new(channel).join(request(joining, starting)).await?.into_inner();
    let cluster = id(&answer.cluster_id).ok_or_else(|| unreachable(&"it sent no cluster id"))?;
    let times = answer.times.ok_or_else(|| unreachable(&"it sent no times"))?;
    let times = ClusterTimes::try_from(times).map_err(|why| unreachable(&why))?;
    let node = NodeId(answer.node_id);
    Ok((Identity { cluster: ClusterId(cluster), node, bootstrap: None }, times))
}

fn refused_for_good(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::AlreadyExists | Code::InvalidArgument)
}

fn request(joining: &Joining, starting: bool) -> pb::JoinRequest {
    let Profile { name, addresses, region, zone, roles, weight, build } = joining.profile.clone();
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
        run: joining.run.count,
        run_token: joining.run.token,
        starting,
        times: joining.times.map(Into::into),
        log: joining.log.map(|LogMark { log, writes }| pb::LogMark { log, writes }),
        release: build.release,
        version_min: build.supported.min.0.into(),
        version_max: build.supported.max.0.into(),
    }
}

/// The door: brings the question to the control leader.
pub(super) struct Door {
    control: Control,
    reachable: watch::Receiver<BTreeSet<NodeId>>,
    hosted: Hosted,
    /// Whether this is a development node, which creates a cluster at every start.
    development: bool,
}

impl Door {
    /// To be mounted on the peer port. `reachable` are the nodes that this one has a link to.
    pub(super) fn service(
        control: Control,
        reachable: watch::Receiver<BTreeSet<NodeId>>,
        hosted: Hosted,
        development: bool,
    ) -> MembershipServer<Door> {
        MembershipServer::new(Door { control, reachable, hosted, development })
    }

    /// Refuses a second process of a node: two that vote under one id would elect two leaders.
    /// A directory of another cluster is another matter.
    fn runs_once(&self, joining: &Joining) -> Result<(), Status> {
        let ours = self.control.view().borrow().as_ref().map(|view| view.cluster);
        let node = joining.node.filter(|_| joining.cluster == ours);
        let Some(node) = node.filter(|node| self.reachable.borrow().contains(node)) else {
            return Ok(());
        };
        Err(Status::aborted(format!(
            "{node} is running: stop that process first; if it has just died, wait some seconds"
        )))
    }
}

#[tonic::async_trait]
impl Membership for Door {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        if self.development {
            return Err(Status::failed_precondition(
                "this node runs with --dev and accepts no members: create a cluster with \
                 `pushonce init`",
            ));
        }
        let request = request.into_inner();
        let starting = request.starting;
        let joining = joining(request)?;
        if starting {
            self.runs_once(&joining)?;
        }
        let joined = self.control.join(joining).await.map_err(status)?;
        Ok(Response::new(pb::JoinResponse {
            cluster_id: bytes_of(joined.cluster),
            node_id: joined.node.0,
            times: Some(joined.times.into()),
        }))
    }

    async fn moves(
        &self,
        _: Request<pb::MovesRequest>,
    ) -> Result<Response<pb::MovesResponse>, Status> {
        Ok(Response::new(moves::answer(moves::local(self.hosted.progress()))))
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

fn status(why: AskError) -> Status {
    let text = why.to_string();
    match why {
        AskError::Refused(Refusal::NotFounded) => Status::unavailable(text),
        AskError::Refused(Refusal::NameTaken { .. }) => Status::already_exists(text),
        // Another build may be started here, or the others may go back: no reason to end.
        AskError::Refused(Refusal::Unsupported(_) | Refusal::Unversioned { .. }) => {
            Status::unimplemented(text)
        }
        // Of use elsewhere: the address is wrong, or the directory.
        AskError::Refused(Refusal::Foreign { .. } | Refusal::OtherTimes { .. }) => {
            Status::invalid_argument(text)
        }
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
