//! Set-up: three nodes, subscribers on all of them by WebSocket, QUIC and gRPC.
//! Fault: none.
//! Claim: independent of the node and the protocol of a publish, every subscriber receives the same messages
//! at the same positions, which are the positions in the acknowledgements.

use pushonce_cluster_tests::{
    ProcessCluster, ReceivedMessage, WebSocketClient, http_client, secs, text_message,
};
use pushonce_core::{Position, StartFrom};

const TOPIC: &str = "game/7";

#[tokio::test(flavor = "multi_thread")]
async fn messages_published_through_any_node_and_protocol_reach_every_viewer() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let mut viewers = cluster.subscribers(TOPIC, StartFrom::Now).await;

    let mut log = Vec::new();
    for i in cluster.running_nodes() {
        log.extend(publish_through_every_protocol(&cluster, i).await);
    }

    for viewer in &mut viewers {
        assert_eq!(viewer.next_messages(log.len(), secs(5)).await, log);
    }
    for i in cluster.running_nodes() {
        check_newest_over_http(&cluster, i, &log).await;
    }
}

async fn publish_through_every_protocol(
    cluster: &ProcessCluster,
    i: usize,
) -> Vec<ReceivedMessage> {
    let mut log = Vec::new();
    let line = |protocol| format!("{protocol} of node {i}");

    let unary = line("unary");
    let acknowledgement =
        cluster.publisher(i).publish(text_message(TOPIC, &unary)).await.expect("acknowledged");
    log.push((acknowledgement.position, unary));

    let streamed = line("stream");
    let mut stream = cluster.publisher(i).stream().await.expect("open a stream");
    let answer = stream.send(text_message(TOPIC, &streamed)).await.expect("send");
    log.push((answer.await.expect("acknowledged").position, streamed));

    let posted = line("post");
    let http = cluster.node(i).ports.http;
    let answer = http_client::post(http, &format!("/topics/{TOPIC}"), posted.as_bytes()).await;
    let answer = answer.expect("a response");
    assert_eq!(answer.status, 200, "{answer:?}");
    log.push((position(answer.json()["position"].as_str()), posted));

    let framed = line("frame");
    let mut socket = WebSocketClient::open(http, "").await;
    let request = format!(r#"{{"id":4,"publish":{{"topic":"{TOPIC}","data":"{framed}"}}}}"#);
    let answer = socket.request(&request).await;
    assert_eq!(answer["id"], 4, "{answer}");
    log.push((position(answer["published"]["position"].as_str()), framed));
    log
}

async fn check_newest_over_http(cluster: &ProcessCluster, i: usize, log: &[ReceivedMessage]) {
    let http = cluster.node(i).ports.http;
    let (position, newest) = log.last().expect("at least one message was published");
    let path = format!("/topics/{TOPIC}");

    let answer = http_client::get(http, &path, &[]).await.expect("a response");
    assert_eq!((answer.status, &answer.body), (200, newest));
    assert_eq!(answer.header("pushonce-position"), Some(position.to_string().as_str()));

    let etag = answer.header("etag").expect("an ETag");
    let cached = http_client::get(http, &path, &[&format!("if-none-match: {etag}")]).await;
    assert_eq!(cached.expect("a response").status, 304);

    let all = http_client::get(http, &format!("{path}?last={}", log.len()), &[])
        .await
        .expect("a response");
    let all = all.json();
    let texts = all.as_array().expect("a list").iter().map(|frame| &frame["message"]["data"]);
    assert!(texts.eq(log.iter().map(|(_, text)| text)), "{all}");
}

fn position(text: Option<&str>) -> Position {
    text.and_then(|text| text.parse().ok()).expect("a position")
}
