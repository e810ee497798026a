//! Set-up: three nodes, and subscribers of one of them by every transport.
//! Fault: the two other nodes are paused (SIGSTOP): their sockets stay open and send nothing. Then they
//! resume.
//! Claim: the subscribers of the remaining node receive a stale notice with the position up to which they are
//! complete; its readiness becomes false with a reason; it rejects reads that it cannot answer. When the
//! other nodes are back, the subscribers receive a live notice and miss no message.

use pushonce_client::Transport;
use pushonce_cluster_tests::{
    ProcessCluster, TestSubscriber, WebSocketClient, http_client, secs, wait_until,
};
use pushonce_core::StartFrom;
use serde_json::Value;

/// The guarantee is five seconds; the machine may be busy with other tests.
const STALE_TIMEOUT: std::time::Duration = secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn subscriber_is_marked_stale_when_its_node_is_isolated_and_live_when_it_is_back() {
    // Enough shards that the node owns some and not others.
    let cluster = ProcessCluster::with_nodes(3).flags(&["--shards", "4"]).start().await;
    // One topic of the node itself and one of another node: it can guarantee neither.
    let isolated = cluster.owner_of("alone/own").await;
    let others: Vec<usize> = (0..3).filter(|&i| i != isolated).collect();
    let mut topics = vec!["alone/own".to_owned()];
    for n in 0.. {
        let topic = format!("alone/{n}");
        if cluster.owner_of(&topic).await != isolated {
            topics.push(topic);
            break;
        }
    }
    let mut viewers = Vec::new();
    for topic in &topics {
        let log = cluster.publish_numbers(isolated, topic, 0..3).await;
        let last = log.last().expect("three messages").0;
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let server = cluster.server_address(isolated, transport);
            let mut viewer = TestSubscriber::new(vec![server], transport, topic, StartFrom::Start);
            assert_eq!(viewer.next_messages(3, secs(10)).await, log);
            viewers.push((viewer, topic, last));
        }
    }
    let mut socket = WebSocketClient::open(cluster.ports(isolated).http, "").await;
    socket.subscribe(&topics[1]).await;
    socket.next_messages(3).await;
    let http = cluster.ports(isolated).http;
    wait_ready(&cluster, isolated).await;

    others.iter().for_each(|&i| cluster.node(i).pause());
    for (viewer, topic, last) in &mut viewers {
        assert_eq!(viewer.wait_stale(STALE_TIMEOUT).await, *last, "{topic}");
    }
    let frame = next_event(&mut socket).await;
    assert_eq!(frame["stale"]["topic"], topics[1].as_str(), "{frame}");
    let reason = wait_until("the node is not ready", STALE_TIMEOUT, async || {
        let ready = readiness(&cluster, isolated).await;
        if ready["ready"] == false { Ok(ready["because"].to_string()) } else { Err("ready".into()) }
    })
    .await;
    assert!(reason.contains("cannot commit") || reason.contains("control group"), "{reason}");
    assert_eq!(
        http_client::get(http, "/health/live", &[]).await.expect("the node answers").status,
        200
    );
    let newest =
        http_client::get(http, &format!("/topics/{}", topics[1]), &[]).await.expect("a response");
    assert_eq!(newest.status, 503, "the newest message is unknown to the node: {newest:?}");

    others.iter().for_each(|&i| cluster.node(i).resume());
    for (viewer, ..) in &mut viewers {
        viewer.wait_live(secs(30)).await;
    }
    let frame = next_event(&mut socket).await;
    assert_eq!(frame["live"]["topic"], topics[1].as_str(), "{frame}");
    wait_ready(&cluster, isolated).await;
    for topic in &topics {
        let log = cluster.publish_numbers(others[0], topic, 3..5).await;
        for (viewer, ..) in viewers.iter_mut().filter(|(_, viewer_topic, _)| *viewer_topic == topic)
        {
            assert_eq!(viewer.next_messages(2, secs(10)).await, log);
        }
    }
}

/// The next frame that is not a heartbeat.
async fn next_event(socket: &mut WebSocketClient) -> Value {
    loop {
        let frame = socket.next_frame().await.expect("the session stays open");
        if frame["heartbeat"].is_null() {
            return frame;
        }
    }
}

async fn wait_ready(cluster: &ProcessCluster, i: usize) {
    wait_until("the node is ready", secs(30), async || {
        let ready = readiness(cluster, i).await;
        if ready["ready"] == true { Ok(()) } else { Err(ready["because"].to_string()) }
    })
    .await;
}

async fn readiness(cluster: &ProcessCluster, i: usize) -> Value {
    http_client::get(cluster.ports(i).http, "/health/ready", &[])
        .await
        .expect("the node answers")
        .json()
}
