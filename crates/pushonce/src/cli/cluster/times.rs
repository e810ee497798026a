//! `pushonce cluster set-times`: change the times of consensus of all nodes.

use std::time::Duration;

use pushonce_core::ConsensusTimes;
use pushonce_proto::pb::cluster::v1::cluster_client::ClusterClient;
use pushonce_proto::pb::cluster::v1::{self as pb, SetTimesRequest, StatusRequest};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::super::operator::{print, refused};
use crate::config::{Preset, Time};

/// How long the command waits for the members to acknowledge before it returns.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// The preset to begin with, and times in the place of its own.
#[derive(clap::Args)]
pub(super) struct Args {
    /// lan (nodes some milliseconds apart) or wan (up to 250 ms)
    #[arg(value_name = "lan|wan")]
    preset: Preset,
    /// Between two heartbeats of an owner
    #[arg(long, value_name = "TIME")]
    heartbeat: Option<Time>,
    /// The shortest wait of a replica before it asks to replace a silent owner
    #[arg(long, value_name = "TIME")]
    election_min: Option<Time>,
    /// The longest such wait, and the length of an owner's lease
    #[arg(long, value_name = "TIME")]
    election_max: Option<Time>,
    /// How long a small request to another node may take
    #[arg(long, value_name = "TIME")]
    rpc_timeout: Option<Time>,
    /// How long dialling another node may take
    #[arg(long, value_name = "TIME")]
    connect_timeout: Option<Time>,
}

/// Decides the change, and waits a while for its end.
pub(super) async fn set(
    client: &mut ClusterClient<Channel>,
    args: Args,
    json: bool,
) -> anyhow::Result<()> {
    let wanted = times(&args);
    let request = SetTimesRequest { times: Some(wanted.into()) };
    client.set_times(request).await.map_err(refused)?;
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = client.status(StatusRequest {}).await.map_err(refused)?.into_inner();
        let agreed = status.times.unwrap_or_default();
        let done = agreed.next.is_none() && agreed.current == Some(wanted.into());
        if done || tokio::time::Instant::now() >= until {
            print(json, || times_json(&agreed), || said(wanted, done))?;
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn said(wanted: ConsensusTimes, done: bool) -> String {
    if done {
        return format!(
            "the cluster has the consensus times {wanted}; restart each node in turn, without \
             these flags or with the new ones, to change its heartbeats and timeouts\n"
        );
    }
    format!(
        "the change to {wanted} is decided, and waits until every member has acknowledged it: bring \
         back or remove those that are down (`pushonce cluster status`)\n"
    )
}

fn times(args: &Args) -> ConsensusTimes {
    let preset = match args.preset {
        Preset::Lan => ConsensusTimes::LAN,
        Preset::Wan => ConsensusTimes::WAN,
    };
    let time = |said: &Option<Time>, preset: u32| {
        let millis = said.as_ref().map(|time| time.0.as_millis());
        millis.map_or(preset, |millis| u32::try_from(millis).unwrap_or(u32::MAX))
    };
    ConsensusTimes {
        heartbeat_ms: time(&args.heartbeat, preset.heartbeat_ms),
        election_min_ms: time(&args.election_min, preset.election_min_ms),
        election_max_ms: time(&args.election_max, preset.election_max_ms),
        rpc_timeout_ms: time(&args.rpc_timeout, preset.rpc_timeout_ms),
        connect_timeout_ms: time(&args.connect_timeout, preset.connect_timeout_ms),
    }
}

/// In milliseconds.
pub(super) fn times_json(times: &pb::ClusterTimes) -> Value {
    let one = |times: &pb::ConsensusTimes| {
        json!({
            "heartbeat": times.heartbeat, "election_min": times.election_min,
            "election_max": times.election_max, "rpc_timeout": times.rpc_timeout,
            "connect_timeout": times.connect_timeout,
        })
    };
    json!({
        "version": times.version,
        "current": times.current.as_ref().map(one),
        "next": times.next.as_ref().map(one),
    })
}
