//! The settings of a node as arguments of `serve`, `init` and `check-config`.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::{Config, JOIN_TOKEN_VARIABLE, Layer, Layers, parse_join_token};

/// The settings of a node, and a file with further settings.
#[derive(clap::Args)]
pub(super) struct NodeArgs {
    /// TOML file with the same settings; flags and PUSHONCE_… variables override it
    #[arg(long, env = "PUSHONCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Layer,
}

impl NodeArgs {
    /// Reads the environment and the file.
    pub(super) fn layers(self) -> anyhow::Result<Layers> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| {
                    format!("cannot read the configuration file {}", path.display())
                })?;
                Layer::from_toml(&text).with_context(|| path.display().to_string())?
            }
            None => Layer::default(),
        };
        let env = Layer::from_env(std::env::vars_os(), &super::variables())?;
        let join_token = parse_join_token(std::env::var_os(JOIN_TOKEN_VARIABLE))?;
        Ok(Layers { flags: self.flags, env, file, join_token })
    }

    /// Merges flags over environment over file.
    pub(super) fn resolve(self) -> anyhow::Result<Config> {
        Ok(self.layers()?.resolve()?)
    }
}
