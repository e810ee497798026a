//! One frame of `pushonce top`: rates from two samples. Pure.

use std::collections::HashMap;
use std::time::Duration;

use pushonce_core::{Position, Topic};
use pushonce_proto::cluster::TopicInfo;
use pushonce_proto::pb::cluster::v1::{Member, Problem};
use serde_json::{Value, json};

use super::super::cluster::table;
use super::{Sample, SortBy, TOPICS_MAX};

/// The cluster at one time.
#[derive(Debug)]
pub(super) struct Frame {
    cluster: String,
    problems: Vec<Problem>,
    nodes: Vec<NodeRow>,
    topics: Vec<TopicRow>,
    topic_count: usize,
    unknown_shards: usize,
    /// Messages a second of all topics of the sample.
    rate: f64,
    /// Subscriptions to all topics of the sample.
    audience: u64,
}

#[derive(Debug)]
struct NodeRow {
    member: Member,
    owned_shards: usize,
    replicas: usize,
}

#[derive(Debug)]
struct TopicRow {
    info: TopicInfo,
    /// Messages a second.
    rate: f64,
}

impl Frame {
    /// The frame of a sample that was taken `elapsed` after the one in which the topics had the positions `before`.
    pub(super) fn new(
        sample: &Sample,
        before: &HashMap<Topic, Position>,
        elapsed: Duration,
    ) -> Frame {
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let row = |info: &TopicInfo| TopicRow {
            rate: published_since(before.get(&info.topic), info.head) as f64 / seconds,
            info: info.clone(),
        };
        let topics: Vec<_> = sample.topics.iter().map(row).collect();
        Frame {
            cluster: sample.status.cluster_id.clone(),
            problems: sample.status.problems.clone(),
            nodes: sample.status.members.iter().map(|member| node_row(sample, member)).collect(),
            topic_count: topics.len(),
            unknown_shards: sample.unknown_shards,
            rate: topics.iter().map(|topic| topic.rate).sum(),
            audience: topics.iter().filter_map(|topic| topic.info.audience).sum(),
            topics,
        }
    }

    /// The same frame with the first `limit` topics in the order `by`.
    pub(super) fn sorted(mut self, by: SortBy, limit: usize) -> Frame {
        // The names are in order, and sorting is stable.
        match by {
            SortBy::Rate => self.topics.sort_by(|a, b| b.rate.total_cmp(&a.rate)),
            SortBy::Audience => self.topics.sort_by_key(|t| std::cmp::Reverse(t.info.audience)),
            SortBy::Bytes => self.topics.sort_by_key(|t| std::cmp::Reverse(t.info.history_bytes)),
        }
        self.topics.truncate(limit);
        self
    }

    pub(super) fn text(&self) -> String {
        let mut text: String = self
            .problems
            .iter()
            .map(|p| format!("{}: {}\n", p.severity.to_uppercase(), p.text))
            .collect();
        if text.is_empty() {
            text = "healthy\n".to_owned();
        }
        let more = if self.topic_count >= TOPICS_MAX as usize { " first" } else { "" };
        text += &format!(
            "cluster {}, {} messages/s, {} subscriptions,{more} {} topics\n",
            self.cluster,
            rounded(self.rate),
            self.audience,
            self.topic_count,
        );
        if self.unknown_shards > 0 {
            text += &format!(
                "the owners of {} shards did not answer: their topics are missing\n",
                self.unknown_shards
            );
        }
        let nodes = self.nodes.iter().map(NodeRow::cells).collect();
        text += "\n";
        text +=
            &table(["node", "name", "state", "link", "region", "rtt", "owns", "replicas"], nodes);
        let topics = self.topics.iter().map(TopicRow::cells).collect();
        text += "\n";
        text += &table(
            ["topic", "messages/s", "audience", "position", "history", "bytes", "owner"],
            topics,
        );
        text
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cluster": self.cluster,
            "problems": self.problems.iter().map(|p| json!({"severity": p.severity, "text": p.text})).collect::<Vec<_>>(),
            "messages_per_second": self.rate,
            "audience": self.audience,
            "topic_count": self.topic_count,
            "unknown_shards": self.unknown_shards,
            "nodes": self.nodes.iter().map(NodeRow::json).collect::<Vec<_>>(),
            "topics": self.topics.iter().map(TopicRow::json).collect::<Vec<_>>(),
        })
    }
}

/// The number of messages of a topic since an earlier sample. A topic that is in a new epoch has at least those of that
/// epoch; one that is new in the sample may be older than it.
fn published_since(before: Option<&Position>, now: Position) -> u64 {
    match before {
        None => 0,
        Some(before) if before.epoch == now.epoch => now.offset.0.saturating_sub(before.offset.0),
        Some(_) => now.offset.0,
    }
}

fn node_row(sample: &Sample, member: &Member) -> NodeRow {
    let shards = &sample.status.shards;
    NodeRow {
        member: member.clone(),
        owned_shards: shards.iter().filter(|shard| shard.owner == member.id).count(),
        replicas: shards.iter().filter(|shard| shard.voters.contains(&member.id)).count(),
    }
}

impl NodeRow {
    fn cells(&self) -> [String; 8] {
        let Member { id, name, state, region, reachable, .. } = &self.member;
        [
            format!("n{id}"),
            name.clone(),
            state.clone(),
            if *reachable { "up" } else { "down" }.to_owned(),
            region.clone(),
            self.round_trip_ms().map_or("-".to_owned(), |ms| format!("{ms:.1} ms")),
            self.owned_shards.to_string(),
            self.replicas.to_string(),
        ]
    }

    fn round_trip_ms(&self) -> Option<f64> {
        self.member.round_trip_us.map(|us| us as f64 / 1_000.0)
    }

    fn json(&self) -> Value {
        let Member { id, name, state, region, reachable, .. } = &self.member;
        json!({
            "node": id, "name": name, "state": state, "region": region, "reachable": reachable,
            "round_trip_ms": self.round_trip_ms(), "owned_shards": self.owned_shards, "replicas": self.replicas,
        })
    }
}

impl TopicRow {
    fn cells(&self) -> [String; 7] {
        let info = &self.info;
        [
            info.topic.to_string(),
            rounded(self.rate),
            info.audience.map_or("-".to_owned(), |sessions| sessions.to_string()),
            info.head.to_string(),
            info.history_count.to_string(),
            info.history_bytes.to_string(),
            info.owner.to_string(),
        ]
    }

    fn json(&self) -> Value {
        let info = &self.info;
        json!({
            "topic": info.topic.as_str(), "messages_per_second": self.rate, "audience": info.audience,
            "position": info.head.to_string(),
            "history": {"count": info.history_count, "bytes": info.history_bytes}, "owner": info.owner.0,
        })
    }
}

/// A rate with one digit after the point below 10.
fn rounded(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use pushonce_core::{NodeId, ShardId};
    use pushonce_proto::pb::cluster::v1::{Shard, StatusResponse};

    use super::*;

    fn info(name: &str, head: Position, audience: u64) -> TopicInfo {
        TopicInfo {
            topic: Topic::new(name).expect("valid"),
            shard: ShardId(0),
            owner: NodeId(1),
            head,
            history_count: 1,
            history_bytes: 9,
            audience: Some(audience),
        }
    }

    fn sample(topics: Vec<TopicInfo>) -> Sample {
        let member = Member { id: 1, name: "a".to_owned(), reachable: true, ..Member::default() };
        let shard = Shard { owner: 1, voters: vec![1], ..Shard::default() };
        let status = StatusResponse {
            members: vec![member],
            shards: vec![shard],
            ..StatusResponse::default()
        };
        Sample { taken_at: Instant::now(), status, topics, unknown_shards: 0 }
    }

    fn frame(before: &[(&str, Position)], now: Vec<TopicInfo>) -> Frame {
        let topic = |name| Topic::new(name).expect("valid");
        let before = before.iter().map(|(name, head)| (topic(name), *head)).collect();
        Frame::new(&sample(now), &before, Duration::from_secs(2))
    }

    #[test]
    fn rates_follow_positions_and_a_new_epoch_counts_from_its_start() {
        let before = [("a", Position::new(3, 10)), ("b", Position::new(3, 10))];
        let now = vec![
            info("a", Position::new(3, 30), 0),
            info("b", Position::new(5, 4), 0),
            info("new", Position::new(9, 1_000), 0),
        ];
        let frame = frame(&before, now);
        let rates: Vec<_> = frame.topics.iter().map(|topic| topic.rate).collect();
        assert_eq!(rates, [10.0, 2.0, 0.0]);
        assert!((frame.rate - 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn topics_are_sorted_before_they_are_cut() {
        let now = vec![info("a", Position::ZERO, 1), info("b", Position::new(3, 8), 7)];
        let before = [("a", Position::ZERO), ("b", Position::new(3, 4))];
        for by in [SortBy::Rate, SortBy::Audience] {
            let shown = frame(&before, now.clone()).sorted(by, 1);
            assert_eq!(shown.topics.len(), 1);
            assert_eq!((shown.topics[0].info.topic.as_str(), shown.topic_count), ("b", 2));
        }
    }

    #[test]
    fn text_and_json_show_health_nodes_and_topics() {
        let frame = frame(&[], vec![info("chat/7", Position::new(3, 8), 41_877)]);
        let text = frame.text();
        assert!(text.starts_with("healthy\n"), "{text}");
        assert!(text.contains("41877 subscriptions, 1 topics"), "{text}");
        assert!(text.lines().any(|line| line.split_whitespace().take(2).eq(["n1", "a"])), "{text}");
        assert!(text.contains("chat/7"), "{text}");
        let json = frame.json();
        assert_eq!(json["nodes"][0]["owned_shards"], 1);
        assert_eq!(json["topics"][0]["position"], "3:8");
    }
}
