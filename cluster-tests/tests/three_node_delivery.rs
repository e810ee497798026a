//! Set-up: three nodes, each with subscribers by WebSocket, QUIC and gRPC, and one that reads raw frames.
//! Fault: none.
//! Claim: every message reaches every subscriber of every node, once and in order, independent of the topic's
//! owner.

use std::collections::BTreeSet;

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, WebSocketClient, secs};
use pushonce_core::StartFrom;

#[tokio::test(flavor = "multi_thread")]
async fn every_viewer_of_every_node_receives_each_message() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    one_topic_reaches_every_viewer(&cluster).await;
    topics_of_every_owner_reach_every_node(&cluster).await;
}

async fn one_topic_reaches_every_viewer(cluster: &ProcessCluster) {
    let mut viewers = cluster.subscribers("game/7", StartFrom::Now).await;
    let mut sockets = Vec::new();
    for i in cluster.running_nodes() {
        let mut socket = WebSocketClient::open(cluster.node(i).ports.http, "").await;
        socket.subscribe("game/7").await;
        sockets.push(socket);
    }

    let log = cluster.publish_numbers(0, "game/7", 0..50).await;

    let offsets: Vec<_> = log.iter().map(|(position, _)| position.offset.0).collect();
    assert_eq!(offsets, Vec::from_iter(1..=50), "the first messages of a topic");
    for viewer in &mut viewers {
        assert_eq!(viewer.next_messages(50, secs(5)).await, log);
    }
    for socket in &mut sockets {
        assert_eq!(socket.next_messages(50).await, log);
    }
}

async fn topics_of_every_owner_reach_every_node(cluster: &ProcessCluster) {
    let mut owners = BTreeSet::new();
    for game in 0..12 {
        let topic = format!("cup/{game}");
        owners.insert(cluster.owner_of(&topic).await);
        let log = cluster.publish_numbers(game % 3, &topic, 0..3).await;
        for i in cluster.running_nodes() {
            let mut viewer = cluster.subscriber(i, Transport::Ws, &topic, StartFrom::Start);
            assert_eq!(viewer.next_messages(3, secs(5)).await, log, "{topic} at node {i}");
        }
    }
    assert_eq!(owners, BTreeSet::from([0, 1, 2]), "all three nodes own topics");
}
