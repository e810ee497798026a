//! Start-up: which cluster the node belongs to, and under which id.

use std::time::Duration;

use anyhow::Context as _;
use pushonce_consensus::Engine;
use pushonce_control::{
    Control, FoundError, Founding, Incarnation, Joining, Profile, Refusal, Run,
};
use pushonce_core::{Addresses, Build, ClusterTimes, Namespaces, ShardCount, Spread, VersionRange};
use tokio_util::sync::CancellationToken;

use super::identity::{Bootstrap, DataDir, Identity};
use super::join;
use crate::config::Config;

/// Between two tries to make the cluster; each waits some seconds for a leader by itself.
const PAUSE: Duration = Duration::from_secs(1);

/// The data directory belongs to no cluster, and no address of one is given.
#[derive(Debug, thiserror::Error)]
#[error(
    "the data directory {data} belongs to no cluster. To join a cluster, give the peer addresses of \
     its nodes with --join. To create a new cluster, run `pushonce init` once with the same settings. \
     For development on this machine alone, run `pushonce serve --dev`. If this node was a member \
     before, its data is not here: check --data", data = .data.display()
)]
pub(super) struct NoIdentity {
    data: std::path::PathBuf,
}

/// Who the node is, and what it says of itself.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) config: Config,
    pub(super) identity: Identity,
    /// The times of consensus to start with.
    pub(super) times: ClusterTimes,
    /// What it says to the cluster.
    pub(super) joining: Joining,
}

impl Entry {
    /// Reads the identity from the directory, or joins the cluster at `--join`. Never makes a
    /// cluster: only `pushonce init` does, so that a wiped or misplaced directory cannot make a second.
    ///
    /// # Errors
    /// [`NoIdentity`] for an empty directory without `--join`; the reason when the cluster refuses.
    pub(super) async fn find(
        config: Config,
        data: &DataDir,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Entry> {
        let mut joining = Joining {
            incarnation: Incarnation(u128::from_be_bytes(data.incarnation())),
            run: Run { count: data.starts(), token: rand::random() },
            cluster: None,
            node: None,
            profile: profile(&config),
            times: config.times,
            log: None,
        };
        let (identity, times) = match data.identity()? {
            Some(known) => {
                joining.cluster = Some(known.cluster);
                joining.node = Some(known.node);
                let mark = Engine::mark_in(data.path(), known.cluster, known.node).await?;
                joining.log = Some(mark);
                let times = data.times()?;
                agree(&config, &times)?;
                let others = [config.join.clone(), data.peers()].concat();
                let confirming = join::confirm(&others, known.asker(), &joining);
                let confirmed = shutdown.run_until_cancelled(confirming).await;
                confirmed.ok_or(join::Stopped)??;
                (known, times)
            }
            None => {
                #[cfg(feature = "planted-bugs")]
                if config.join.is_empty() && super::planted::creates_cluster() {
                    super::init::prepare(data, &config).await?;
                    return Box::pin(Entry::find(config, data, shutdown)).await;
                }
                if config.join.is_empty() {
                    return Err(NoIdentity { data: data.path().to_owned() }.into());
                }
                let (new, times) = join::join(&config.join, &joining, shutdown).await?;
                // Before the identity, which says that the log is there.
                Engine::create(data.path(), new.cluster, new.node).await?;
                data.keep_times(&times)?;
                data.keep(&new)?;
                joining.log = Some(Engine::mark_in(data.path(), new.cluster, new.node).await?);
                (new, times)
            }
        };
        (joining.cluster, joining.node) = (Some(identity.cluster), Some(identity.node));
        Ok(Entry { config, identity, times, joining })
    }
}

/// Refuses settings that name other times than this node has to use: with a longer lease than others
/// respect, two nodes would own one shard.
fn agree(config: &Config, times: &ClusterTimes) -> Result<(), Refusal> {
    match config.times {
        Some(said) if !times.accepts(&said) => {
            Err(Refusal::OtherTimes { said, cluster: times.target() })
        }
        _ => Ok(()),
    }
}

/// What this process runs.
fn build() -> Build {
    let release = env!("CARGO_PKG_VERSION").to_owned();
    Build { release, supported: VersionRange::SUPPORTED }
}

fn profile(config: &Config) -> Profile {
    let at = |port| config.advertised(port);
    Profile {
        name: config.name.clone(),
        addresses: Addresses {
            peer: at(config.peer.port()),
            grpc: at(config.grpc.port()),
            http: at(config.http.port()),
            quic: at(config.quic.port()),
        },
        region: config.region.clone(),
        zone: config.zone.clone(),
        roles: config.roles,
        weight: config.weight,
        build: build(),
    }
}

/// Makes the cluster. A slow disk is no reason to give up: saying it again changes nothing.
pub(super) async fn found(
    entry: &Entry,
    bootstrap: Bootstrap,
    control: &Control,
) -> anyhow::Result<()> {
    let Entry { identity, times, joining, .. } = entry;
    let founding = Founding {
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
        // Nobody is there to be compatible with.
        cluster_version: VersionRange::SUPPORTED.max,
    };
    loop {
        match control.found(founding.clone()).await {
            Err(FoundError::Ask(why)) if why.retryable() => tracing::warn!("{why}"),
            told => return told.context("the cluster cannot be founded"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::ConsensusTimes;

    use super::*;
    use crate::config::{Partial, Preset};

    #[test]
    fn a_node_that_names_other_times_than_its_cluster_does_not_start() {
        let config = |consensus| {
            let said = Partial { consensus, ..Partial::default() };
            Config::resolve(said, Partial::default(), Partial::default()).expect("good")
        };
        let lan = ClusterTimes::new(ConsensusTimes::LAN);
        assert!(agree(&config(None), &lan).is_ok());
        assert!(agree(&config(Some(Preset::Lan)), &lan).is_ok());
        let why =
            agree(&config(Some(Preset::Wan)), &lan).expect_err("it would hold a longer lease");
        let why = why.to_string();
        assert!(why.contains("--consensus wan, the cluster has --consensus lan"), "{why}");
        assert!(why.contains("pushonce cluster set-times"), "{why}");
    }
}
