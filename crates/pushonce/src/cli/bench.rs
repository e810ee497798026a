//! `pushonce bench`: load generators that report percentiles.
//!
//! A bench uses a cluster like any client, and only the servers that the command line names; only `push-once`
//! starts its own. It uses only its own clock, so latencies need no clock synchronization between machines.
//! It shares the cores of its machine with everything else there, so it reports its own CPU usage beside that
//! of the servers.

mod capacity;
mod fanout;
mod pace;
mod progress;
mod publish;
mod push_once;

use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::output::{self, OutputError};

/// The bench to run.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Publish over gRPC; measures the time to the acknowledgement
    Publish(publish::Args),
    /// Publish to many subscribers; measures the time until each has read the message
    Fanout(fanout::Args),
    /// Keep viewers up to date in four ways, and measure the cost of each for the site; starts all it needs
    PushOnce(push_once::Args),
    /// Compute the resources that a number of viewers needs; measures nothing
    Capacity(capacity::Args),
    /// The site of `push-once`
    #[command(hide = true)]
    Origin(push_once::origin::Args),
}

/// The results of a bench, as text and as JSON.
trait BenchReport {
    fn text(&self) -> String;
    fn json(&self) -> Value;
}

/// Measures until the duration is over or `shutdown` is cancelled, and prints the results until then.
pub(super) async fn run(args: Args, json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    match args.command {
        Command::Publish(args) => print_report(json, &publish::run(args, shutdown).await?)?,
        Command::Fanout(args) => print_report(json, &fanout::run(args, shutdown).await?)?,
        Command::PushOnce(args) => print_report(json, &push_once::run(args, shutdown).await?)?,
        Command::Capacity(args) => print_report(json, &capacity::run(args))?,
        Command::Origin(args) => push_once::origin::run(args).await?,
    }
    Ok(())
}

fn print_report(json: bool, report: &impl BenchReport) -> Result<(), OutputError> {
    if json { output::write_line(report.json()) } else { output::write(report.text().as_bytes()) }
}

/// Parses a duration of at most one day.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = crate::config::duration::parse(text)?;
    if duration > DURATION_MAX {
        return Err("must be at most a day".to_owned());
    }
    Ok(duration)
}

/// The maximum duration of a bench.
const DURATION_MAX: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_longer_than_a_day_is_rejected() {
        assert_eq!(parse_duration("24h"), Ok(DURATION_MAX));
        assert!(parse_duration("25h").is_err());
    }
}
