//! How a node begins: it finds out who it is.

use std::time::Duration;

use anyhow::Context as _;
use pushonce_consensus::Engine;
use pushonce_control::{Control, FoundError, Founding, Incarnation, Joining, Profile, Run};
use pushonce_core::{Addresses, Build, ClusterId, Namespaces, NodeId, Spread, VersionRange};
use tokio_util::sync::CancellationToken;

use super::identity::{DataDir, Identity};
use super::membership;
use crate::config::Config;

/// Between two tries to make the cluster; each waits some seconds for a leader by itself.
const PAUSE: Duration = Duration::from_secs(1);

/// Who the node is, and what it says of itself.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) config: Config,
    pub(super) identity: Identity,
    /// What it says to the cluster.
    pub(super) joining: Joining,
}

impl Entry {
    /// What the directory remembers, or what a cluster lets it be, or the first node of a new one.
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
        };
        let identity = match data.identity()? {
            Some(known) => {
                joining.cluster = Some(known.cluster);
                joining.node = Some(known.node);
                let others = [data.peers()?, config.join.clone()].concat();
                membership::confirm(&others, &joining).await?;
                known
            }
            None => {
                let new = if config.join.is_empty() {
                    first_of_a_cluster(data)
                } else {
                    membership::ask(&config.join, &joining, shutdown).await?
                };
                // Before the identity, which says that the log is there.
                Engine::create(data.path(), new.cluster, new.node).await?;
                data.keep(&new)?;
                new
            }
        };
        (joining.cluster, joining.node) = (Some(identity.cluster), Some(identity.node));
        Ok(Entry { config, identity, joining })
    }
}

/// The cluster gets the number that was drawn for the directory: a founder that died half way makes
/// the same cluster again.
fn first_of_a_cluster(data: &DataDir) -> Identity {
    let cluster = ClusterId(u128::from_be_bytes(data.incarnation()));
    tracing::info!(%cluster, data = %data.path().display(), "making a new cluster");
    Identity { cluster, node: NodeId(1), founding: true }
}

/// What this process runs.
fn build() -> Build {
    let release = env!("CARGO_PKG_VERSION").to_owned();
    Build { release, supported: VersionRange::SUPPORTED }
}

fn profile(config: &Config) -> Profile {
    let at = |port: u16| format!("{}:{port}", config.advertise);
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
pub(super) async fn found(entry: &Entry, control: &Control) -> anyhow::Result<()> {
    let Entry { config, identity, joining } = entry;
    let founding = Founding {
        cluster: identity.cluster,
        incarnation: joining.incarnation,
        run: joining.run,
        profile: joining.profile.clone(),
        shards: config.shards,
        replicas: config.replicas,
        spread: Spread::default(),
        namespaces: Namespaces::default(),
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
