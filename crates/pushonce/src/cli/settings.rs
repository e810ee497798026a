//! The settings of a node as arguments of `serve`, `init` and `check-config`.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::{Config, PartialConfig};

/// The settings of a node, and a file with further settings.
#[derive(clap::Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    flags: PartialConfig,
    /// TOML file with the same settings; flags and PUSHONCE_… variables override it
    #[arg(long, env = "PUSHONCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The settings of the three sources.
pub(super) struct ConfigSources {
    pub(super) flags: PartialConfig,
    pub(super) env: PartialConfig,
    pub(super) file: PartialConfig,
}

impl NodeArgs {
    /// Reads the environment and the file.
    pub(super) fn sources(self) -> anyhow::Result<ConfigSources> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| {
                    format!("cannot read the configuration file {}", path.display())
                })?;
                PartialConfig::from_toml(&text).with_context(|| path.display().to_string())?
            }
            None => PartialConfig::default(),
        };
        let env = PartialConfig::from_env(std::env::vars_os())?;
        Ok(ConfigSources { flags: self.flags, env, file })
    }

    /// Merges flags over environment over file.
    pub(super) fn resolve(self) -> anyhow::Result<Config> {
        self.sources()?.resolve()
    }
}

impl ConfigSources {
    /// Merges flags over environment over file.
    pub(super) fn resolve(self) -> anyhow::Result<Config> {
        Ok(Config::resolve(self.flags, self.env, self.file)?)
    }
}
