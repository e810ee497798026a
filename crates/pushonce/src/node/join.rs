//! The asking side of a join: an empty node asks to be taken in, a member whether it still is one.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pushonce_consensus::LogMark;
use pushonce_control::{Joining, Profile};
use pushonce_core::{Addresses, ClusterId, ClusterTimes, HostPort};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_client::MembershipClient;
use pushonce_proto::status::error_chain;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::identity::Identity;
use super::verdict::{Asker, Verdict};

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

/// The control group does not count this data directory as a member: the node ends with an exit status
/// of its own, so that a supervisor does not start it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Expelled(pub(crate) String);

/// The node was told to stop while it waited for its cluster.
#[derive(Debug, thiserror::Error)]
#[error("stopped before the cluster answered")]
pub(crate) struct Stopped;

/// Asks the nodes at `addresses`, round after round, until one lets this node in.
///
/// # Errors
/// When the cluster refuses it for good, or `shutdown` comes first.
pub(super) async fn join(
    addresses: &[String],
    joining: &Joining,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Identity, ClusterTimes)> {
    let mut last = String::new();
    loop {
        for address in addresses {
            let why = match ask(address, Asker::New, joining, true).await {
                Verdict::Member { cluster, node, times } => {
                    return Ok((Identity { cluster, node, bootstrap: None }, times));
                }
                Verdict::NotMember(why) | Verdict::Rejected(why) => {
                    anyhow::bail!("{address} does not let this node join: {why}")
                }
                Verdict::OtherCluster { theirs } => format!("it belongs to cluster {theirs}"),
                Verdict::Running(why) | Verdict::NoAnswer(why) => why,
            };
            let why = format!("cannot join through {address} yet: {why}");
            // Once for each reason, not three times a second.
            if why != last {
                tracing::warn!("{why}; trying again");
                last = why;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(Stopped.into()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Asks, before anything of the directory is used, whether the cluster still counts this node as a
/// member. No answer is no objection: the others may start later.
///
/// # Errors
/// [`Expelled`] when it does not; the reason when it rejects the settings of this node, or when a process
/// of this node runs and goes on running.
pub(super) async fn confirm(
    addresses: &[String],
    member: Asker,
    joining: &Joining,
) -> anyhow::Result<()> {
    let until = Instant::now() + LINK_PATIENCE;
    loop {
        let (address, verdict) = ask_all(addresses, member, joining, true).await;
        let refused = |why: String| format!("{address} does not take this node back: {why}");
        match verdict {
            Verdict::NotMember(why) => return Err(Expelled(refused(why)).into()),
            Verdict::Rejected(why) => anyhow::bail!(refused(why)),
            Verdict::Running(why) if Instant::now() >= until => anyhow::bail!(refused(why)),
            Verdict::Running(_) => tokio::time::sleep(PAUSE).await,
            Verdict::Member { .. } | Verdict::OtherCluster { .. } | Verdict::NoAnswer(_) => {
                return Ok(());
            }
        }
    }
}

/// Asks at `addresses` whether the cluster still counts this running node as a member, for one that has
/// no link to any other.
///
/// # Errors
/// [`Expelled`] when the control group has committed that it does not; nothing else ends a running node.
pub(super) async fn still_member(
    addresses: &[String],
    member: Asker,
    joining: &Joining,
) -> Result<(), Expelled> {
    match ask_all(addresses, member, joining, false).await {
        (address, Verdict::NotMember(why)) => {
            Err(Expelled(format!("{address} does not take this node back: {why}")))
        }
        (address, Verdict::Rejected(why)) => {
            tracing::error!(peer = %address, why, "the cluster rejects the settings of this node");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Asks some at once; the first verdict that counts.
async fn ask_all(
    addresses: &[String],
    member: Asker,
    joining: &Joining,
    starting: bool,
) -> (String, Verdict) {
    let until = Instant::now() + CONFIRM_PATIENCE;
    let mut answers: FuturesUnordered<_> = rotated(addresses, rand::random())
        .map(async |address| (address, ask(address, member, joining, starting).await))
        .collect();
    while let Ok(Some((address, verdict))) = timeout_at(until, answers.next()).await {
        match verdict {
            Verdict::OtherCluster { theirs } => {
                let ours = joining.cluster.unwrap_or(ClusterId(0));
                tracing::warn!(%ours, %theirs, peer = %address,
                    "a node of another cluster listens at this address: correct the address");
            }
            Verdict::NoAnswer(why) => tracing::debug!(peer = %address, why, "no answer"),
            verdict => return (address.clone(), verdict),
        }
    }
    (String::new(), Verdict::NoAnswer("none of the other nodes answered".to_owned()))
}

/// As many addresses as are asked at once, beginning with `start`: the first ones may be gone for good.
fn rotated(addresses: &[String], start: u32) -> impl Iterator<Item = &String> {
    let first = start as usize % addresses.len().max(1);
    addresses.iter().cycle().skip(first).take(addresses.len().min(ASKED_MAX))
}

async fn ask(address: &str, asker: Asker, joining: &Joining, starting: bool) -> Verdict {
    let answer = async {
        let mut client = connect(address, PATIENCE).await?;
        Ok(client.join(request(joining, starting)).await?.into_inner())
    };
    asker.judge(answer.await)
}

/// The membership service at an address, if something listens there.
///
/// # Errors
/// That the address cannot be dialled, with the reason.
pub(super) async fn connect(
    address: &str,
    patience: Duration,
) -> Result<MembershipClient<Channel>, Status> {
    let address: HostPort =
        address.parse().map_err(|why| Status::new(Code::InvalidArgument, format!("{why}")))?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|why| Status::invalid_argument(format!("{address} cannot be dialled: {why}")))?
        .connect_timeout(patience)
        .timeout(patience);
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|why| Status::unavailable(error_chain(&why)))?;
    Ok(MembershipClient::new(channel))
}

fn request(joining: &Joining, starting: bool) -> pb::JoinRequest {
    let Profile { name, addresses, region, zone, roles, weight, build } = joining.profile.clone();
    let Addresses { peer, grpc, http, quic } = addresses;
    pb::JoinRequest {
        incarnation: joining.incarnation.0.to_be_bytes().to_vec().into(),
        cluster_id: joining.cluster.map(super::membership::bytes_of).unwrap_or_default(),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pushonce_core::HostPort;
    use tonic::transport::Endpoint;

    use super::{ASKED_MAX, rotated};

    #[test]
    fn every_address_is_asked_in_time_however_many_there_are() {
        let addresses: Vec<_> = (0..20).map(|n| format!("n{n}:7091")).collect();
        for count in [0, 1, ASKED_MAX, 20] {
            let addresses = &addresses[..count];
            let asked = |start| rotated(addresses, start).collect::<BTreeSet<_>>();
            assert_eq!(asked(u32::MAX).len(), count.min(ASKED_MAX), "nobody is asked twice");
            assert_eq!((0..20).flat_map(asked).collect::<BTreeSet<_>>().len(), count);
        }
    }

    #[test]
    fn every_address_that_a_join_accepts_can_be_dialled() {
        for text in ["127.0.0.1:1", "[::1]:7091", "a:65535", "n-1.eu_west.example.:7091"] {
            let address: HostPort = text.parse().expect("an address");
            assert!(Endpoint::from_shared(format!("http://{address}")).is_ok(), "{text}");
        }
    }
}
