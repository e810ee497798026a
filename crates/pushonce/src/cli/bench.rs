//! `pushonce bench`: a load generator that tells percentiles.
//!
//! It talks to a cluster as any client does and to nobody that was not named; only `enqueue-once` starts
//! what it needs. All clocks are its
//! own, so that latencies need no agreement between machines. It shares its machine's cores with
//! whatever else runs there, so it tells its own use of them beside the servers'.

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

/// What to measure.
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
    /// Keep viewers up to date in four ways, and measure what each costs the site; starts all it needs
    PushOnce(push_once::Args),
    /// Compute what so many viewers need; measures nothing
    Capacity(capacity::Args),
    /// The site of `enqueue-once`
    #[command(hide = true)]
    Origin(push_once::origin::Args),
}

/// What a bench has measured, for people and for programs.
trait BenchReport {
    fn text(&self) -> String;
    fn json(&self) -> Value;
}

/// Measures until the time is over or `shutdown`, and tells what was measured until then.
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

/// Reads a duration of at most a day.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = super::duration::parse(text)?;
    if duration > DURATION_MAX {
        return Err("at most a day".to_owned());
    }
    Ok(duration)
}

/// A day. What runs longer is no bench.
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
