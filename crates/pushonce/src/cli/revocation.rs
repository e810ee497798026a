//! `pushonce token revoke` and `pushonce token revocations`: tokens that the cluster no longer accepts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use pushonce_core::{RevokedTokens, Timestamp};
use pushonce_proto::pb::cluster::v1::{Revocation, RevocationsRequest, RevokeRequest};
use serde_json::{Value, json};

use super::cluster::table;
use super::operator::{ServerArgs, print_output, status_error};
use crate::config::{HumanDuration, duration};

/// The tokens to revoke, and the servers to ask.
#[derive(clap::Args)]
pub(super) struct RevokeArgs {
    /// Revoke the token with this id (claim `jti`)
    #[arg(long, value_name = "ID", conflicts_with_all = ["subject", "issued_before"])]
    id: Option<String>,
    /// Revoke the tokens of this subject (claim `sub`); with --issued-before only the older ones
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Revoke the tokens that were issued (claim `iat`) before this time: `now`, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    issued_before: Option<Timestamp>,
    /// How long the revocation is kept: as long as the longest of the tokens is valid
    #[arg(long = "for", value_name = "TIME", default_value = "30d", value_parser = duration::parse)]
    keep: Duration,
    #[command(flatten)]
    server: ServerArgs,
}

/// The servers to ask.
#[derive(clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn revoke(args: RevokeArgs, json: bool) -> anyhow::Result<()> {
    let RevokeArgs { id, subject, issued_before, keep, server } = args;
    let tokens = match (id, subject, issued_before) {
        (Some(id), _, _) => RevokedTokens::WithId(id),
        (None, Some(subject), issued_before) => RevokedTokens::OfSubject { subject, issued_before },
        (None, None, Some(time)) => RevokedTokens::IssuedBefore(time),
        (None, None, None) => bail!("name the tokens with --id, --subject or --issued-before"),
    };
    let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    let mut client = server.connect().await?;
    let text = format!("revoked {}\n", describe(&tokens));
    let request = RevokeRequest { tokens: Some(tokens.into()), keep_ms };
    client.revoke(request).await.map_err(status_error)?;
    Ok(print_output(json, || json!({"revoked": true}), || text.clone())?)
}

pub(super) async fn list(args: ListArgs, json: bool) -> anyhow::Result<()> {
    let mut client = args.server.connect().await?;
    let response = client.revocations(RevocationsRequest {}).await.map_err(status_error)?;
    let entries = response.into_inner().revocations.into_iter().map(|entry| {
        let Revocation { tokens, kept_until_ms } = entry;
        let tokens = RevokedTokens::try_from(tokens.unwrap_or_default())?;
        anyhow::Ok((tokens, Timestamp(kept_until_ms)))
    });
    let entries = entries.collect::<Result<Vec<_>, _>>().context("invalid response")?;
    let to_json = || entries.iter().map(|(tokens, until)| entry_json(tokens, *until)).collect();
    let row = |(tokens, until): &(RevokedTokens, Timestamp)| [describe(tokens), remaining(*until)];
    let to_text = || table(["tokens", "kept for"], entries.iter().map(row).collect());
    Ok(print_output(json, to_json, to_text)?)
}

fn describe(tokens: &RevokedTokens) -> String {
    match tokens {
        RevokedTokens::WithId(id) => format!("the token with the id {id:?}"),
        RevokedTokens::OfSubject { subject, issued_before: None } => {
            format!("every token of {subject:?}")
        }
        RevokedTokens::OfSubject { subject, issued_before: Some(time) } => {
            format!("the tokens of {subject:?} issued before {}", seconds(*time))
        }
        RevokedTokens::IssuedBefore(time) => {
            format!("every token issued before {}", seconds(*time))
        }
    }
}

fn entry_json(tokens: &RevokedTokens, kept_until: Timestamp) -> Value {
    let (id, subject, issued_before) = match tokens {
        RevokedTokens::WithId(id) => (Some(id), None, None),
        RevokedTokens::OfSubject { subject, issued_before } => {
            (None, Some(subject), *issued_before)
        }
        RevokedTokens::IssuedBefore(time) => (None, None, Some(*time)),
    };
    let issued_before = issued_before.map(|time| time.0);
    json!({
        "id": id, "subject": subject, "issued_before_ms": issued_before,
        "kept_until_ms": kept_until.0,
    })
}

fn seconds(time: Timestamp) -> String {
    format!("{} s", time.0 / 1_000)
}

/// The time until the revocation is removed, in whole seconds.
fn remaining(kept_until: Timestamp) -> String {
    let remaining = kept_until.0.saturating_sub(now().0) / 1_000;
    HumanDuration(Duration::from_secs(remaining)).to_string()
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    match text {
        "now" => Ok(now()),
        seconds => seconds
            .parse::<u64>()
            .ok()
            .and_then(|seconds| seconds.checked_mul(1_000))
            .map(Timestamp)
            .ok_or_else(|| "expected `now` or whole seconds since 1970".to_owned()),
    }
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_issue_is_given_in_seconds_or_as_now() {
        assert_eq!(parse_time("1790000000"), Ok(Timestamp(1_790_000_000_000)));
        assert!(parse_time("now").is_ok_and(|time| time.0 > 1_700_000_000_000));
        for text in ["", "-1", "yesterday", "18446744073709551615"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
