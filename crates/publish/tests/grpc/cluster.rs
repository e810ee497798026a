//! `ClusterService`: status, topics, members, namespaces.

use pushonce_core::{NamespaceChange, Namespaces};
use pushonce_proto::cluster::TopicInfo;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::pb::cluster::v1::{
    CreateJoinTokenRequest, DrainRequest, ExplainRequest, JoinTokensRequest, NamespacesRequest,
    PurgeTopicRequest, RemoveRequest, RevokeJoinTokenRequest, SetNamespaceRequest, StatusRequest,
    TopicRequest, TopicsRequest, UndrainRequest,
};
use tonic::Code;

use super::{LIVE, TestServer, live_topic};

#[tokio::test]
async fn status_and_explain_return_cluster_and_topic_placement() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let status = cluster.status(StatusRequest {}).await.expect("a reply").into_inner();
    assert_eq!((status.node_id, status.version, status.placement_version), (1, 9, 4));
    assert_eq!(status.shards.len(), 16);
    let problems: Vec<_> = status.problems.iter().map(|p| (&*p.severity, &*p.kind)).collect();
    assert_eq!(problems, [("degraded", "too_few_copies")]);
    assert!(status.shards.iter().all(|shard| shard.owner == 1 && !shard.moving));
    let topic = "football/final".to_owned();
    let explained = cluster.explain(ExplainRequest { topic }).await.expect("a reply").into_inner();
    assert_eq!((explained.shard, explained.owner, explained.wanted), (9, 1, vec![1]));
    let rejected = cluster.explain(ExplainRequest { topic: "/".to_owned() }).await;
    assert_eq!(rejected.expect_err("rejected").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn topic_and_topics_return_topic_info() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let info = cluster.topic(TopicRequest { topic: LIVE.to_owned() }).await.expect("a reply");
    assert_eq!(TopicInfo::try_from(info.into_inner()), Ok(live_topic()));
    for (topic, code) in [("a", Code::Unavailable), ("a//b", Code::InvalidArgument)] {
        let rejected = cluster.topic(TopicRequest { topic: topic.to_owned() }).await;
        assert_eq!(rejected.expect_err(topic).code(), code);
    }
    for (after, found) in [("", 1), (LIVE, 0)] {
        let (prefix, after) = ("worldcup/".to_owned(), after.to_owned());
        let listed = cluster.topics(TopicsRequest { prefix, after, count_max: 9_999 }).await;
        let listed = listed.expect("a reply").into_inner();
        assert_eq!((listed.topics.len(), listed.unknown_shards), (found, vec![3]));
    }
}

#[tokio::test]
async fn purge_returns_what_it_removed_and_names_a_bad_topic() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let purge = |topic: &str| PurgeTopicRequest { topic: topic.to_owned() };
    let removed = cluster.purge_topic(purge(LIVE)).await.expect("purged").into_inner();
    assert_eq!((removed.messages, removed.bytes), (1, 5));
    for (topic, code) in [("a//b", Code::InvalidArgument), ("chat/7", Code::Unavailable)] {
        let rejected = cluster.purge_topic(purge(topic)).await;
        assert_eq!(rejected.expect_err(topic).code(), code);
    }
}

#[tokio::test]
async fn join_token_is_shown_once_and_revoked_by_its_id() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let request = CreateJoinTokenRequest { validity_ms: 5 };
    let made = cluster.create_join_token(request).await.expect("made").into_inner();
    let status = made.status.expect("a status");
    assert_eq!((made.token.as_str(), status.id.as_str()), ("secret", "0000000000000007"));
    assert_eq!((status.expires_ms, status.used_by), (5, 0));
    let listed = cluster.join_tokens(JoinTokensRequest {}).await.expect("a reply");
    assert!(listed.into_inner().tokens.is_empty(), "the fake node stores none");
    let revoke = |id: &str| RevokeJoinTokenRequest { id: id.to_owned() };
    cluster.revoke_join_token(revoke(&status.id)).await.expect("revoked");
    let malformed = cluster.revoke_join_token(revoke("n7")).await.expect_err("no id");
    assert_eq!(malformed.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn drain_and_remove_return_the_reason_for_a_rejection() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    cluster.drain(DrainRequest { node: 2, force: false }).await.expect("accepted");
    cluster.undrain(UndrainRequest { node: 2 }).await.expect("accepted");
    cluster.drain(DrainRequest { node: 1, force: true }).await.expect("accepted");
    let last = cluster.drain(DrainRequest { node: 1, force: false }).await.expect_err("rejected");
    assert_eq!((last.code(), last.message()), (Code::FailedPrecondition, "n1 is the last"));
    let held = cluster.remove(RemoveRequest { node: 2, force: false }).await.expect_err("rejected");
    assert_eq!((held.code(), held.message()), (Code::FailedPrecondition, "n2 holds s3"));
    cluster.remove(RemoveRequest { node: 2, force: true }).await.expect("accepted");
    let status = cluster.status(StatusRequest {}).await.expect("a reply").into_inner();
    let shard = &status.shards[3];
    assert_eq!((shard.progress.as_str(), shard.progress_node), ("n2 is to lead", 2));
}

#[tokio::test]
async fn namespace_settings_are_changed_and_returned() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let change = NamespaceChange { history_count_max: Some(3), ..NamespaceChange::default() };
    let set = |name: Option<&str>, change: NamespaceChange| SetNamespaceRequest {
        name: name.map(str::to_owned),
        change: Some(change.into()),
        force: false,
    };
    let reply = cluster.set_namespace(set(Some("chat"), change)).await.expect("accepted");
    let settings = reply.into_inner().settings.expect("settings");
    assert_eq!((settings.history_count_max, settings.history_bytes_max), (3, 1 << 20));

    let namespaces = cluster.namespaces(NamespacesRequest {}).await.expect("a reply").into_inner();
    assert_eq!(Namespaces::try_from(namespaces), Ok(super::namespaces()));

    let over = NamespaceChange { payload_bytes_max: Some(2 << 20), ..change };
    for (invalid, code) in [
        (set(None, over), Code::InvalidArgument),
        (set(Some("one more"), change), Code::FailedPrecondition),
        (set(Some("later"), change), Code::Unavailable),
        (set(Some("stored"), change), Code::FailedPrecondition),
    ] {
        let status = cluster.set_namespace(invalid).await.expect_err("rejected");
        assert_eq!(status.code(), code, "{status:?}");
    }
    let forced = SetNamespaceRequest { force: true, ..set(Some("stored"), change) };
    cluster.set_namespace(forced).await.expect("accepted");
}
