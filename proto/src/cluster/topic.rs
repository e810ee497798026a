//! Conversion of the state of topics, and of the query for it, to and from the wire.

use pushonce_core::{NodeId, Position, ShardId, Topic, TopicRemoval};

use super::{decode_node, decode_shard_id};
use crate::InvalidField;
use crate::field::{decode_position, decode_topic};
use crate::pb::cluster::v1 as pb;
use crate::pb::peer::v1 as peer;

/// The state of a topic, as its owner reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// The topic.
    pub topic: Topic,
    /// The shard of the topic.
    pub shard: ShardId,
    /// The owner of the shard, which reports this state.
    pub owner: NodeId,
    /// The newest position; [`Position::ZERO`] if the topic never had a message.
    pub head: Position,
    /// Number of messages in the history.
    pub history_count: u64,
    /// Total payload bytes of the history.
    pub history_bytes: u64,
    /// Number of subscribed sessions in the whole cluster; `None` while a new owner still counts them.
    pub audience: Option<u64>,
}

/// One page of a list of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicQuery {
    /// Only names with this prefix; empty for all.
    pub prefix: String,
    /// Only names after this one: the last name of the previous page.
    pub after: Option<Topic>,
    /// Maximum number of topics.
    pub count_max: u32,
}

/// Topics that have or had a message, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicList {
    /// The topics of the shards whose owner responded.
    pub topics: Vec<TopicInfo>,
    /// Shards whose owner could not be reached: their topics are missing from the list.
    pub unknown_shards: Vec<ShardId>,
}

/// The messages that a purge or a deletion removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedMessages {
    /// Number of messages.
    pub count: u64,
    /// Total bytes of their payloads.
    pub bytes: u64,
}

/// The request for a removal.
pub fn removal_request(topic: Topic, removal: TopicRemoval) -> peer::RemoveTopicRequest {
    let removal = match removal {
        TopicRemoval::Purge => peer::TopicRemoval::Purge,
        TopicRemoval::Delete => peer::TopicRemoval::Delete,
    };
    peer::RemoveTopicRequest { topic: topic.into(), removal: removal.into() }
}

/// Decodes the request for a removal.
///
/// # Errors
/// [`InvalidField`] for a malformed topic or an unknown removal.
pub fn decode_removal(
    request: peer::RemoveTopicRequest,
) -> Result<(Topic, TopicRemoval), InvalidField> {
    let removal = match request.removal() {
        peer::TopicRemoval::Purge => TopicRemoval::Purge,
        peer::TopicRemoval::Delete => TopicRemoval::Delete,
        peer::TopicRemoval::Unspecified => return Err(InvalidField::missing("removal")),
    };
    Ok((decode_topic("topic", &request.topic)?, removal))
}

impl From<peer::RemoveTopicResponse> for RemovedMessages {
    fn from(response: peer::RemoveTopicResponse) -> RemovedMessages {
        RemovedMessages { count: response.messages, bytes: response.bytes }
    }
}

impl From<TopicQuery> for pb::TopicsRequest {
    fn from(query: TopicQuery) -> pb::TopicsRequest {
        let TopicQuery { prefix, after, count_max } = query;
        pb::TopicsRequest { prefix, after: after.map_or_else(String::new, Into::into), count_max }
    }
}

impl TryFrom<pb::TopicsRequest> for TopicQuery {
    type Error = InvalidField;

    fn try_from(request: pb::TopicsRequest) -> Result<TopicQuery, InvalidField> {
        let pb::TopicsRequest { prefix, after, count_max } = request;
        let after = (!after.is_empty()).then(|| decode_topic("after", &after)).transpose()?;
        Ok(TopicQuery { prefix, after, count_max })
    }
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
    fn topic_query_round_trips() {
        for after in [None, Some(Topic::new("chat/7").expect("valid"))] {
            let query = TopicQuery { prefix: "chat/".to_owned(), after, count_max: 9 };
            assert_eq!(TopicQuery::try_from(pb::TopicsRequest::from(query.clone())), Ok(query));
        }
        let invalid = pb::TopicsRequest { after: "a//b".to_owned(), ..Default::default() };
        assert_eq!(TopicQuery::try_from(invalid).map_err(|error| error.field), Err("after"));
    }

    #[test]
    fn removal_round_trips_and_an_unknown_one_is_refused() {
        let topic = Topic::new("chat/7").expect("valid");
        for removal in [TopicRemoval::Purge, TopicRemoval::Delete] {
            let request = removal_request(topic.clone(), removal);
            assert_eq!(decode_removal(request), Ok((topic.clone(), removal)));
        }
        let unknown = peer::RemoveTopicRequest { topic: topic.into(), removal: 7 };
        assert_eq!(decode_removal(unknown).map_err(|error| error.field), Err("removal"));
    }

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
