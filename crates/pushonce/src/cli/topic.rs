//! `pushonce topic`: shows topics with their owners, history and subscriber counts, and removes them.

use anyhow::Context as _;
use clap::Subcommand;
use pushonce_core::{Topic, TopicRemoval};
use pushonce_proto::cluster::{RemovedMessages, TopicInfo, TopicList, TopicQuery};
use pushonce_proto::pb::cluster::v1::{
    DeleteTopicRequest, PurgeTopicRequest, TopicRequest, TopicsRequest,
};
use serde_json::{Value, json};

use super::cluster::table;
use super::operator::{OperatorClient, ServerArgs, print_output, status_error};

/// The subcommand, and the servers to ask.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Show the owner, position, history and subscriber count of a topic
    Info {
        /// Name of the topic
        #[arg(value_parser = str::parse::<Topic>)]
        topic: Topic,
    },
    /// Show the owner, position, history and subscriber count of every topic that has messages, or had some
    /// and has not expired
    List {
        /// List only topics whose names begin with this, as in chat/
        #[arg(default_value = "")]
        prefix: String,
        /// Maximum number of topics to list
        #[arg(long, value_name = "N", default_value_t = u32::MAX, hide_default_value = true)]
        limit: u32,
    },
    /// Remove the messages of topics, at every node. Subscribers get a gap. Copies in caches outside the cluster
    /// stay until they expire
    Purge {
        /// Names of the topics
        #[arg(required = true, value_parser = str::parse::<Topic>)]
        topics: Vec<Topic>,
    },
    /// Remove topics with their messages, as purge. The next publish to a topic creates it again
    Delete {
        /// Names of the topics
        #[arg(required = true, value_parser = str::parse::<Topic>)]
        topics: Vec<Topic>,
    },
}

/// Number of topics per request: the maximum that a node returns.
const PAGE_TOPICS_MAX: u32 = 1_000;

pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let mut client = args.server.connect().await?;
    match args.command {
        Command::Purge { topics } => {
            remove_topics(&mut client, topics, TopicRemoval::Purge, json).await?
        }
        Command::Delete { topics } => {
            remove_topics(&mut client, topics, TopicRemoval::Delete, json).await?
        }
        Command::Info { topic } => {
            let request = TopicRequest { topic: topic.into() };
            let info = client.topic(request).await.map_err(status_error)?.into_inner();
            let info = TopicInfo::try_from(info)?;
            print_output(json, || info_json(&info), || info_text(&info))?;
        }
        Command::List { prefix, limit } => {
            let TopicList { topics, unknown_shards } =
                list_topics(&mut client, &prefix, limit).await?;
            if json {
                for info in &topics {
                    print_output(json, || info_json(info), String::new)?;
                }
            } else {
                print_output(json, || Value::Null, || list_text(&topics))?;
            }
            if !unknown_shards.is_empty() {
                let shards = unknown_shards.iter().map(ToString::to_string).collect::<Vec<_>>();
                let shards = shards.join(" ");
                anyhow::bail!("incomplete: the owner of {shards} did not answer; retry");
            }
        }
    }
    Ok(())
}

/// Removes topic after topic, and prints a line for each. The first failure ends the command.
async fn remove_topics(
    client: &mut OperatorClient,
    topics: Vec<Topic>,
    removal: TopicRemoval,
    json: bool,
) -> anyhow::Result<()> {
    for topic in topics {
        let removed = remove_topic(client, &topic, removal).await;
        let removed = removed.with_context(|| format!("cannot {} {topic}", removal.as_str()))?;
        print_output(json, || removed_json(&topic, removed), || removed_text(&topic, removed))?;
    }
    Ok(())
}

async fn remove_topic(
    client: &mut OperatorClient,
    topic: &Topic,
    removal: TopicRemoval,
) -> anyhow::Result<RemovedMessages> {
    let topic = topic.as_str().to_owned();
    Ok(match removal {
        TopicRemoval::Purge => {
            let response = client.purge_topic(PurgeTopicRequest { topic }).await;
            let response = response.map_err(status_error)?.into_inner();
            RemovedMessages { count: response.messages, bytes: response.bytes }
        }
        TopicRemoval::Delete => {
            let response = client.delete_topic(DeleteTopicRequest { topic }).await;
            let response = response.map_err(status_error)?.into_inner();
            RemovedMessages { count: response.messages, bytes: response.bytes }
        }
    })
}

fn removed_text(topic: &Topic, removed: RemovedMessages) -> String {
    format!("{topic}: {} messages, {} bytes removed\n", removed.count, removed.bytes)
}

fn removed_json(topic: &Topic, removed: RemovedMessages) -> Value {
    let removed = json!({"count": removed.count, "bytes": removed.bytes});
    json!({"topic": topic.as_str(), "removed": removed})
}

/// Requests page after page until the end or the limit is reached.
pub(super) async fn list_topics(
    client: &mut OperatorClient,
    prefix: &str,
    limit: u32,
) -> anyhow::Result<TopicList> {
    let mut all = TopicList::default();
    let mut remaining = limit;
    while remaining > 0 {
        let after = all.topics.last().map(|info| info.topic.clone());
        let count_max = remaining.min(PAGE_TOPICS_MAX);
        let query = TopicQuery { prefix: prefix.to_owned(), after, count_max };
        let request = TopicsRequest::from(query);
        let page = client.topics(request).await.map_err(status_error)?.into_inner();
        let page = TopicList::try_from(page)?;
        let count = u32::try_from(page.topics.len())?;
        all.topics.extend(page.topics);
        all.unknown_shards.extend(page.unknown_shards);
        if count < count_max {
            break;
        }
        remaining = remaining.saturating_sub(count);
    }
    all.unknown_shards.sort_unstable();
    all.unknown_shards.dedup();
    Ok(all)
}

/// The audience, or a dash while a new owner does not know it.
fn audience_text(info: &TopicInfo) -> String {
    info.audience.map_or_else(|| "-".to_owned(), |sessions| sessions.to_string())
}

fn info_text(info: &TopicInfo) -> String {
    format!(
        "{}\n  owner     {} (shard {})\n  epoch     {}\n  position  {}\n  \
         history   {} messages, {} bytes\n  audience  {}\n",
        info.topic,
        info.owner,
        info.shard,
        info.head.epoch.0,
        info.head,
        info.history_count,
        info.history_bytes,
        audience_text(info),
    )
}

fn list_text(topics: &[TopicInfo]) -> String {
    let row = |info: &TopicInfo| {
        [
            info.topic.to_string(),
            info.owner.to_string(),
            info.head.to_string(),
            info.history_count.to_string(),
            info.history_bytes.to_string(),
            audience_text(info),
        ]
    };
    let header = ["topic", "owner", "position", "messages", "bytes", "audience"];
    table(header, topics.iter().map(row).collect())
}

fn info_json(info: &TopicInfo) -> Value {
    json!({
        "topic": info.topic.as_str(),
        "shard": info.shard.0,
        "owner": info.owner.0,
        "epoch": info.head.epoch.0,
        "position": info.head.to_string(),
        "history": {"count": info.history_count, "bytes": info.history_bytes},
        "audience": info.audience,
    })
}

#[cfg(test)]
mod tests {
    use pushonce_core::{NodeId, Position, ShardId};

    use super::*;

    fn info(audience: Option<u64>) -> TopicInfo {
        TopicInfo {
            topic: Topic::new("chat/7").expect("valid"),
            shard: ShardId(3),
            owner: NodeId(2),
            head: Position::new(12, 4_051),
            history_count: 1_000,
            history_bytes: 65_536,
            audience,
        }
    }

    #[test]
    fn unknown_audience_is_a_dash_in_text_and_null_in_json() {
        let text = list_text(&[info(Some(41_877)), info(None)]);
        let last: Vec<_> = text.lines().filter_map(|l| l.split_whitespace().last()).collect();
        assert_eq!(last, ["audience", "41877", "-"]);
        assert!(info_text(&info(Some(7))).ends_with("audience  7\n"));
        assert_eq!(info_json(&info(None))["audience"], Value::Null);
        assert_eq!(info_json(&info(Some(0)))["audience"], 0);
    }
}
