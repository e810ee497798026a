//! Set-up: three nodes; on each of them viewers by WebSocket, QUIC and gRPC, and one that reads the
//! frames off the wire.
//! Fault: none.
//! Claim: what is published once reaches every viewer of every node, once and in order, whichever
//! node owns the topic.

use std::collections::BTreeSet;

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Socket, secs};
use pushonce_core::From;

#[tokio::test(flavor = "multi_thread")]
async fn every_viewer_of_every_node_has_it() {
    let cluster = Cluster::of(3).start().await;
    one_topic_reaches_every_viewer(&cluster).await;
    a_topic_of_every_owner_reaches_every_node(&cluster).await;
}

async fn one_topic_reaches_every_viewer(cluster: &Cluster) {
    let mut viewers = cluster.viewers("game/7", From::Now).await;
    let mut sockets = Vec::new();
    for i in cluster.running() {
        let mut socket = Socket::open(cluster.node(i).ports.http, "").await;
        socket.subscribe("game/7").await;
        sockets.push(socket);
    }

    let log = cluster.publish(0, "game/7", 0..50).await;

    let offsets: Vec<_> = log.iter().map(|(position, _)| position.offset.0).collect();
    assert_eq!(offsets, Vec::from_iter(1..=50), "the first messages of a topic");
    for viewer in &mut viewers {
        assert_eq!(viewer.messages(50, secs(5)).await, log);
    }
    for socket in &mut sockets {
        assert_eq!(socket.messages(50).await, log);
    }
}

async fn a_topic_of_every_owner_reaches_every_node(cluster: &Cluster) {
    let mut owners = BTreeSet::new();
    for game in 0..12 {
        let topic = format!("cup/{game}");
        owners.insert(cluster.owner(&topic).await);
        let log = cluster.publish(game % 3, &topic, 0..3).await;
        for i in cluster.running() {
            let mut viewer = cluster.viewer(i, Transport::Ws, &topic, From::Start);
            assert_eq!(viewer.messages(3, secs(5)).await, log, "{topic} at node {i}");
        }
    }
    assert_eq!(owners, BTreeSet::from([0, 1, 2]), "all three nodes own topics");
}
