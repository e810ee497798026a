//! `pushonce serve`: runs a node.

use anyhow::{Context as _, bail};
use axum::Router;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::settings::{ConfigSources, NodeArgs};
use crate::config::Config;
use crate::node::join::StoppedBeforeJoin;
use crate::{Node, metrics, node};

/// The settings of the node, and whether it is a development node.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: NodeArgs,
    /// Run a development node: a new cluster of this one node, on loopback addresses, in a temporary
    /// directory that is deleted at the end
    #[arg(long, conflicts_with_all = ["data", "join"])]
    dev: bool,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (config, _temp_dir) = if args.dev {
        let temp_dir = tempfile::Builder::new().prefix("pushonce-dev.").tempdir()?;
        let config = development_config(args.settings.sources()?, &temp_dir)?;
        node::init(&config).await?;
        tracing::info!(data = %config.data.display(), "development node, its data is deleted when it stops");
        (config, Some(temp_dir))
    } else {
        (args.settings.resolve()?, None)
    };
    if config.insecure {
        tracing::warn!("--insecure: every client that reaches a port of this node can use it");
    }
    let descriptors = pushonce_listener::raise_descriptor_limit();
    tracing::debug!(descriptors, "limit of open files");
    let metrics = metrics::install_recorder()?;
    let node = match Node::build(config, Router::new(), metrics, &shutdown).await {
        // The node was stopped while it waited for its cluster.
        Err(error) if error.is::<StoppedBeforeJoin>() => {
            tracing::info!(%error, "stopped");
            return Ok(());
        }
        result => result?,
    };
    node.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The settings, with a temporary directory as data directory. A development node creates a cluster at
/// every start, so no setting may make it part of a real one.
fn development_config(mut sources: ConfigSources, temp_dir: &TempDir) -> anyhow::Result<Config> {
    for (source, partial) in [("environment", &sources.env), ("configuration file", &sources.file)]
    {
        if partial.data.is_some() || partial.join.is_some() {
            bail!(
                "--dev allows no data directory and no join addresses, but the {source} sets one"
            );
        }
    }
    sources.flags.data = Some(temp_dir.path().to_owned());
    let mut config = sources.resolve()?;
    for (flag, address) in config.listen_addresses() {
        if !address.ip().is_loopback() {
            bail!("--dev listens on loopback addresses only, but {flag} is {address}");
        }
    }
    let host = config.advertise.parse().context("--dev needs a loopback address in --advertise");
    if !host.is_ok_and(|host: std::net::IpAddr| host.is_loopback()) {
        bail!("--dev advertises a loopback address only, but --advertise is {}", config.advertise);
    }
    config.is_development = true;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::PartialConfig;

    fn config(flags: PartialConfig, file: PartialConfig) -> anyhow::Result<Config> {
        let temp_dir = tempfile::tempdir()?;
        development_config(ConfigSources { flags, env: PartialConfig::default(), file }, &temp_dir)
    }

    #[test]
    fn development_node_runs_on_loopback_in_a_temporary_directory() {
        let good = config(PartialConfig::default(), PartialConfig::default())
            .expect("defaults are loopback");
        assert!(good.is_development && good.data.starts_with(std::env::temp_dir()));
    }

    #[test]
    fn development_node_rejects_settings_that_could_join_a_real_cluster() {
        let exposed = PartialConfig {
            peer: Some(SocketAddr::from(([0, 0, 0, 0], 7091))),
            advertise: Some("127.0.0.1".to_owned()),
            insecure: Some(true),
            ..PartialConfig::default()
        };
        let advertised =
            PartialConfig { advertise: Some("a.example".to_owned()), ..PartialConfig::default() };
        for flags in [exposed, advertised] {
            assert!(config(flags.clone(), PartialConfig::default()).is_err(), "{flags:?}");
        }
        let data = PartialConfig { data: Some("/d".into()), ..PartialConfig::default() };
        let join = PartialConfig { join: Some(vec!["a:1".to_owned()]), ..PartialConfig::default() };
        for file in [data, join] {
            assert!(config(PartialConfig::default(), file.clone()).is_err(), "{file:?}");
        }
    }
}
