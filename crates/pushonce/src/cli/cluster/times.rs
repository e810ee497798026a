//! `pushonce cluster set-times`: changes the consensus times of all nodes.

use std::time::Duration;

use pushonce_core::ConsensusTimes;
use pushonce_proto::pb::cluster::v1::{self as pb, SetTimesRequest, StatusRequest};
use serde_json::{Value, json};

use super::super::operator::{OperatorClient, print_output, status_error};
use crate::config::{ConsensusPreset, SharedTimes};

/// How long the command waits for the members to acknowledge before it returns.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The preset, and times that override its own.
#[derive(clap::Args)]
pub(super) struct Args {
    /// lan (nodes a few milliseconds apart) or wan (up to 250 ms)
    #[arg(value_name = "lan|wan", hide_possible_values = true)]
    preset: ConsensusPreset,
    #[command(flatten)]
    times: SharedTimes,
}

/// Commits the change, and waits for a limited time until it is complete.
pub(super) async fn set_times(
    client: &mut OperatorClient,
    args: Args,
    json: bool,
) -> anyhow::Result<()> {
    let requested = args.preset.settings_with(args.times).times();
    let request = SetTimesRequest { times: Some(requested.into()) };
    client.set_times(request).await.map_err(status_error)?;
    let deadline = tokio::time::Instant::now() + ACKNOWLEDGE_TIMEOUT;
    loop {
        let status = client.status(StatusRequest {}).await.map_err(status_error)?.into_inner();
        let cluster_times = status.times.unwrap_or_default();
        let is_applied =
            cluster_times.next.is_none() && cluster_times.current == Some(requested.into());
        if is_applied || tokio::time::Instant::now() >= deadline {
            print_output(
                json,
                || times_json(&cluster_times),
                || outcome_text(requested, is_applied),
            )?;
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn outcome_text(requested: ConsensusTimes, is_applied: bool) -> String {
    if is_applied {
        return format!(
            "the cluster has the consensus times {requested}; restart each node in turn, without \
             these flags or with the new ones, to change its heartbeats and timeouts\n"
        );
    }
    format!(
        "the change to {requested} is committed, and waits until every member has acknowledged it: bring \
         back or remove those that are down (`pushonce cluster status`)\n"
    )
}

/// The consensus times in milliseconds.
pub(super) fn times_json(times: &pb::ClusterTimes) -> Value {
    let to_json = |times: &pb::ConsensusTimes| {
        json!({
            "heartbeat": times.heartbeat, "election_min": times.election_min,
            "election_max": times.election_max, "rpc_timeout": times.rpc_timeout,
            "connect_timeout": times.connect_timeout,
        })
    };
    json!({
        "version": times.version,
        "current": times.current.as_ref().map(to_json),
        "next": times.next.as_ref().map(to_json),
    })
}
