//! `pushonce check-config`: prints the settings that a node would run with.

use anyhow::Context as _;

use super::settings::NodeArgs;
use crate::output;

/// Prints every setting in the format of the configuration file: without `--json` the output can be loaded
/// with `--config`.
pub(super) fn run(settings: NodeArgs, json: bool) -> anyhow::Result<()> {
    let settings = settings.resolve()?.complete_settings();
    if json {
        output::write_json(serde_json::to_string(&settings)?)?;
    } else {
        let text = toml::to_string(&settings).context("cannot serialize the settings as TOML")?;
        output::write_text(&text)?;
    }
    Ok(())
}
