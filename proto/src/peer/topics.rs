//! Conversion of the responses of `TopicsService`, which have the same content as those of the cluster
//! service.

use crate::InvalidField;
use crate::cluster::{TopicInfo, TopicList};
use crate::pb::cluster::v1 as cluster;
use crate::pb::peer::v1 as pb;

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
        let cluster::TopicsResponse { topics, unknown_shards } = list.into();
        pb::TopicsResponse { topics, unknown_shards }
    }
}

impl TryFrom<pb::TopicsResponse> for TopicList {
    type Error = InvalidField;

    fn try_from(response: pb::TopicsResponse) -> Result<TopicList, InvalidField> {
        let pb::TopicsResponse { topics, unknown_shards } = response;
        cluster::TopicsResponse { topics, unknown_shards }.try_into()
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{NodeId, Position, ShardId, Topic};

    use super::*;

    #[test]
    fn topic_info_and_list_round_trip() {
        let info = TopicInfo {
            topic: Topic::new("chat/7").expect("valid"),
            shard: ShardId(3),
            owner: NodeId(2),
            head: Position::new(12, 4_051),
            history_count: 1_000,
            history_bytes: 65_536,
            audience: Some(41_877),
        };
        let list = TopicList { topics: vec![info.clone()], unknown_shards: vec![ShardId(7)] };
        assert_eq!(TopicList::try_from(pb::TopicsResponse::from(list.clone())), Ok(list));
        assert_eq!(TopicInfo::try_from(pb::TopicResponse::from(info.clone())), Ok(info));
        assert!(TopicInfo::try_from(pb::TopicResponse::default()).is_err());
    }
}
