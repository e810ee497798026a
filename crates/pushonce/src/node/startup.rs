//! Start-up: which cluster the node belongs to, and under which id.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use pushonce_ca::CertificateRequest;
use pushonce_consensus::ConsensusEngine;
use pushonce_control::{
    BootstrapCommand, BootstrapError, CommandRejection, ControlHandle, Incarnation, JoinCommand,
    JoinCredential, ProcessRun, Profile,
};
use pushonce_core::{
    Addresses, BuildInfo, ClusterTimes, FailPoint, Namespaces, ShardCount, SpiffeId, Spread,
    VersionRange,
};
use pushonce_peer::Credentials;
use pushonce_telemetry::LogLimiter;
use tokio_util::sync::CancellationToken;

use super::identity::{BootstrapConfig, DataDir, Identity};
use super::join::{self, JoinProof, Joined};
use super::peer_credentials::{self, StartCredentials};
use crate::config::Config;

/// Pause between two attempts to create the cluster; each waits some seconds for a leader.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The data directory belongs to no cluster, and no address of a cluster is given.
#[derive(Debug, thiserror::Error)]
#[error(
    "the data directory {data} belongs to no cluster. To join a cluster, give the peer addresses of \
     its nodes with --join. To create a new cluster, run `pushonce init` once with the same settings. \
     For development on this machine alone, run `pushonce serve --dev`. If this node was a member \
     before, its data is not here: check --data", data = .data.display()
)]
pub(super) struct DirectoryNotInitialized {
    data: std::path::PathBuf,
}

/// The identity of the node, and its announcement to the cluster.
#[derive(Clone)]
pub(super) struct StartupState {
    pub(super) config: Config,
    pub(super) identity: Identity,
    /// The consensus times to start with.
    pub(super) times: ClusterTimes,
    /// The join request of this node.
    pub(super) joining: JoinCommand,
    /// How the node secures its connections to other nodes.
    pub(super) credentials: Credentials,
}

impl StartupState {
    /// Reads the identity from the directory, or joins the cluster at `--join`. Never creates a cluster: only
    /// `pushonce init` does, so that a wiped or wrong directory cannot create a second one.
    ///
    /// # Errors
    /// [`DirectoryNotInitialized`] for an empty directory without `--join`; the reason when the cluster rejects
    /// the node.
    pub(super) async fn load_or_join(
        config: Config,
        data: &DataDir,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<StartupState> {
        let mut joining = JoinCommand {
            incarnation: Incarnation(u128::from_be_bytes(data.incarnation())),
            run: ProcessRun { count: data.start_count(), token: rand::random() },
            cluster: None,
            node: None,
            profile: node_profile(&config),
            times: config.consensus_times,
            log: None,
            credential: JoinCredential::None,
        };
        let start = StartCredentials::load(&config, SystemTime::now())?;
        let (identity, times, credentials) = match data.load_identity()? {
            Some(existing) => {
                let directory = SpiffeId { cluster: existing.cluster, node: existing.node };
                let credentials = start.for_member(&config, directory)?;
                joining.cluster = Some(existing.cluster);
                joining.node = Some(existing.node);
                let log_mark =
                    ConsensusEngine::read_log_mark(data.path(), existing.cluster, existing.node)
                        .await?;
                joining.log = Some(log_mark);
                let times = data.load_times()?;
                check_consensus_times(&config, &times)?;
                let peer_addresses = [config.settings.join.clone(), data.peers()].concat();
                let member = existing.join_requester();
                let confirmation =
                    join::confirm_membership(&credentials, &peer_addresses, member, &joining);
                let confirmed = shutdown.run_until_cancelled(confirmation).await;
                confirmed.ok_or(join::StoppedBeforeJoin)??;
                (existing, times, credentials)
            }
            None => {
                if config.settings.join.is_empty() && FailPoint::ServeCreatesCluster.is_active() {
                    super::init::prepare_first_node(data, &config).await?;
                    return Box::pin(StartupState::load_or_join(config, data, shutdown)).await;
                }
                if config.settings.join.is_empty() {
                    return Err(DirectoryNotInitialized { data: data.path().to_owned() }.into());
                }
                let (joined, times, credentials) =
                    join_cluster(&config, start, &joining, shutdown).await?;
                // The log is created before the identity, which implies that the log exists.
                ConsensusEngine::create(data.path(), joined.cluster, joined.node).await?;
                data.save_times(&times)?;
                data.save_identity(&joined)?;
                joining.log = Some(
                    ConsensusEngine::read_log_mark(data.path(), joined.cluster, joined.node)
                        .await?,
                );
                (joined, times, credentials)
            }
        };
        (joining.cluster, joining.node) = (Some(identity.cluster), Some(identity.node));
        Ok(StartupState { config, identity, times, joining, credentials })
    }
}

/// Joins the cluster at `--join`. A node that joins with a token has its certificate on disk when this returns.
async fn join_cluster(
    config: &Config,
    start: StartCredentials,
    joining: &JoinCommand,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Identity, ClusterTimes, Credentials)> {
    let proof = match start {
        StartCredentials::Complete(credentials) => JoinProof::Credentials(credentials),
        StartCredentials::Token(token) => JoinProof::Token(token, CertificateRequest::generate()?),
    };
    let joined = join::join(&proof, &config.settings.join, joining, shutdown).await?;
    let Joined { identity, times, certificate } = joined;
    let node = SpiffeId { cluster: identity.cluster, node: identity.node };
    let start = match proof {
        JoinProof::Credentials(credentials) => StartCredentials::Complete(credentials),
        JoinProof::Token(_, request) => {
            let certificate = certificate.context("the cluster sent no certificate")?;
            let now = SystemTime::now();
            let tls = peer_credentials::store(&config.data, node, &request.key, &certificate, now)?;
            StartCredentials::Complete(Credentials::MutualTls(tls))
        }
    };
    Ok((identity, times, start.for_member(config, node)?))
}

/// Rejects settings with consensus times other than those that the node must use: with a longer lease than
/// other nodes respect, two nodes would own one shard.
fn check_consensus_times(config: &Config, times: &ClusterTimes) -> Result<(), CommandRejection> {
    match config.consensus_times {
        Some(configured) if !times.accepts(&configured) => {
            Err(CommandRejection::TimesMismatch { node_times: configured, cluster: times.target() })
        }
        _ => Ok(()),
    }
}

/// The build information of this process.
fn current_build() -> BuildInfo {
    let release = env!("CARGO_PKG_VERSION").to_owned();
    BuildInfo { release, supported: VersionRange::supported() }
}

fn node_profile(config: &Config) -> Profile {
    let advertised_address = |port| config.advertised_address(port);
    Profile {
        name: config.name.clone(),
        addresses: Addresses {
            peer: advertised_address(config.settings.peer.port()),
            grpc: advertised_address(config.settings.grpc.port()),
            http: advertised_address(config.settings.http.port()),
            https: match config.tls_files() {
                Some(_) => advertised_address(config.settings.https.port()),
                None => String::new(),
            },
            quic: advertised_address(config.settings.quic.port()),
        },
        region: config.settings.region.clone(),
        zone: config.settings.zone.clone(),
        roles: config.settings.roles,
        weight: config.settings.weight,
        build: current_build(),
    }
}

/// Creates the cluster. Retries on a slow disk: creating it again changes nothing.
pub(super) async fn create_cluster(
    startup: &StartupState,
    bootstrap: BootstrapConfig,
    control: &ControlHandle,
) -> anyhow::Result<()> {
    let StartupState { identity, times, joining, .. } = startup;
    let request = BootstrapCommand {
        cluster: identity.cluster,
        incarnation: joining.incarnation,
        run: joining.run,
        profile: joining.profile.clone(),
        shards: ShardCount::new(bootstrap.shards).context("identity.json: shards out of range")?,
        replicas: bootstrap.replicas,
        spread: Spread::default(),
        namespaces: Namespaces::default(),
        times: times.current,
        log: joining.log,
        // There is no other build to be compatible with.
        cluster_version: VersionRange::supported().max,
    };
    let limiter = LogLimiter::new();
    loop {
        match control.bootstrap(request.clone()).await {
            Err(BootstrapError::Command(error)) if error.is_retryable() => {
                if let Some(suppressed) = limiter.allow(Instant::now()) {
                    tracing::warn!(%error, suppressed, "cannot create the cluster yet, retrying");
                }
            }
            outcome => return outcome.context("cannot create the cluster"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::ConsensusTimes;

    use super::*;
    use crate::config::{ConsensusPreset, Settings};

    #[test]
    fn node_with_consensus_times_other_than_its_cluster_does_not_start() {
        let config = |consensus| {
            let settings = Settings { consensus, ..Settings::default() };
            Config::resolve(settings).expect("valid")
        };
        let lan_cluster = ClusterTimes::new(ConsensusTimes::LAN);
        assert!(check_consensus_times(&config(None), &lan_cluster).is_ok());
        assert!(check_consensus_times(&config(Some(ConsensusPreset::Lan)), &lan_cluster).is_ok());
        let error = check_consensus_times(&config(Some(ConsensusPreset::Wan)), &lan_cluster)
            .expect_err("it would hold a longer lease");
        let message = error.to_string();
        assert!(message.contains("--consensus wan, the cluster has --consensus lan"), "{message}");
        assert!(message.contains("pushonce cluster set-times"), "{message}");
    }
}
