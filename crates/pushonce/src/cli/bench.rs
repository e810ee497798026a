//! `pushonce bench`: a load generator that tells percentiles.
//!
//! It talks to a cluster as any client does and to nobody that was not named. All clocks are its
//! own, so that latencies need no agreement between machines. It shares its machine's cores with
//! whatever else runs there, so it tells its own use of them beside the servers'.

mod fanout;
mod latency;
mod pace;
mod progress;
mod publish;
mod usage;

use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

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
}

/// What a bench has measured, for people and for programs.
trait Report {
    fn text(&self) -> String;
    fn json(&self) -> Value;
}

/// Measures until the time is over or `shutdown`, and tells what was measured until then.
pub(super) async fn run(args: Args, json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    match args.command {
        Command::Publish(args) => print(json, &publish::run(args, shutdown).await?),
        Command::Fanout(args) => print(json, &fanout::run(args, shutdown).await?),
    }
    Ok(())
}

#[allow(clippy::print_stdout)]
fn print(json: bool, report: &impl Report) {
    if json { println!("{}", report.json()) } else { print!("{}", report.text()) }
}

/// Reads a duration: a number and `ms`, `s` or `m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("a number with ms, s or m, as in 10s, not {text:?}");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis = match &text[digits.len()..] {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * millis / 1_000.0)
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
        .ok_or_else(|| "more than nothing and at most 1440m".to_owned())
}

/// A day. What runs longer is no bench.
const LONGEST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for text in ["", "10", "s", "-1s", "0s", "1h", "nans", "infs", "99999m"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
