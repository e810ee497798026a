//! How a node begins: it finds out who it is, and tells the cluster.

use std::time::Duration;

use anyhow::Context as _;
use pushonce_consensus::Engine;
use pushonce_control::{
    Control, FoundError, Founding as NewCluster, Incarnation, Joining, Profile,
};
use pushonce_core::{Addresses, ClusterId, Namespaces, NodeId, Spread};
use tokio_util::sync::CancellationToken;

use super::identity::{DataDir, Identity};
use super::membership;
use crate::config::Config;

/// Between two tries to tell the cluster; each try waits some seconds for a leader by itself.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);

/// Who the node is, and what it says of itself.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) config: Config,
    pub(super) identity: Identity,
    incarnation: Incarnation,
    profile: Profile,
}

impl Entry {
    /// What the directory remembers, or what a cluster lets it be, or the first node of a new one.
    pub(super) async fn find(
        config: Config,
        data: &DataDir,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Entry> {
        let incarnation = Incarnation(u128::from_be_bytes(data.incarnation()));
        let profile = profile(&config);
        let mut joining =
            Joining { incarnation, cluster: None, node: None, profile: profile.clone() };
        let identity = match data.identity()? {
            Some(known) => {
                joining.cluster = Some(known.cluster);
                joining.node = Some(known.node);
                membership::confirm(&config.join, &joining).await?;
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
        Ok(Entry { config, identity, incarnation, profile })
    }
}

/// The cluster gets the number that was drawn for the directory: a founder that died half way makes
/// the same cluster again.
fn first_of_a_cluster(data: &DataDir) -> Identity {
    let cluster = ClusterId(u128::from_be_bytes(data.incarnation()));
    tracing::info!(%cluster, data = %data.path().display(), "making a new cluster");
    Identity { cluster, node: NodeId(1), founding: true }
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
    }
}

/// Founds the cluster, or tells it what this node is called and where it is now; then there is
/// nothing more to say until `stop`.
pub(super) async fn introduce(
    entry: Entry,
    control: Control,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Entry { config, identity, incarnation, profile } = entry;
    let saying = async {
        if !identity.founding {
            return announce(&control, incarnation, profile).await;
        }
        let founding = NewCluster {
            cluster: identity.cluster,
            incarnation,
            profile,
            shards: config.shards,
            replicas: config.replicas,
            spread: Spread::default(),
            namespaces: Namespaces::default(),
        };
        found(&control, founding).await
    };
    tokio::select! {
        () = stop.cancelled() => {}
        said = saying => {
            said?;
            stop.cancelled().await;
        }
    }
    Ok(())
}

/// A slow disk is no reason to give up: saying it again changes nothing.
async fn found(control: &Control, founding: NewCluster) -> anyhow::Result<()> {
    loop {
        match control.found(founding.clone()).await {
            Err(FoundError::Ask(why)) if why.retryable() => tracing::warn!("{why}"),
            told => return told.context("the cluster cannot be founded"),
        }
        tokio::time::sleep(ANNOUNCE_PAUSE).await;
    }
}

/// Says it until the cluster takes it: without a leader it cannot be told anything, which is no
/// reason to stop.
async fn announce(
    control: &Control,
    incarnation: Incarnation,
    profile: Profile,
) -> anyhow::Result<()> {
    loop {
        match control.announce(incarnation, profile.clone()).await {
            Err(why) if why.retryable() => tracing::warn!("{why}"),
            told => return told.context("the cluster does not take this node back"),
        }
        tokio::time::sleep(ANNOUNCE_PAUSE).await;
    }
}
