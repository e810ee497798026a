//! `pushonce serve`: runs a node.

use anyhow::{Context as _, bail};
use axum::Router;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::settings::NodeArgs;
use crate::config::{Config, Layers};
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

pub(super) async fn run(
    args: Args,
    shutdown: CancellationToken,
    reload: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let (config, _temp_dir) = if args.dev {
        let temp_dir = tempfile::Builder::new().prefix("pushonce-dev.").tempdir()?;
        let config = development_config(args.settings.layers()?, &temp_dir)?;
        node::init(&config).await?;
        tracing::info!(data = %config.data.display(), "development node, its data is deleted when it stops");
        (config, Some(temp_dir))
    } else {
        (args.settings.resolve()?, None)
    };
    if config.settings.insecure {
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
    node.with_reload(reload).run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The settings, with a temporary directory as data directory. A development node creates a cluster at
/// every start, so no setting may make it part of a real one.
fn development_config(layers: Layers, temp_dir: &TempDir) -> anyhow::Result<Config> {
    for (source, layer) in [("environment", &layers.env), ("configuration file", &layers.file)] {
        if layer.contains("data") || layer.contains("join") {
            bail!(
                "--dev allows no data directory and no join addresses, but the {source} sets one"
            );
        }
    }
    let mut config = layers.resolve()?;
    config.data = temp_dir.path().to_owned();
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
    use super::*;
    use crate::config::Layer;

    fn config(flags: &str, file: &str) -> anyhow::Result<Config> {
        let temp_dir = tempfile::tempdir()?;
        let [flags, file] = [flags, file].map(|text| Layer::from_toml(text).expect("valid"));
        development_config(Layers { flags, file, ..Layers::default() }, &temp_dir)
    }

    #[test]
    fn development_node_runs_on_loopback_in_a_temporary_directory() {
        let good = config("", "").expect("defaults are loopback");
        assert!(good.is_development && good.data.starts_with(std::env::temp_dir()));
    }

    #[test]
    fn development_node_rejects_settings_that_could_join_a_real_cluster() {
        let exposed = "peer = \"0.0.0.0:7091\"\nadvertise = \"127.0.0.1\"\ninsecure = true";
        let advertised = "advertise = \"a.example\"";
        for flags in [exposed, advertised] {
            assert!(config(flags, "").is_err(), "{flags}");
        }
        for file in ["data = \"/d\"", "join = [\"a:1\"]"] {
            assert!(config("", file).is_err(), "{file}");
        }
    }
}
