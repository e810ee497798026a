//! `pushonce bench`: runs a load generator and prints its results.

use pushonce_loadgen::Access;
use tokio_util::sync::CancellationToken;

use super::access_token::TokenArgs;
use super::trust::TrustArgs;
use crate::output;

/// The bench, and how it authenticates itself and the servers of `publish` and `fanout`.
#[derive(clap::Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    bench: pushonce_loadgen::Args,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

pub(super) async fn run(
    args: BenchArgs,
    json: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let BenchArgs { bench, token, trust } = args;
    let program = std::env::current_exe()?;
    let access = Access { token: token.provider(), trust: trust.load()? };
    if let Some(report) = pushonce_loadgen::run(bench, program, access, shutdown).await? {
        match json {
            true => output::write_json(report.json())?,
            false => output::write_text(&report.text())?,
        }
    }
    Ok(())
}
