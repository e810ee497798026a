//! `pushonce top`: the nodes and the busiest topics of a cluster, again and again.

mod frame;

use std::collections::HashMap;
use std::time::Instant;

use clap::ValueEnum;
use pushonce_core::{Position, Topic};
use pushonce_proto::pb::cluster::v1::{StatusRequest, StatusResponse};

use super::operator::{OperatorClient, ServerArgs, status_error};
use super::topic::list_topics;
use crate::config::HumanDuration;
use crate::output::{self, OutputError};
use frame::Frame;

/// The topics, their order, and the pace of the frames.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Show only topics whose names begin with this, as in chat/
    #[arg(default_value = "")]
    prefix: String,
    /// Order of the topics
    #[arg(long, value_enum, default_value_t = SortBy::Rate)]
    sort: SortBy,
    /// Maximum number of topics to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Time between two frames, at least 1s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    interval: HumanDuration,
    /// Exit after this number of frames
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

/// The order of the topics, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SortBy {
    /// Messages a second
    Rate,
    /// Subscribed sessions
    Audience,
    /// Bytes of the history
    Bytes,
}

/// Maximum number of topics of one sample: ten requests to each owner.
const TOPICS_MAX: u32 = 10_000;

/// The state of a cluster at one time.
struct Sample {
    taken_at: Instant,
    status: StatusResponse,
    topics: Vec<pushonce_proto::cluster::TopicInfo>,
    /// Shards whose owner did not answer.
    unknown_shards: usize,
}

fn parse_interval(text: &str) -> Result<HumanDuration, String> {
    let interval: HumanDuration = text.parse()?;
    if interval.0.as_secs() < 1 {
        return Err("at least 1s: a sample asks the owners of all shards".to_owned());
    }
    Ok(interval)
}

pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let mut client = args.server.connect().await?;
    let mut before = sample(&mut client, &args.prefix).await?;
    let mut frames = 0;
    while args.count.is_none_or(|count| frames < count) {
        tokio::time::sleep(args.interval.0).await;
        let now = sample(&mut client, &args.prefix).await?;
        let frame = Frame::new(&now, &heads(&before), now.taken_at - before.taken_at);
        show(&frame.sorted(args.sort, args.limit), json)?;
        before = now;
        frames += 1;
    }
    Ok(())
}

async fn sample(client: &mut OperatorClient, prefix: &str) -> anyhow::Result<Sample> {
    let status = client.status(StatusRequest {}).await.map_err(status_error)?.into_inner();
    let list = list_topics(client, prefix, TOPICS_MAX).await?;
    let taken_at = Instant::now();
    Ok(Sample { taken_at, status, topics: list.topics, unknown_shards: list.unknown_shards.len() })
}

fn heads(sample: &Sample) -> HashMap<Topic, Position> {
    sample.topics.iter().map(|info| (info.topic.clone(), info.head)).collect()
}

fn show(frame: &Frame, json: bool) -> Result<(), OutputError> {
    if json {
        return output::write_json(frame.json());
    }
    output::clear_terminal()?;
    output::write_text(&frame.text())
}
