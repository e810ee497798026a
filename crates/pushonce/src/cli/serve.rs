//! `pushonce serve`: run a node.

use std::path::PathBuf;

use anyhow::Context as _;
use axum::Router;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Partial};
use crate::{Node, node};

/// The settings of the node, and a file that may hold them.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Partial,
    /// A TOML file with the same settings; flags and PUSHONCE_… variables go before it
    #[arg(long, env = "PUSHONCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Args {
    /// Flags over environment over file.
    pub(super) fn resolve(self) -> anyhow::Result<Config> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("the configuration file {}", path.display()))?;
                Partial::from_toml(&text).with_context(|| path.display().to_string())?
            }
            None => Partial::default(),
        };
        let env = Partial::from_env(|key| std::env::var(key).ok())?;
        Ok(Config::resolve(self.settings, env, file)?)
    }
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = args.resolve()?;
    if config.insecure {
        tracing::warn!("--insecure: whoever reaches this node's ports may use it");
    }
    let descriptors = pushonce_listener::raise_descriptor_limit();
    tracing::debug!(descriptors, "limit of open files");
    let metrics = node::metrics()?;
    let node = Node::build(config, Router::new(), metrics, &shutdown).await?;
    node.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}
