//! `pushonce serve`: run a node.

use anyhow::{Context as _, bail};
use axum::Router;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::settings::{Settings, Sources};
use crate::config::Config;
use crate::node::join::Stopped;
use crate::{Node, node};

/// The settings of the node, and whether it is one for development.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// For development: a new cluster of this one node, on loopback addresses, in a temporary directory
    /// that is deleted at the end
    #[arg(long, conflicts_with_all = ["data", "join"])]
    dev: bool,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (config, _temporary) = if args.dev {
        let temporary = tempfile::Builder::new().prefix("pushonce-dev.").tempdir()?;
        let config = development(args.settings.sources()?, &temporary)?;
        node::init(&config).await?;
        tracing::info!(data = %config.data.display(), "development node: its data is deleted at the end");
        (config, Some(temporary))
    } else {
        (args.settings.resolve()?, None)
    };
    if config.insecure {
        tracing::warn!("--insecure: whoever reaches this node's ports may use it");
    }
    let descriptors = pushonce_listener::raise_descriptor_limit();
    tracing::debug!(descriptors, "limit of open files");
    let metrics = node::metrics()?;
    let node = match Node::build(config, Router::new(), metrics, &shutdown).await {
        // It waited for its cluster, and was told to stop.
        Err(why) if why.is::<Stopped>() => {
            tracing::info!("{why}");
            return Ok(());
        }
        built => built?,
    };
    node.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The settings with a directory of their own. A development node creates a cluster at every start, so
/// nothing may make it part of a real one.
fn development(mut sources: Sources, temporary: &TempDir) -> anyhow::Result<Config> {
    for (source, partial) in [("environment", &sources.env), ("configuration file", &sources.file)]
    {
        if partial.data.is_some() || partial.join.is_some() {
            bail!("--dev takes no data directory and no join addresses, and the {source} sets one");
        }
    }
    sources.flags.data = Some(temporary.path().to_owned());
    let mut config = sources.resolve()?;
    for (flag, address) in config.doors() {
        if !address.ip().is_loopback() {
            bail!("--dev serves loopback addresses only, and {flag} is {address}");
        }
    }
    let host = config.advertise.parse().context("--dev needs a loopback address in --advertise");
    if !host.is_ok_and(|host: std::net::IpAddr| host.is_loopback()) {
        bail!("--dev advertises a loopback address only, and --advertise is {}", config.advertise);
    }
    config.development = true;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Partial;

    fn config(flags: Partial, file: Partial) -> anyhow::Result<Config> {
        let temporary = tempfile::tempdir()?;
        development(Sources { flags, env: Partial::default(), file }, &temporary)
    }

    #[test]
    fn a_development_node_is_alone_on_loopback_in_a_temporary_directory() {
        let good = config(Partial::default(), Partial::default()).expect("defaults are loopback");
        assert!(good.development && good.data.starts_with(std::env::temp_dir()));
    }

    #[test]
    fn a_development_node_takes_nothing_that_could_make_it_a_second_cluster() {
        let open = Partial {
            peer: Some(SocketAddr::from(([0, 0, 0, 0], 7091))),
            advertise: Some("127.0.0.1".to_owned()),
            insecure: Some(true),
            ..Partial::default()
        };
        let named = Partial { advertise: Some("a.example".to_owned()), ..Partial::default() };
        for flags in [open, named] {
            assert!(config(flags.clone(), Partial::default()).is_err(), "{flags:?}");
        }
        let data = Partial { data: Some("/d".into()), ..Partial::default() };
        let join = Partial { join: Some(vec!["a:1".to_owned()]), ..Partial::default() };
        for file in [data, join] {
            assert!(config(Partial::default(), file.clone()).is_err(), "{file:?}");
        }
    }
}
