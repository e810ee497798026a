//! The settings of a node as `serve`, `init` and `check-config` take them.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::{Config, Partial};

/// The settings of the node, and a file that may hold them.
#[derive(clap::Args)]
pub(super) struct Settings {
    #[command(flatten)]
    flags: Partial,
    /// A TOML file with the same settings; flags and PUSHONCE_… variables go before it
    #[arg(long, env = "PUSHONCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What the three sources say.
pub(super) struct Sources {
    pub(super) flags: Partial,
    pub(super) env: Partial,
    pub(super) file: Partial,
}

impl Settings {
    /// Reads the environment and the file.
    pub(super) fn sources(self) -> anyhow::Result<Sources> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("the configuration file {}", path.display()))?;
                Partial::from_toml(&text).with_context(|| path.display().to_string())?
            }
            None => Partial::default(),
        };
        let env = Partial::from_env(std::env::vars_os())?;
        Ok(Sources { flags: self.flags, env, file })
    }

    /// Flags over environment over file.
    pub(super) fn resolve(self) -> anyhow::Result<Config> {
        self.sources()?.resolve()
    }
}

impl Sources {
    /// Flags over environment over file.
    pub(super) fn resolve(self) -> anyhow::Result<Config> {
        Ok(Config::resolve(self.flags, self.env, self.file)?)
    }
}
