//! Creates a cluster: an explicit, one-time, offline operation.
//!
//! `serve` never creates a cluster. A first node whose directory was wiped, or that opens another
//! directory, would otherwise create a second cluster at the addresses of the first.

use std::path::PathBuf;
use std::time::SystemTime;

use pushonce_consensus::ConsensusEngine;
use pushonce_core::{ClusterId, ClusterTimes, NodeId};

use super::identity::{BootstrapConfig, DataDir, Identity};
use super::peer_credentials::StartCredentials;
use crate::config::Config;

/// The id of the first node of every cluster.
const FIRST_NODE: NodeId = NodeId(1);

/// A directory prepared for the first node of a new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// The new cluster.
    pub cluster: ClusterId,
    /// The absolute path of the directory.
    pub data: PathBuf,
}

/// Why no cluster was created.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// The settings are those of a node that joins an existing cluster.
    #[error(
        "--join names the nodes of an existing cluster, and init creates a new one: to join, run \
         `pushonce serve` alone; to create a cluster, leave --join out"
    )]
    JoinSettings,
    /// The directory belongs to a cluster already.
    #[error("the data directory {data} already belongs to {node} of cluster {cluster}: nothing to do",
        data = .data.display())]
    AlreadyInitialized {
        /// The directory.
        data: PathBuf,
        /// The cluster that it belongs to.
        cluster: ClusterId,
        /// The node that it belongs to.
        node: NodeId,
    },
    /// The directory has a log but no identity.
    #[error(
        "the data directory {data} holds raft.redb without identity.json: if an earlier init or join \
         was interrupted, delete the directory and repeat it; otherwise restore identity.json",
        data = .data.display()
    )]
    LogWithoutIdentity {
        /// The directory.
        data: PathBuf,
    },
}

/// Prepares the data directory of `config` for the first node of a new cluster, with the shards and
/// replicas of `config`. With a peer certificate, the cluster has the id that the certificate names. The node creates the cluster when it first runs `serve`.
///
/// # Errors
/// [`InitError`], or when the directory is open in another process or cannot be written.
pub async fn init(config: &Config) -> anyhow::Result<Initialized> {
    if !config.settings.join.is_empty() {
        return Err(InitError::JoinSettings.into());
    }
    let data = DataDir::open(&config.data)?;
    let path = data.path().to_owned();
    if let Some(Identity { cluster, node, .. }) = data.load_identity()? {
        return Err(InitError::AlreadyInitialized { data: path, cluster, node }.into());
    }
    if ConsensusEngine::has_store(&path) {
        return Err(InitError::LogWithoutIdentity { data: path }.into());
    }
    let identity = prepare_first_node(&data, config).await?;
    Ok(Initialized { cluster: identity.cluster, data: path })
}

/// Makes an empty directory that of the first node of a new cluster.
pub(super) async fn prepare_first_node(
    data: &DataDir,
    config: &Config,
) -> anyhow::Result<Identity> {
    let drawn = ClusterId(u128::from_be_bytes(data.incarnation()));
    let credentials = StartCredentials::load(config, SystemTime::now())?;
    let cluster = credentials.cluster_to_create(drawn, FIRST_NODE)?;
    ConsensusEngine::create(data.path(), cluster, FIRST_NODE).await?;
    let bootstrap =
        BootstrapConfig { shards: config.settings.shards, replicas: config.settings.replicas };
    data.save_times(&ClusterTimes::new(config.consensus.times()))?;
    let identity = Identity { cluster, node: FIRST_NODE, bootstrap: Some(bootstrap) };
    data.save_identity(&identity)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config(data: &std::path::Path, join: &[&str]) -> Config {
        let settings = Settings {
            data: Some(data.to_owned()),
            shards: 64,
            replicas: 1,
            join: join.iter().map(ToString::to_string).collect(),
            ..Settings::default()
        };
        Config::resolve(settings).expect("valid settings")
    }

    fn init_error(error: &anyhow::Error) -> &InitError {
        error.downcast_ref().expect("an InitError")
    }

    #[tokio::test]
    async fn init_stores_its_shard_settings_and_rejects_a_second_run() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = config(dir.path(), &[]);
        let initialized = init(&config).await.expect("an empty directory");
        let stored =
            DataDir::open(&initialized.data).expect("opens").load_identity().expect("reads");
        let bootstrap = Some(BootstrapConfig { shards: 64, replicas: 1 });
        assert_eq!(
            stored,
            Some(Identity { cluster: initialized.cluster, node: FIRST_NODE, bootstrap })
        );
        let second = init(&config).await.expect_err("the directory belongs to a cluster");
        assert!(matches!(init_error(&second), InitError::AlreadyInitialized { .. }), "{second}");
    }

    #[tokio::test]
    async fn init_with_join_addresses_is_rejected() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = config(&dir.path().join("data"), &["a:7091"]);
        let error = init(&config).await.expect_err("the settings are those of a joining node");
        assert_eq!(init_error(&error), &InitError::JoinSettings);
        assert!(!config.data.exists());
    }

    #[tokio::test]
    async fn init_of_a_directory_with_a_log_but_no_identity_is_rejected() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = config(dir.path(), &[]);
        init(&config).await.expect("an empty directory");
        std::fs::remove_file(dir.path().join("identity.json")).expect("the file exists");
        let error = init(&config).await.expect_err("the shards may have moved");
        assert!(matches!(init_error(&error), InitError::LogWithoutIdentity { .. }), "{error}");
    }
}
