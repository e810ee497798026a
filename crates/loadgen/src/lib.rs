//! The load generators of `pushonce bench`, which report rates and percentiles.
//!
//! # Overview
//!
//! `publish` measures the time to the acknowledgement, `fanout` the time until every subscriber has a message,
//! `push_once` the cost of four ways to keep viewers up to date, and `capacity` computes the resources for a
//! number of viewers from measured costs. [`Args`] is the command line of all of them; [`run`] runs one.
//!
//! # Guarantees
//!
//! - A bench uses a cluster like any client, and only the servers that the command line names. Only
//!   `push-once` starts its own processes; they end with it.
//! - Latencies need no clock synchronization between machines: a bench uses only its own clock.
//! - A bench reports its own CPU usage beside that of the servers, because it shares the cores of its machine
//!   with everything else there.
//!
//! # Non-goals
//!
//! Load on other servers: see `benches/peers`. Verification of delivery: see the cluster tests.
//!
//! # Data flow
//!
//! Publishes become due at the time that a schedule says, whether or not earlier ones have returned. Each
//! carries a stamp with its due time, from which the latency is counted. The outcomes of all workers add up to
//! one [`BenchReport`].
//!
//! # Caller contract
//!
//! - The token of [`Access`] is valid for longer than the bench: subscribers over WebSocket do not renew it.
//! - The program has the commands `init`, `serve` and `bench origin` of `pushonce`: `push-once` starts it.
//! - The caller prints the report. Progress goes to standard error.

mod capacity;
mod fanout;
mod pace;
mod progress;
mod publish;
mod push_once;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use pushonce_client::{BuildError, CertificateTrust, Publisher, ServerAddress, TokenProvider};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// The bench to run.
#[derive(clap::Args)]
pub struct Args {
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

/// How the bench authenticates itself and its servers.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The source of the access token; `None` for servers that need none.
    pub token: Option<TokenProvider>,
    /// The certificates that servers may have.
    pub trust: CertificateTrust,
}

/// The results of a bench.
pub trait BenchReport {
    /// Lines of text, or a page of Markdown.
    fn text(&self) -> String;
    /// One JSON object with the figures of the text.
    fn json(&self) -> Value;
}

/// Measures until the duration is over or `shutdown` is cancelled, and returns the results until then; `None`
/// for the site of `push-once`, which has no results. `program` is the binary of `pushonce`. `access` is for the
/// servers of `publish` and `fanout`.
///
/// # Errors
/// When a server cannot be reached, a process cannot be started or measured, or `push-once` is interrupted.
pub async fn run(
    args: Args,
    program: PathBuf,
    access: Access,
    shutdown: CancellationToken,
) -> anyhow::Result<Option<Box<dyn BenchReport>>> {
    Ok(Some(match args.command {
        Command::Publish(args) => Box::new(publish::run(args, access, shutdown).await?),
        Command::Fanout(args) => Box::new(fanout::run(args, access, shutdown).await?),
        Command::PushOnce(args) => Box::new(push_once::run(args, program, shutdown).await?),
        Command::Capacity(args) => Box::new(capacity::run(args)),
        Command::Origin(args) => {
            push_once::origin::run(args).await?;
            return Ok(None);
        }
    }))
}

impl Access {
    /// A publisher to `servers`.
    pub(crate) fn publisher(&self, servers: Vec<ServerAddress>) -> Result<Publisher, BuildError> {
        let builder = Publisher::builder(servers).trust(self.trust.clone());
        match self.token.clone() {
            Some(token) => builder.token(token).build(),
            None => builder.build(),
        }
    }
}

/// Parses a duration above zero and of at most one day.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("expected a number with ms, s, m or h, as in 10s, not {text:?}"))?;
    if duration.is_zero() || duration > DURATION_MAX {
        return Err("must be above 0 and at most a day".to_owned());
    }
    Ok(duration)
}

/// The maximum duration of a bench.
const DURATION_MAX: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_above_zero_and_at_most_a_day() {
        assert_eq!(parse_duration("24h"), Ok(DURATION_MAX));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for text in ["25h", "0s", "10", ""] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
