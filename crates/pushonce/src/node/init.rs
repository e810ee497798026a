//! Creating a cluster: offline, explicit, once.
//!
//! `serve` never creates a cluster. A founder whose directory was wiped, or that looks in another
//! directory, would otherwise create a second cluster under the addresses of the first.

use std::path::PathBuf;

use pushonce_consensus::Engine;
use pushonce_core::{ClusterId, ClusterTimes, NodeId};

use super::identity::{Bootstrap, DataDir, Identity};
use crate::config::Config;

/// The first node of every cluster.
const FOUNDER: NodeId = NodeId(1);

/// A directory that was prepared for the first node of a new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// The new cluster.
    pub cluster: ClusterId,
    /// The directory, absolute.
    pub data: PathBuf,
}

/// Why no cluster was created.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// The settings are those of a node that joins.
    #[error(
        "--join names the nodes of an existing cluster, and init creates a new one: to join, run \
         `pushonce serve` alone; to create a cluster, leave --join out"
    )]
    Join,
    /// The directory belongs to a cluster.
    #[error("the data directory {data} already belongs to {node} of cluster {cluster}: nothing to do",
        data = .data.display())]
    Initialized {
        /// The directory.
        data: PathBuf,
        /// The cluster it belongs to.
        cluster: ClusterId,
        /// The node it belongs to.
        node: NodeId,
    },
    /// The directory has a log, and no identity.
    #[error(
        "the data directory {data} holds raft.redb without identity.json: if an earlier init or join \
         was interrupted, delete the directory and repeat it; otherwise restore identity.json",
        data = .data.display()
    )]
    Partial {
        /// The directory.
        data: PathBuf,
    },
}

/// Prepares the data directory of `config` for the first node of a new cluster, with `config`'s
/// shards and replicas. The node creates the cluster when it is first served.
///
/// # Errors
/// [`InitError`], or that the directory is open elsewhere or cannot be written.
pub async fn init(config: &Config) -> anyhow::Result<Initialized> {
    if !config.join.is_empty() {
        return Err(InitError::Join.into());
    }
    let data = DataDir::open(&config.data)?;
    let path = data.path().to_owned();
    if let Some(Identity { cluster, node, .. }) = data.identity()? {
        return Err(InitError::Initialized { data: path, cluster, node }.into());
    }
    if Engine::has_store(&path) {
        return Err(InitError::Partial { data: path }.into());
    }
    let identity = prepare(&data, config).await?;
    Ok(Initialized { cluster: identity.cluster, data: path })
}

/// Makes an empty directory that of the first node of a new cluster.
pub(super) async fn prepare(data: &DataDir, config: &Config) -> anyhow::Result<Identity> {
    let cluster = ClusterId(u128::from_be_bytes(data.incarnation()));
    Engine::create(data.path(), cluster, FOUNDER).await?;
    let bootstrap = Bootstrap { shards: config.shards.get(), replicas: config.replicas };
    data.keep_times(&ClusterTimes::new(config.consensus.times()))?;
    let identity = Identity { cluster, node: FOUNDER, bootstrap: Some(bootstrap) };
    data.keep(&identity)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Partial;

    fn config(data: &std::path::Path, join: Option<Vec<String>>) -> Config {
        let flags = Partial {
            data: Some(data.to_owned()),
            shards: Some(64),
            replicas: Some(1),
            join,
            ..Partial::default()
        };
        Config::resolve(flags, Partial::default(), Partial::default()).expect("valid settings")
    }

    fn reason(error: &anyhow::Error) -> &InitError {
        error.downcast_ref().expect("an InitError")
    }

    #[tokio::test]
    async fn init_keeps_its_shards_and_refuses_a_second_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path(), None);
        let made = init(&config).await.expect("an empty directory");
        let kept = DataDir::open(&made.data).expect("opens").identity().expect("reads");
        let bootstrap = Some(Bootstrap { shards: 64, replicas: 1 });
        assert_eq!(kept, Some(Identity { cluster: made.cluster, node: FOUNDER, bootstrap }));
        let again = init(&config).await.expect_err("it belongs to a cluster");
        assert!(matches!(reason(&again), InitError::Initialized { .. }), "{again}");
    }

    #[tokio::test]
    async fn init_refuses_the_settings_of_a_node_that_joins() {
        let dir = tempfile::tempdir().expect("a directory");
        let joins = config(&dir.path().join("data"), Some(vec!["a:7091".to_owned()]));
        let refused = init(&joins).await.expect_err("it joins");
        assert_eq!(reason(&refused), &InitError::Join);
        assert!(!joins.data.exists());
    }

    #[tokio::test]
    async fn init_refuses_a_log_without_an_identity() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path(), None);
        init(&config).await.expect("an empty directory");
        std::fs::remove_file(dir.path().join("identity.json")).expect("it was there");
        let refused = init(&config).await.expect_err("the shards may have moved");
        assert!(matches!(reason(&refused), InitError::Partial { .. }), "{refused}");
    }
}
