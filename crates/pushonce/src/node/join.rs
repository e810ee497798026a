//! The requesting side of a join: an empty node asks to join, a member asks whether it still is one.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pushonce_ca::{CertificateRequest, JoinToken};
use pushonce_control::JoinCommand;
use pushonce_core::{ClusterId, ClusterTimes, CoverageMark, HostPort};
use pushonce_peer::{AuthorityPin, Credentials};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;
use pushonce_telemetry::LogLimiter;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::identity::Identity;
use super::join_outcome::{JoinOutcome, JoinRequester};
use super::join_request;

/// Pause between two rounds through the addresses, when none of them accepted this node.
const ROUND_INTERVAL: Duration = Duration::from_millis(300);

/// Timeout of a join request. A node that does not answer in time is asked again in the next round.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of the membership check at a restart. A cluster that can answer does so in milliseconds, and
/// one that cannot may be waiting for the vote of this node.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// Time after which other nodes drop a link to a previous process that died without closing it.
const STALE_LINK_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum number of concurrent membership checks: one live node is enough.
const CONCURRENT_REQUESTS_MAX: usize = 8;

/// The control group does not count this data directory as a member. The node ends with an exit status of
/// its own, so that a supervisor does not start it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct MembershipRevoked(pub(crate) String);

/// The node was stopped while it waited for its cluster.
#[derive(Debug, thiserror::Error)]
#[error("stopped before the cluster answered")]
pub(crate) struct StoppedBeforeJoin;

/// How a new node proves that it may join.
#[derive(Debug)]
pub(super) enum JoinProof {
    /// By the certificate of its connection, or not at all.
    Credentials(Credentials),
    /// By a token; the response certifies the key of the request.
    Token(JoinToken, CertificateRequest),
}

/// A node that the cluster accepted.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) identity: Identity,
    pub(super) times: ClusterTimes,
    /// The certificate, for a node that joined with a token.
    pub(super) certificate: Option<pb::NodeCertificate>,
}

/// Asks the nodes at `addresses`, round after round, until one accepts this node.
///
/// # Errors
/// When the cluster rejects the node for good, or `shutdown` is cancelled first.
pub(super) async fn join(
    proof: &JoinProof,
    addresses: &[String],
    joining: &JoinCommand,
    shutdown: &CancellationToken,
) -> anyhow::Result<Joined> {
    let (mut last_address, mut last_reason) = (&String::new(), String::new());
    let limiter = LogLimiter::new();
    loop {
        for address in addresses {
            let reason = match request_first_join(proof, address, joining).await {
                JoinOutcome::Member { cluster, node, times, certificate } => {
                    let identity = Identity { cluster, node, bootstrap: None };
                    return Ok(Joined { identity, times, certificate });
                }
                JoinOutcome::NotMember(reason) | JoinOutcome::SettingsRejected(reason) => {
                    anyhow::bail!("{address} does not let this node join: {reason}")
                }
                JoinOutcome::WrongCluster { other_cluster } => {
                    format!("the node belongs to cluster {other_cluster}")
                }
                JoinOutcome::AlreadyRunning(reason) | JoinOutcome::Inconclusive(reason) => reason,
            };
            // Logged once per reason. Several addresses may give theirs in turn, three times a second.
            if (address, &reason) != (last_address, &last_reason)
                && let Some(suppressed) = limiter.allow(Instant::now().into_std())
            {
                tracing::warn!(peer = address, reason, suppressed, "cannot join, retrying");
                (last_address, last_reason) = (address, reason);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(StoppedBeforeJoin.into()),
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
        }
    }
}

/// Asks, before anything in the directory is used, whether the cluster still counts this node as a
/// member. No answer is no objection: the other nodes may start later.
///
/// # Errors
/// [`MembershipRevoked`] when it does not; the reason when it rejects the settings of this node, or when
/// another process of this node keeps running.
pub(super) async fn confirm_membership(
    credentials: &Credentials,
    addresses: &[String],
    member: JoinRequester,
    joining: &JoinCommand,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + STALE_LINK_TIMEOUT;
    loop {
        let (address, outcome) =
            request_join_from_any(credentials, addresses, member, joining, true).await;
        let rejection =
            |reason: String| format!("{address} does not accept this node again: {reason}");
        match outcome {
            JoinOutcome::NotMember(reason) => {
                return Err(MembershipRevoked(rejection(reason)).into());
            }
            JoinOutcome::SettingsRejected(reason) => anyhow::bail!(rejection(reason)),
            JoinOutcome::AlreadyRunning(reason) if Instant::now() >= deadline => {
                anyhow::bail!(rejection(reason))
            }
            JoinOutcome::AlreadyRunning(_) => tokio::time::sleep(ROUND_INTERVAL).await,
            JoinOutcome::Member { .. }
            | JoinOutcome::WrongCluster { .. }
            | JoinOutcome::Inconclusive(_) => {
                CoverageMark::MembershipConfirmed.reach();
                return Ok(());
            }
        }
    }
}

/// Asks at `addresses` whether the cluster still counts this running node as a member. For a node that
/// has no link to any other.
///
/// # Errors
/// [`MembershipRevoked`] when the control group has committed that it does not; nothing else ends a
/// running node.
pub(super) async fn check_still_member(
    credentials: &Credentials,
    addresses: &[String],
    member: JoinRequester,
    joining: &JoinCommand,
) -> Result<(), MembershipRevoked> {
    match request_join_from_any(credentials, addresses, member, joining, false).await {
        (address, JoinOutcome::NotMember(reason)) => {
            Err(MembershipRevoked(format!("{address} does not accept this node again: {reason}")))
        }
        (address, JoinOutcome::SettingsRejected(reason)) => {
            static LIMITER: LogLimiter = LogLimiter::new();
            if let Some(suppressed) = LIMITER.allow(Instant::now().into_std()) {
                tracing::error!(peer = %address, reason, suppressed,
                    "the cluster rejects the settings of this node");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Asks several addresses at once; returns the first conclusive outcome.
async fn request_join_from_any(
    credentials: &Credentials,
    addresses: &[String],
    member: JoinRequester,
    joining: &JoinCommand,
    starting: bool,
) -> (String, JoinOutcome) {
    let deadline = Instant::now() + CONFIRM_TIMEOUT;
    let mut outcomes: FuturesUnordered<_> = rotated(addresses, rand::random())
        .map(async |address| {
            (address, request_join(credentials, address, member, joining, starting).await)
        })
        .collect();
    while let Ok(Some((address, outcome))) = timeout_at(deadline, outcomes.next()).await {
        match outcome {
            JoinOutcome::WrongCluster { other_cluster } => {
                let own_cluster = joining.cluster.unwrap_or(ClusterId(0));
                static LIMITER: LogLimiter = LogLimiter::new();
                if let Some(suppressed) = LIMITER.allow(Instant::now().into_std()) {
                    tracing::warn!(%own_cluster, %other_cluster, peer = %address, suppressed,
                        "a node of another cluster listens at this address: correct the address");
                }
            }
            JoinOutcome::Inconclusive(reason) => {
                tracing::debug!(peer = %address, reason, "no answer")
            }
            outcome => return (address.clone(), outcome),
        }
    }
    (String::new(), JoinOutcome::Inconclusive("no other node answered".to_owned()))
}

/// At most [`CONCURRENT_REQUESTS_MAX`] addresses from `start` on: the first ones may be gone for good.
fn rotated(addresses: &[String], start: u32) -> impl Iterator<Item = &String> {
    let first = start as usize % addresses.len().max(1);
    addresses.iter().cycle().skip(first).take(addresses.len().min(CONCURRENT_REQUESTS_MAX))
}

async fn request_first_join(
    proof: &JoinProof,
    address: &str,
    joining: &JoinCommand,
) -> JoinOutcome {
    let (token, request) = match proof {
        JoinProof::Credentials(credentials) => {
            return request_join(credentials, address, JoinRequester::New, joining, true).await;
        }
        JoinProof::Token(token, request) => (token, request),
    };
    let response = async {
        let pin = AuthorityPin { cluster: token.cluster, authority: token.authority };
        let channel =
            pushonce_peer::connect_to_join(pin, &parse_address(address)?, REQUEST_TIMEOUT).await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let message = pb::JoinRequest {
            join_secret: token.secret().to_vec().into(),
            certificate_request: request.request.clone().into(),
            ..join_request::encode(joining, true)
        };
        Ok(MembershipServiceClient::new(channel).join(message).await?.into_inner())
    };
    JoinRequester::New.evaluate(response.await)
}

async fn request_join(
    credentials: &Credentials,
    address: &str,
    asker: JoinRequester,
    joining: &JoinCommand,
    starting: bool,
) -> JoinOutcome {
    let response = async {
        let mut client = connect_membership(credentials, address, REQUEST_TIMEOUT).await?;
        Ok(client.join(join_request::encode(joining, starting)).await?.into_inner())
    };
    asker.evaluate(response.await)
}

/// Connects to the membership service at an address.
///
/// # Errors
/// When the address is invalid, or the connection fails or takes longer than `timeout`.
pub(super) async fn connect_membership(
    credentials: &Credentials,
    address: &str,
    timeout: Duration,
) -> Result<MembershipServiceClient<Channel>, Status> {
    let channel = pushonce_peer::connect(credentials, &parse_address(address)?, timeout).await;
    let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(MembershipServiceClient::new(channel))
}

fn parse_address(address: &str) -> Result<HostPort, Status> {
    address.parse().map_err(|error| Status::new(Code::InvalidArgument, format!("{error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CONCURRENT_REQUESTS_MAX, rotated};

    #[test]
    fn rotation_reaches_every_address_within_the_request_limit() {
        let addresses: Vec<_> = (0..20).map(|n| format!("n{n}:7091")).collect();
        for count in [0, 1, CONCURRENT_REQUESTS_MAX, 20] {
            let addresses = &addresses[..count];
            let requested = |start| rotated(addresses, start).collect::<BTreeSet<_>>();
            assert_eq!(
                requested(u32::MAX).len(),
                count.min(CONCURRENT_REQUESTS_MAX),
                "no address is asked twice"
            );
            assert_eq!((0..20).flat_map(requested).collect::<BTreeSet<_>>().len(), count);
        }
    }
}
