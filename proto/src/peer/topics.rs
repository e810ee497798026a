//! The messages of `TopicsService` have the same content as those of the cluster service, and the same
//! conversion. They are separate messages because a request and a response belong to one method.

use crate::InvalidField;
use crate::cluster::{TopicInfo, TopicList, TopicQuery};
use crate::pb::cluster::v1 as cluster;
use crate::pb::peer::v1 as pb;

impl From<TopicQuery> for pb::TopicsRequest {
    fn from(query: TopicQuery) -> pb::TopicsRequest {
        let cluster::TopicsRequest { prefix, after, count_max } = query.into();
        pb::TopicsRequest { prefix, after, count_max }
    }
}

impl TryFrom<pb::TopicsRequest> for TopicQuery {
    type Error = InvalidField;

    fn try_from(request: pb::TopicsRequest) -> Result<TopicQuery, InvalidField> {
        let pb::TopicsRequest { prefix, after, count_max } = request;
        cluster::TopicsRequest { prefix, after, count_max }.try_into()
    }
}

impl From<TopicInfo> for pb::TopicResponse {
    fn from(info: TopicInfo) -> pb::TopicResponse {
        let cluster::TopicResponse { topic } = info.into();
        pb::TopicResponse { topic }
    }
}

impl TryFrom<pb::TopicResponse> for TopicInfo {
    type Error = InvalidField;

    fn try_from(response: pb::TopicResponse) -> Result<TopicInfo, InvalidField> {
        cluster::TopicResponse { topic: response.topic }.try_into()
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
