//! Set-up: three nodes, and subscribers of one of them by every transport.
//! Fault: the two others are stopped where they stand (SIGSTOP): their sockets stay open, and nothing
//! comes out of them. Then they go on.
//! Claim: the subscribers of the node that is left are told that it has lost touch, and up to where
//! they have everything; its readiness turns false and says why; what it cannot know it does not
//! answer. When the others are back, subscribers are told so and miss nothing.

use pushonce_client::Transport;
use pushonce_cluster_tests::{
    ProcessCluster, TestSubscriber, WebSocketClient, http_client, secs, wait_until,
};
use pushonce_core::StartFrom;
use serde_json::Value;

/// The promise is five seconds; the machine of a story may be busy with others.
const STALE_TIMEOUT: std::time::Duration = secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn subscriber_is_marked_stale_when_its_node_is_isolated_and_live_when_it_is_back() {
    // Enough for the node to own some and not others.
    let cluster = ProcessCluster::with_nodes(3).flags(&["--shards", "4"]).start().await;
    // Owned by others and by the node itself: it cannot vouch for either.
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
        let last = log.last().expect("three").0;
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
    assert_eq!(http_client::get(http, "/health/live", &[]).await.expect("it lives").status, 200);
    let newest =
        http_client::get(http, &format!("/topics/{}", topics[1]), &[]).await.expect("an answer");
    assert_eq!(newest.status, 503, "it does not know what is newest: {newest:?}");

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

/// The next frame that is no heartbeat: those may come at any time.
async fn next_event(socket: &mut WebSocketClient) -> Value {
    loop {
        let frame = socket.next_frame().await.expect("the session goes on");
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
    http_client::get(cluster.ports(i).http, "/health/ready", &[]).await.expect("it answers").json()
}
