//! What there is of topics, to the wire and back.

use pushonce_core::{NodeId, Position, ShardId, Topic};

use super::{decode_node, decode_shard_id};
use crate::InvalidField;
use crate::field::{decode_position, decode_topic};
use crate::pb::cluster::v1 as pb;

/// What there is of a topic, as its owner knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Which topic.
    pub topic: Topic,
    /// Its shard.
    pub shard: ShardId,
    /// The owner of the shard, which reports this.
    pub owner: NodeId,
    /// Its newest position; [`Position::ZERO`] when it never had a message.
    pub head: Position,
    /// How many messages its history has.
    pub history_count: u64,
    /// How many bytes their payloads have.
    pub history_bytes: u64,
    /// The number of subscribed sessions of the whole cluster. `None` while a new owner still counts.
    pub audience: Option<u64>,
}

/// Topics that have a message or had one, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicList {
    /// The topics.
    pub topics: Vec<TopicInfo>,
    /// Shards whose owner could not be asked: their topics are not here.
    pub unknown_shards: Vec<ShardId>,
}

impl From<TopicInfo> for pb::TopicInfo {
    fn from(info: TopicInfo) -> pb::TopicInfo {
        pb::TopicInfo {
            topic: info.topic.into(),
            shard: u32::from(info.shard.0),
            owner: info.owner.0,
            position: info.head.to_string(),
            history_count: info.history_count,
            history_bytes: info.history_bytes,
            audience: info.audience,
        }
    }
}

impl TryFrom<pb::TopicInfo> for TopicInfo {
    type Error = InvalidField;

    fn try_from(info: pb::TopicInfo) -> Result<TopicInfo, InvalidField> {
        Ok(TopicInfo {
            topic: decode_topic("topic", &info.topic)?,
            shard: decode_shard_id("shard", info.shard)?,
            owner: decode_node(info.owner).ok_or_else(|| InvalidField::missing("owner"))?,
            head: decode_position("position", &info.position)?,
            history_count: info.history_count,
            history_bytes: info.history_bytes,
            audience: info.audience,
        })
    }
}

impl From<TopicInfo> for pb::TopicResponse {
    fn from(info: TopicInfo) -> pb::TopicResponse {
        pb::TopicResponse { topic: Some(info.into()) }
    }
}

impl TryFrom<pb::TopicResponse> for TopicInfo {
    type Error = InvalidField;

    fn try_from(response: pb::TopicResponse) -> Result<TopicInfo, InvalidField> {
        response.topic.ok_or_else(|| InvalidField::missing("topic"))?.try_into()
    }
}

impl From<TopicList> for pb::TopicsResponse {
    fn from(list: TopicList) -> pb::TopicsResponse {
        pb::TopicsResponse {
            topics: list.topics.into_iter().map(pb::TopicInfo::from).collect(),
            unknown_shards: list.unknown_shards.into_iter().map(|shard| shard.0.into()).collect(),
        }
    }
}

impl TryFrom<pb::TopicsResponse> for TopicList {
    type Error = InvalidField;

    fn try_from(list: pb::TopicsResponse) -> Result<TopicList, InvalidField> {
        let shards =
            list.unknown_shards.into_iter().map(|shard| decode_shard_id("unknown_shards", shard));
        Ok(TopicList {
            topics: list.topics.into_iter().map(TopicInfo::try_from).collect::<Result<_, _>>()?,
            unknown_shards: shards.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_info_and_list_round_trip() {
        for audience in [None, Some(0), Some(41_877)] {
            let info = TopicInfo {
                topic: Topic::new("chat/7").expect("valid"),
                shard: ShardId(3),
                owner: NodeId(2),
                head: Position::new(12, 4_051),
                history_count: 1_000,
                history_bytes: 65_536,
                audience,
            };
            let list = TopicList { topics: vec![info.clone()], unknown_shards: vec![ShardId(7)] };
            assert_eq!(TopicList::try_from(pb::TopicsResponse::from(list.clone())), Ok(list));
            assert_eq!(TopicInfo::try_from(pb::TopicResponse::from(info.clone())), Ok(info));
        }
        let without_owner = pb::TopicInfo { topic: "a".to_owned(), ..pb::TopicInfo::default() };
        assert_eq!(TopicInfo::try_from(without_owner).map_err(|error| error.field), Err("owner"));
    }
}
