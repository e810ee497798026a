//! `pushonce check-config`: prints the settings that a node would run with, and reads its certificates.

use anyhow::Context as _;

use super::settings::NodeArgs;
use crate::node::served_tls::ServedTls;
use crate::{node, output};

/// Prints every setting in the format of the configuration file: without `--json` the output can be loaded
/// with `--config`. The files that the settings name are read and judged as at a start.
pub(super) fn run(settings: NodeArgs, json: bool) -> anyhow::Result<()> {
    let config = settings.resolve()?;
    node::check_peer_credentials(&config)?;
    if let Some(files) = config.tls_files() {
        ServedTls::load(files)?;
    }
    let settings = config.complete_settings();
    if json {
        output::write_line(serde_json::to_string(&settings)?)?;
    } else {
        let text = toml::to_string(&settings).context("cannot serialize the settings as TOML")?;
        output::write(text.as_bytes())?;
    }
    Ok(())
}
