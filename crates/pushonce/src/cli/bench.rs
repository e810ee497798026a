//! `pushonce bench`: runs a load generator and prints its results.

use pushonce_loadgen::Args;
use tokio_util::sync::CancellationToken;

use crate::output;

pub(super) async fn run(args: Args, json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    if let Some(report) = pushonce_loadgen::run(args, program, shutdown).await? {
        match json {
            true => output::write_json(report.json())?,
            false => output::write_text(&report.text())?,
        }
    }
    Ok(())
}
